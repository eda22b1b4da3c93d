"""EMNIST in its official form: one zip of gzipped idx files, images stored transposed, labels mapped to characters.

arXiv:1702.05373. The files may also be unpacked in a folder.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from knowngood.data.imageset import ImageSet
from knowngood.data.readers.idx import as_images, check_pair, parse_idx
from knowngood.errors import DataError

ARCHIVES = ("gzip.zip", "emnist.zip")
# part → (about, classes, train images, test images)
EMNIST_PARTS = {
    "byclass": ("handwritten digits, capitals and small letters", 62, 697932, 116323),
    "bymerge": ("as byclass, look-alike letters merged", 47, 697932, 116323),
    "balanced": ("as bymerge, equally many of each", 47, 112800, 18800),
    "letters": ("handwritten letters, capitals and small merged", 26, 124800, 20800),
    "digits": ("handwritten digits, equally many of each", 10, 240000, 40000),
    "mnist": ("handwritten digits, processed like MNIST", 10, 60000, 10000),
}


def find_emnist(part: str, folders: Iterable[Path]) -> Path | None:
    """The archive, or the folder that holds this part's unpacked files, in the first of `folders` that has it."""
    for folder in folders:
        for archive in ARCHIVES:
            if (folder / archive).is_file():
                return folder / archive
        for location in (folder, folder / "gzip"):
            if (location / f"emnist-{part}-train-images-idx3-ubyte.gz").is_file():
                return location
    return None


def read_emnist(source: Path, part: str, split: str | None = None) -> ImageSet:
    """One part of EMNIST, upright, with splits train and test (or one of them) and the character as "class".

    Where one label stands for a capital and its small letter, the class is the capital.

    Raises:
        DataError: a file is missing or damaged, or a label has no character.
    """
    members = _members(source)
    prefix = f"emnist-{part}-"
    characters = _mapping(_bytes(source, members, f"{prefix}mapping.txt"), f"{source}: {prefix}mapping.txt")
    images, classes, splits = [], [], []
    for name in ("train", "test"):
        if split not in (None, name):
            continue
        image_file, label_file = f"{prefix}{name}-images-idx3-ubyte.gz", f"{prefix}{name}-labels-idx1-ubyte.gz"
        stored = as_images(parse_idx(_bytes(source, members, image_file), f"{source}: {image_file}"), image_file)
        labels = parse_idx(_bytes(source, members, label_file), f"{source}: {label_file}")
        check_pair(stored, labels, image_file, label_file)
        unknown = set(np.unique(labels).tolist()) - set(characters)
        if unknown:
            raise DataError(f"{source}: {label_file} has label {min(unknown)}, which {prefix}mapping.txt does not map")
        table = np.array([characters.get(value, "") for value in range(256)])
        images.append(stored.transpose(0, 2, 1, 3))
        classes.append(table[labels])
        splits += [name] * len(labels)
    pixels = images[0] if len(images) == 1 else np.concatenate(images)
    found = ImageSet.from_arrays(pixels, conditions={"class": np.concatenate(classes)})
    return found.replace(splits=np.array(splits))


def _members(source: Path) -> dict[str, str]:
    """File name → name inside the archive or folder."""
    if source.is_dir():
        return {path.name: path.name for path in source.iterdir()}
    try:
        with zipfile.ZipFile(source) as archive:
            return {Path(name).name: name for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{source}: damaged zip file ({error}); download it again") from None


def _bytes(source: Path, members: dict[str, str], name: str) -> bytes:
    if name not in members:
        raise DataError(
            f"{source}: has no file {name}; expected the official gzip.zip of EMNIST, or its files unpacked"
        )
    if source.is_dir():
        return (source / name).read_bytes()
    try:
        with zipfile.ZipFile(source) as archive:
            return archive.read(members[name])
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise DataError(f"{source}: {name} is damaged ({error}); download the file again") from None


def _mapping(data: bytes, name: str) -> dict[int, str]:
    """Lines "label code [code]" with character codes; the first code counts."""
    try:
        rows = [[int(word) for word in line.split()] for line in data.decode("ascii").splitlines() if line.strip()]
        return {row[0]: chr(row[1]) for row in rows}
    except (ValueError, IndexError):
        raise DataError(f"{name}: expected lines of a label and a character code, such as '10 65'") from None
