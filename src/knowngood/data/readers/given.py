"""What a program may hand over beside arrays: pictures of Pillow, lists of pictures or of paths, frames of paths."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from knowngood.data.findings import Finding, printable
from knowngood.data.imageset import ImageSet, channels_last
from knowngood.data.itemset import numbered
from knowngood.data.pixel_source import ArrayPixels, FilePixels, ListPixels
from knowngood.data.readers.manifest import existing, path_column, read_frame
from knowngood.data.readers.raster import picture
from knowngood.errors import DataError

SMALLEST = 8  # pixels of a side from which on (H, W, 3) is a picture


def listed(X: Any) -> Any:
    """Iterators, Series and arrays of text as lists, all else as it is."""
    if isinstance(X, Iterator):
        return list(X)
    text = getattr(X, "dtype", None) is not None and getattr(X, "ndim", 0) == 1 and not hasattr(X, "detach")
    return X.tolist() if text and len(X) and isinstance(X[0] if isinstance(X, np.ndarray) else X.iloc[0], str) else X


def holds_images(X: Any) -> bool:
    """Whether X, once `listed`, stands for images; a table otherwise.

    Raises:
        DataError: an empty list.
    """
    if isinstance(X, (str, os.PathLike, ImageSet, Image.Image)):
        return True
    if isinstance(X, (list, tuple)):
        if not X:
            raise DataError(f"{X!r} holds no image and no row; expected at least one")
        return isinstance(X[0], (str, os.PathLike, Image.Image)) or np.ndim(X[0]) > 1
    if hasattr(X, "columns"):
        key = path_column(X.columns)
        return key is not None and len(X) > 0 and isinstance(X[key].iloc[0], (str, os.PathLike))
    return getattr(X, "ndim", 2) > 2


def read_given(X: Any) -> ImageSet | None:
    """Images of a picture, a list or a frame; None for what is an array, or nothing known.

    Raises:
        DataError: kinds that are mixed, a file twice, no file that exists.
    """
    if isinstance(X, Image.Image):
        return _pictures([X])
    if hasattr(X, "columns"):
        return read_frame(X)
    if isinstance(X, np.ndarray) and X.ndim == 3 and X.shape[2] in (3, 4) and min(X.shape[:2]) >= SMALLEST:
        return ImageSet.from_arrays(X[None])
    if not isinstance(X, (list, tuple)):
        return None
    files = [isinstance(one, (str, os.PathLike)) for one in X]
    if any(files) and not all(files):
        where = files.index(not files[0])
        raise DataError(f"the list holds paths and pictures: item 0 is {X[0]!r:.60}, item {where} is {X[where]!r:.60}")
    return _paths(list(X)) if files[0] else _pictures(X)


def _paths(given: Sequence[Any]) -> ImageSet:
    names = [os.fspath(one) for one in given]
    files = [existing(Path.cwd(), os.path.expanduser(name)) for name in names]
    rejected = []
    for i, (name, file) in enumerate(zip(names, files, strict=True)):
        if file is None:
            folder = os.path.isdir(name)
            why = "is a folder; give it alone, not in a list" if folder else f"does not exist (item {i} of the list)"
            rejected.append(Finding(printable(name), "missing", why, "error"))
    kept = [i for i, file in enumerate(files) if file is not None]
    if not kept:
        raise DataError(f"no file of the list exists (of {len(names):,}); {rejected[0]}")
    ids = [printable(names[i]) for i in kept]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"'{twice}' occurs {ids.count(twice)} times in the list; expected each file once")
    pixels = FilePixels(tuple(files[i] for i in kept))  # type: ignore[arg-type]
    return ImageSet(pixels, np.array(ids), np.full(len(ids), np.nan), {}, name="list", rejected=tuple(rejected))


def _pictures(given: Sequence[Any]) -> ImageSet:
    images = [_picture(one, i) for i, one in enumerate(given)]
    alike = len({(image.shape, image.dtype) for image in images}) == 1
    pixels = ArrayPixels(np.stack(images)) if alike else ListPixels(images)
    return ImageSet(pixels, numbered(len(images)), np.full(len(images), np.nan), {}, name="list")


def _picture(one: Any, i: int) -> np.ndarray:
    """(H, W, C) of a Pillow image, an array (H, W) or (H, W, C), or a torch tensor (H, W) or (C, H, W)."""
    if isinstance(one, Image.Image):
        return picture(one)
    tensor = hasattr(one, "detach")
    array = np.asarray(one.detach().cpu() if tensor else one)
    if array.ndim not in (2, 3) or array.dtype.kind not in "buif" or 0 in array.shape:
        raise DataError(
            f"item {i} of the list is a {type(one).__name__} of shape {array.shape} and dtype {array.dtype}; expected "
            "a picture (H, W) or (H, W, C) of numbers"
        )
    if tensor and channels_last(array.shape):
        raise DataError(
            f"item {i} of the list is a tensor of shape {array.shape}, which seems to be channels-last; one picture is "
            "(C, H, W): pass tensor.permute(2, 0, 1)"
        )
    if tensor and array.ndim == 3:
        array = array.transpose(1, 2, 0)
    return ImageSet.from_arrays(array.reshape(1, *array.shape[:2], -1)).read(0)
