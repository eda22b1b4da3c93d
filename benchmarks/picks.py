"""Which images of a set are meant, written down before any is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import numpy as np

from knowngood.data import ImageSet
from knowngood.errors import DataError

FOLDS = 5


@dataclass(frozen=True)
class Pick:
    """Some images of a set, in file order, all with one label.

    Of the images whose class is in `classes` (or, with `others`, is not) and whose split is `split` (None: any), those
    at positions start … stop − 1 count, and all of those must be there; then those whose group's number modulo 5 is in
    `folds`; then the first `most`, if there are more. A group is one image, or one patient (`by="patient"`); groups are
    numbered by first appearance among the images picked so far.
    """

    classes: tuple[str, ...]
    label: int
    others: bool = False
    split: str | None = None
    start: int = 0
    stop: int | None = None
    folds: tuple[int, ...] | None = None
    by: Literal["image", "patient"] = "image"
    most: int | None = None

    def index(self, images: ImageSet) -> np.ndarray:
        """Positions (M,) of the picked images, ascending."""
        chosen = np.isin(classes_of(images), self.classes) != self.others
        if self.split is not None:
            if images.splits is None or self.split not in images.splits:
                raise DataError(f"{images.name} has no split '{self.split}', which this protocol needs")
            chosen &= images.splits == self.split
        index = np.flatnonzero(chosen)
        if self.stop is not None and self.stop > len(index):
            which = ("other than " if self.others else "") + ", ".join(self.classes)
            raise DataError(
                f"{images.name}: the protocol needs {self.stop:,} images of class {which}; there are {len(index):,}"
            )
        index = index[self.start : self.stop]
        if self.folds is not None:
            index = index[np.isin(self._groups(index, images) % FOLDS, self.folds)]
        return index[: self.most]

    def _groups(self, index: np.ndarray, images: ImageSet) -> np.ndarray:
        """The number of each image's group."""
        names = [patient(str(name)) for name in images.ids[index]] if self.by == "patient" else index
        _, first, group = np.unique(names, return_index=True, return_inverse=True)
        return first.argsort().argsort()[group]


def patient(name: str) -> str:
    """Who a chest X-ray shows, from its file name: "person12_virus_3.jpeg" → "person12_virus", "IM-0115-0001-0002.jpeg"
    → "IM-0115". Numbers of viral and bacterial cases are separate."""
    stem = PurePosixPath(name).stem
    if stem.startswith("person"):
        return stem.rpartition("_")[0]
    words = stem.split("-")
    return "-".join(words[: words.index("IM") + 2]) if "IM" in words else stem


def class_names(images: ImageSet) -> list[str]:
    """The classes of a data set, numbers in their order."""
    found = set(classes_of(images).tolist())
    return sorted(found, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))


def classes_of(images: ImageSet) -> np.ndarray:
    """(N,) text, the class of each image.

    Raises:
        DataError: the data set names no classes.
    """
    if "class" not in images.conditions:
        raise DataError(f"{images.name} has no column 'class', by which this protocol picks images")
    return np.array([str(value) for value in images.conditions["class"].tolist()])
