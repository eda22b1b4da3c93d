"""Judged images by what people call them: an id, a number, or the file itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from knowngood.config import counted, nearest
from knowngood.data.values import listing
from knowngood.deploy.judged_store import Filter, JudgedStore
from knowngood.errors import DataError

NEWEST = 1000  # judged images whose ids are compared with one that is not there


def judgements_named(store: JudgedStore, model: str, names: Iterable[str]) -> list[dict[str, Any]]:
    """The newest judgement of each image by a model, with the review that counts, each once and in order.

    A file that is there is found by its content, whatever its path was when it was judged; another name is an id, or
    else a number.

    Raises:
        DataError: an image was not judged by the model, or one id names different pictures; all are named.
    """
    found: dict[int, dict[str, Any]] = {}
    lacking: list[str] = []
    for name in names:
        one = _named(store, model, name)
        if one is None:
            lacking.append(name)
        else:
            found[one["number"]] = one
    if lacking:
        total, newest = store.page(Filter(model=model), most=NEWEST)
        known = "" if len(lacking) > 1 else nearest(lacking[0], list(dict.fromkeys(str(one["id"]) for one in newest)))
        raise DataError(
            f"{store.folder}: not among the {counted(total, 'image')} judged by {model}: {listing(lacking, most=10)}"
            f"{known}"
        )
    return list(found.values())


def in_words(record: dict[str, Any]) -> str:
    """What a review makes of the verdict; empty for an image that nobody reviewed."""
    words = {("good", 1): "false alarm", ("defect", 1): "true defect", ("defect", 0): "missed defect"}
    return words.get((record["review"], record["flagged"]), record["review"] or "")


def _named(store: JudgedStore, model: str, name: str) -> dict[str, Any] | None:
    path = Path(name)
    if path.is_file():
        return next(iter(store.alike(model, content=path.read_bytes())), None)
    found = store.alike(model, name=name)
    if not found and name.isdecimal() and len(name) < 19:  # more is no number in SQLite
        found = store.alike(model, number=int(name))
    if len({store.picture(one["number"])["bytes"] for one in found}) > 1:
        numbers = listing([str(one["number"]) for one in found], most=10)
        raise DataError(
            f"{store.folder}: {counted(len(found), 'judged image')} of different content have the id {name}; give the "
            f"number of one: {numbers}"
        )
    return found[0] if found else None
