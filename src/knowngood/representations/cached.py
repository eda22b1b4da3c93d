"""The features of a whole set, computed once: in memory, or in a file that is read as if it were."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np

from knowngood.data.imageset import ImageSet
from knowngood.errors import DataError
from knowngood.representations.features import Features

AT_ONCE = 64  # images between two reports


def cached_features(
    images: ImageSet,
    representation: Features,
    folder: str | Path | None = None,
    *,
    memory_gb: float = 4.0,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """The features of all N images, (N, F, h, w), as `Features.read` gives them.

    Args:
        folder: where a file is written if they take more than `memory_gb` GiB; default the system's folder for
            temporary files. It goes when the array does.
        workers: threads that read and prepare image files.
        progress: called with the images done and all of them, after each part.

    Raises:
        DataError: an image cannot be read or does not fit; names the first one.
    """
    in_memory = len(images) * representation.bytes_per_image <= memory_gb * 2**30
    shape = (len(images), *representation.shape)

    def new(dtype: np.dtype) -> np.ndarray:
        return np.empty(shape, dtype) if in_memory else _in_file(shape, dtype, folder)

    found = new(np.dtype(representation.stored))
    for start in range(0, len(images), AT_ONCE):
        index = np.arange(start, min(start + AT_ONCE, len(images)))
        part, errors = representation.read(images, index, workers)
        if errors:
            first = min(errors)
            raise DataError(f"{images.ids[first]}: {errors[first]}")
        if part.dtype.itemsize > found.dtype.itemsize:  # beyond float16
            wider = new(part.dtype)
            wider[:start] = found[:start]
            found = wider
        found[index] = part
        if progress is not None:
            progress(int(index[-1]) + 1, len(images))
    return found


def _in_file(shape: tuple[int, ...], dtype: np.dtype, folder: str | Path | None) -> np.ndarray:
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    own = tempfile.mkdtemp(prefix="features-", dir=folder)
    array = np.lib.format.open_memmap(Path(own) / "features.npy", mode="w+", dtype=dtype, shape=shape)
    weakref.finalize(array, shutil.rmtree, own, ignore_errors=True)
    return array
