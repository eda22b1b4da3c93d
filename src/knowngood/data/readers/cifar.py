"""CIFAR-10 in its binary version (the other one is a pickle): records of one label byte and 3×32×32 pixel bytes."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from knowngood.data.imageset import ImageSet
from knowngood.errors import DataError

ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_BATCHES = {"train": tuple(f"data_batch_{k}.bin" for k in range(1, 6)), "test": ("test_batch.bin",)}
_RECORD = 1 + 3 * 32 * 32


def find_cifar(folders: Iterable[Path]) -> Path | None:
    """The archive, or the folder of unpacked batches, in the first of `folders` that has it."""
    for folder in folders:
        for location in (folder / ARCHIVE, folder / "cifar-10-batches-bin", folder):
            if location.is_file() or (location / "test_batch.bin").is_file():
                return location
    return None


def read_cifar(source: Path, split: str | None = None) -> ImageSet:
    """Images (N, 32, 32, 3) uint8 with splits train and test (or one of them) and the class name as "class".

    Raises:
        DataError: a batch is missing or is not made of whole records, or a label is above 9.
    """
    wanted = {name: files for name, files in _BATCHES.items() if split in (None, name)}
    data = _read_members(source, [file for files in wanted.values() for file in files])
    images, labels, splits = [], [], []
    for name, files in wanted.items():
        for file in files:
            if not data[file] or len(data[file]) % _RECORD:
                raise DataError(f"{source}: {file} has {len(data[file])} bytes; expected a multiple of {_RECORD}")
            records = np.frombuffer(data[file], np.uint8).reshape(-1, _RECORD)
            if records[:, 0].max() > 9:
                raise DataError(f"{source}: {file} has label {records[:, 0].max()}; expected 0 to 9")
            labels.append(records[:, 0])
            images.append(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            splits += [name] * len(records)
    classes = np.array(CIFAR_NAMES)[np.concatenate(labels)]
    found = ImageSet.from_arrays(np.ascontiguousarray(np.concatenate(images)), conditions={"class": classes})
    return found.replace(splits=np.array(splits))


def _read_members(source: Path, files: list[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    if source.is_dir():
        found = {file: (source / file).read_bytes() for file in files if (source / file).is_file()}
    else:
        try:
            with tarfile.open(source, "r:*") as archive:
                for member in archive:
                    stream = archive.extractfile(member) if Path(member.name).name in files else None
                    if stream is not None:
                        found[Path(member.name).name] = stream.read()
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise DataError(f"{source}: damaged archive ({error}); download it again") from None
    missing = [file for file in files if file not in found]
    if missing:
        raise DataError(f"{source}: has no {', '.join(missing)}; expected the binary version of CIFAR-10")
    return found
