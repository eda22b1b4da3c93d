"""The features of all images of a set, computed once: in memory, or in a memory-mapped file."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np

from knowngood.data.imageset import ImageSet
from knowngood.representations.base import raise_first
from knowngood.representations.features import Features

CHUNK = 64  # images between two calls of `progress`


def cached_features(
    images: ImageSet,
    representation: Features,
    folder: str | Path | None = None,
    *,
    memory_gb: float = 4.0,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """The features of all N images, (N, F, h, w), as `Features.read` gives them; those of a location lie together.

    Args:
        folder: where a file is written if they take more than `memory_gb` GiB; default the system's folder for
            temporary files. The file is deleted with the array.
        workers: threads that read and decode image files.
        progress: called with the number of images done and of all images, after each part.

    Raises:
        DataError: an image cannot be read or does not fit; names the first one.
    """
    in_memory = len(images) * representation.bytes_per_image <= memory_gb * 2**30
    features, height, width = representation.shape
    shape = (len(images), height, width, features)

    def new(dtype: np.dtype) -> np.ndarray:
        return (np.empty(shape, dtype) if in_memory else _in_file(shape, dtype, folder)).transpose(0, 3, 1, 2)

    grids = new(np.dtype(representation.stored))
    for start in range(0, len(images), CHUNK):
        index = np.arange(start, min(start + CHUNK, len(images)))
        part, errors = representation.read(images, index, workers)
        raise_first(images.ids, errors)
        if part.dtype.itemsize > grids.dtype.itemsize:  # a value exceeds float16
            wider = new(part.dtype)
            wider[:start] = grids[:start]
            grids = wider
        grids[index] = part
        if progress is not None:
            progress(int(index[-1]) + 1, len(images))
    return grids


def _in_file(shape: tuple[int, ...], dtype: np.dtype, folder: str | Path | None) -> np.ndarray:
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    own = tempfile.mkdtemp(prefix="features-", dir=folder)
    array = np.lib.format.open_memmap(Path(own) / "features.npy", mode="w+", dtype=dtype, shape=shape)
    weakref.finalize(array, shutil.rmtree, own, ignore_errors=True)
    return array
