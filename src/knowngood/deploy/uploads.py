"""The images of a request: a multipart form as files in a temporary folder, and what is asked for of them."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fastapi import HTTPException, UploadFile
from starlette.datastructures import FormData, QueryParams

from knowngood.config import counted, nearest
from knowngood.config.words import as_share
from knowngood.data import ImageSet
from knowngood.data.findings import printable
from knowngood.data.itemset import numbered
from knowngood.data.pixel_source import FilePixels
from knowngood.data.readers.files import SUFFIXES
from knowngood.data.readers.limits import Limits
from knowngood.deploy.judgement import Asked
from knowngood.deploy.views import ShownPixels

OPTIONS = ("model", "conditions", "alpha", "unknown", "maps")
WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, eq=False)
class Upload:
    """The images of a request, and their names."""

    images: ImageSet
    names: list[str]
    folder: tempfile.TemporaryDirectory[str]

    def close(self) -> None:
        """Remove the files."""
        self.folder.cleanup()


class Form(NamedTuple):
    """The fields of a request, checked."""

    files: list[UploadFile]
    model: str | None
    conditions: dict[str, Any]
    asked: Asked


def read_form(form: FormData, query: QueryParams, *, explain: bool) -> Form:
    """The files and options of a form; options may also stand in the query.

    Raises:
        HTTPException: 422, a field is unknown or wrong; the message names it.
    """
    files, options = [], dict(query)
    for name, value in form.multi_items():
        if isinstance(value, str) and name in ("images", "image"):
            raise refused(f"the field '{name}' holds text; expected a file: curl -F {name}=@FILE")
        if isinstance(value, str):
            options[name] = value
        elif name in ("images", "image"):
            files.append(value)
        else:
            raise refused(f"unknown file field '{name}'; give images in the field 'images'")
    for name in options:
        if name not in OPTIONS:
            raise refused(f"unknown field '{name}'{nearest(name, ['images', *OPTIONS])}")
    if not files:
        raise refused("no image; give one or more files in the field 'images': curl -F images=@FILE")
    unknown: Any = options.get("unknown")
    if unknown not in (None, "error", "infer"):
        raise refused(f"unknown = '{unknown}'; expected error or infer")
    asked = Asked(_alpha(options.get("alpha")), unknown, _flag("maps", options.get("maps", "false")), explain)
    return Form(files, options.get("model"), _conditions(options.get("conditions"), len(files)), asked)


def uploaded(form: Form, limits: Limits, *, shown: bool = False) -> Upload:
    """The files of a form as images in a temporary folder. Their names are kept, but name no file here.

    Args:
        limits: of a picture. shown: they are kept or shown, see `ShownPixels`.
    """
    folder = tempfile.TemporaryDirectory(prefix="knowngood-")
    paths, names = [], []
    for i, file in enumerate(form.files):
        suffix = Path(file.filename or "").suffix.lower()
        path = Path(folder.name, f"{i}{suffix if suffix in SUFFIXES else ''}")
        with path.open("wb") as copy:
            shutil.copyfileobj(file.file, copy)
        paths.append(path)
        names.append(printable(file.filename or str(i)))
    n, pixels = len(names), (ShownPixels if shown else FilePixels)(tuple(paths), limits)
    images = ImageSet(pixels, numbered(n), np.full(n, np.nan), form.conditions, name="upload")
    return Upload(images, names, folder)


def refused(message: str, status: int = 422) -> HTTPException:
    """What is wrong with a request, for its sender."""
    return HTTPException(status, message)


def _alpha(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        hint = as_share(text) or ", such as 0.05"
        raise refused(f"alpha = '{text:.40}'; expected a false-alarm rate between 0 and 1{hint}")
    return value


def _flag(name: str, text: str) -> bool:
    if text.lower() not in WORDS:
        raise refused(f"{name} = '{text:.40}'; expected true or false")
    return WORDS[text.lower()]


def _conditions(text: str | None, n: int) -> dict[str, Any]:
    """(n,) values by column, of a JSON object with one value for all images or a list of values, one an image."""
    shown = 'a JSON object such as {"camera": "B"} or, with one value an image, {"camera": ["A", "B"]}'
    if text is None:
        return {}
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        raise refused(f"conditions = '{text:.80}' is no JSON; expected {shown}") from None
    if not isinstance(given, dict):
        raise refused(f"conditions = '{text:.80}'; expected {shown}")
    columns = {}
    for key, values in given.items():
        name = printable(key)  # JSON may escape half a character, which no answer and no file can hold
        several = values if isinstance(values, list) else [values] * n
        if len(several) != n:
            raise refused(
                f"condition '{name}' has {counted(len(several), 'value')} for {counted(n, 'image')}; expected {shown}"
            )
        if not all(value is None or isinstance(value, (str, int, float)) for value in several):
            raise refused(f"condition '{name}' has a value that is no text or number; expected {shown}")
        texts = [printable(value) if isinstance(value, str) else value for value in several]
        columns[name] = np.array([*texts, None], dtype=object)[:-1]
    return columns
