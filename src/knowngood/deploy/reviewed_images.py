"""Reviewed images as a set of images with labels, masks and conditions, as they are learned from."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from knowngood.data import ImageSet
from knowngood.data.pixel_source import FilePixels
from knowngood.data.readers.limits import Limits
from knowngood.deploy.judged_store import JudgedStore
from knowngood.errors import DataError


class Reviewed(NamedTuple):
    """N images that were reviewed as good or as a defect, each content once, by its latest review.

    images: labels 0 and 1, masks of the regions that were drawn, the conditions that were given. sampled: (N,) bool, of
    the random sample. latest: the number of the latest review, of any model; 0 without any.
    """

    images: ImageSet
    sampled: np.ndarray
    latest: int


def reviewed_images(store: JudgedStore, model: str, limits: Limits | None = None) -> Reviewed:
    """The reviewed images of a model; their files live as long as the set does.

    Args:
        model: the name by which it judged. Where the store knows one model alone it is that one.

    Raises:
        DataError: nothing of it was reviewed as good or as a defect.
    """
    model = model_in(store, model)
    owner = tempfile.TemporaryDirectory(prefix="knowngood-")
    sample, latest = set(store.sampled(model)), store.last_review()  # before they are read: a later one is new again
    of_content: dict[bytes, dict[str, Any]] = {}
    for record in store.reviewed():
        if record["model"] != model or record["flagged"] is None:
            continue
        if record["review"] not in ("good", "defect"):
            continue
        picture = record.pop("bytes")
        content = hashlib.sha256(picture).digest()
        before = of_content.get(content)
        if before is None:
            record["path"] = Path(owner.name, f"{record['number']:06d}{record['suffix']}")
            record["path"].write_bytes(picture)
        else:
            record["path"] = before["path"]
        both = [record] if before is None else [before, record]
        sampled = any(one["number"] in sample or one.get("sampled") for one in both)
        of_content[content] = max(both, key=lambda one: one["review_number"]) | {"sampled": sampled}
    records = list(of_content.values())
    if not records:
        raise _nothing(store, model)
    columns = dict.fromkeys(name for one in records for name in one["conditions"])
    images = ImageSet(
        FilePixels(tuple(one["path"] for one in records), limits, owner),
        np.array([f"reviewed/{one['number']:06d}-{Path(one['id']).name}" for one in records]),
        np.array([float(one["review"] == "defect") for one in records]),
        {name: np.array([one["conditions"].get(name) for one in records], dtype=object) for name in columns},
        masks=tuple(_mask(one) for one in records),
        name=f"reviews in {store.folder}",
    )
    return Reviewed(images, np.array([one["sampled"] for one in records]), latest)


def check_reviewed(store: JudgedStore, model: str) -> None:
    """Raise DataError, as `reviewed_images`, if nothing of a model was reviewed as good or as a defect."""
    model = model_in(store, model)
    if not store.count_reviews(model):
        raise _nothing(store, model)


def _nothing(store: JudgedStore, model: str) -> DataError:
    return DataError(
        f"{store.folder}: nothing that '{model}' judged was reviewed as good or as a defect yet; review images on "
        "the page of `knowngood serve`, or by `knowngood review MODEL IMAGE --as VERDICT`"
    )


def new_reviews(store: JudgedStore, model: str, learned: Mapping[str, Any] | None) -> int:
    """How many images of a model have a review that a version does not know, which `learned` from earlier ones."""
    return store.count_reviews(model_in(store, model), after=0 if learned is None else learned["latest"])


def model_in(store: JudgedStore, model: str) -> str:
    """The name by which a model judged."""
    names = store.models()
    if model in names or len(names) == 1:
        return model if model in names else names[0]
    known = f"it holds those of {', '.join(names)}" if names else "it holds none"
    raise DataError(f"{store.folder}: no image that a model '{model}' judged; {known}")


def _mask(record: dict[str, Any]) -> Callable[[], np.ndarray] | None:
    """What draws the mask of a defect of which regions were drawn."""
    boxes = record["drawn"] if record["review"] == "defect" else None
    return partial(_drawn, boxes, (record["height"], record["width"])) if boxes else None


def _drawn(boxes: list[tuple[int, int, int, int]], size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask
