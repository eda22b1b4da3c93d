"""EMNIST in its official form: one zip of gzipped idx files, images stored transposed, labels mapped to characters.

arXiv:1702.05373. The files may also be unpacked in a folder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from knowngood.data.imageset import ImageSet, join_splits
from knowngood.data.readers.archive import read_members
from knowngood.data.readers.idx import parse_images, parse_labels
from knowngood.errors import DataError

# part → (about, classes, train images, test images)
EMNIST_PARTS = {
    "byclass": ("handwritten digits, capitals and small letters", 62, 697932, 116323),
    "bymerge": ("as byclass, look-alike letters merged", 47, 697932, 116323),
    "balanced": ("as bymerge, equally many of each", 47, 112800, 18800),
    "letters": ("handwritten letters, capitals and small merged", 26, 124800, 20800),
    "digits": ("handwritten digits, equally many of each", 10, 240000, 40000),
    "mnist": ("handwritten digits, processed like MNIST", 10, 60000, 10000),
}


def read_emnist(source: Path, part: str, split: str | None = None) -> ImageSet:
    """One part of EMNIST, upright, with splits train and test (or one of them) and the character as "class".

    Where one label stands for a capital and its small letter, the class is the capital.

    Raises:
        DataError: a file is missing or damaged, or a label has no character.
    """
    prefix, splits = f"emnist-{part}-", [name for name in ("train", "test") if split in (None, name)]
    files = {name: [f"{prefix}{name}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")] for name in splits}
    mapping = f"{prefix}mapping.txt"
    every = [mapping, *(file for pair in files.values() for file in pair)]
    data = read_members(source, every, "the official gzip.zip of EMNIST, or its files unpacked")
    characters = _mapping(data[mapping], f"{source}: {mapping}")
    table = np.array([characters.get(value, "") for value in range(256)])
    parts = {}
    for name, (images, labels) in files.items():
        stored = parse_images(data[images], f"{source}: {images}")
        values = parse_labels(data[labels], f"{source}: {labels}", stored, images)
        unknown = set(np.unique(values).tolist()) - set(characters)
        if unknown:
            raise DataError(f"{source}: {labels} has label {min(unknown)}, which {mapping} does not map")
        parts[name] = stored.transpose(0, 2, 1, 3), table[values]
    return join_splits(parts, f"emnist/{part}")


def _mapping(data: bytes, name: str) -> dict[int, str]:
    """Lines "label code [code]" with character codes; the first code counts."""
    try:
        rows = [[int(word) for word in line.split()] for line in data.decode("ascii").splitlines() if line.strip()]
        return {row[0]: chr(row[1]) for row in rows}
    except (ValueError, IndexError):
        raise DataError(f"{name}: expected lines of a label and a character code, such as '10 65'") from None
