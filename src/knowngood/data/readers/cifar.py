"""CIFAR-10 in its binary version (the other one is a pickle): records of one label byte and 3×32×32 pixel bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from knowngood.data.imageset import ImageSet, join_splits
from knowngood.data.readers.archive import read_members
from knowngood.errors import DataError

ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_BATCHES = {"train": tuple(f"data_batch_{k}.bin" for k in range(1, 6)), "test": ("test_batch.bin",)}
_RECORD = 1 + 3 * 32 * 32


def read_cifar(source: Path, split: str | None = None) -> ImageSet:
    """Images (N, 32, 32, 3) uint8 with splits train and test (or one of them) and the class name as "class".

    Raises:
        DataError: a batch is missing or is not made of whole records, or a label is above 9.
    """
    wanted = {name: files for name, files in _BATCHES.items() if split in (None, name)}
    every = [file for files in wanted.values() for file in files]
    data = read_members(source, every, "the binary version of CIFAR-10")
    parts = {}
    for name, files in wanted.items():
        records = np.concatenate([_records(data[file], f"{source}: {file}") for file in files])
        images = np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        parts[name] = images, np.array(CIFAR_NAMES)[records[:, 0]]
    return join_splits(parts, "cifar10")


def _records(data: bytes, name: str) -> np.ndarray:
    if not data or len(data) % _RECORD:
        raise DataError(f"{name} has {len(data)} bytes; expected a multiple of {_RECORD}")
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    if records[:, 0].max() > 9:
        raise DataError(f"{name} has label {records[:, 0].max()}; expected 0 to 9")
    return records
