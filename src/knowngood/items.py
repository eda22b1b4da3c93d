"""Items to fit on or to judge, images or rows of a table, and how their numbers reach a model."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from knowngood.errors import DataError
from knowngood.images import ImageSet
from knowngood.images.imageset import check_unique
from knowngood.images.labels import parse_labels
from knowngood.images.pixel_source import ArrayPixels
from knowngood.representation import Pixels, Table, prepare_all

READERS = 4  # threads; decoders release the interpreter lock


@dataclass(frozen=True, eq=False)
class TableSet:
    """N rows of F numbers with what is known of each; the counterpart of `ImageSet`."""

    array: np.ndarray  # (N, F)
    ids: np.ndarray  # (N,) str
    labels: np.ndarray  # (N,) 0 good, 1 anomalous, NaN unknown
    conditions: dict[str, np.ndarray]
    name: str = "table"

    @classmethod
    def from_array(cls, array: np.ndarray, ids: Any = None) -> TableSet:
        """A table (N, F); `ids` default to row numbers."""
        n = len(array)
        names = np.char.zfill(np.arange(n).astype(str), len(str(max(n - 1, 0)))) if ids is None else np.asarray(ids, str)
        check_unique(names, "table")
        return cls(array, names, np.full(n, np.nan), {})

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, key: Any) -> TableSet:
        return self.replace(
            array=self.array[key],
            ids=self.ids[key],
            labels=self.labels[key],
            conditions={name: values[key] for name, values in self.conditions.items()},
        )

    def replace(self, **changes: Any) -> TableSet:
        """A copy with some attributes changed."""
        return dataclasses.replace(self, **changes)

    def annotate(self, labels: Any = None, conditions: Mapping[str, Any] | None = None) -> TableSet:
        """A copy with other labels and added or replaced condition columns."""
        new = {name: np.asarray(values) for name, values in (conditions or {}).items()}
        for name, values in new.items():
            if values.shape != (len(self),):
                raise DataError(f"condition '{name}' has shape {values.shape}; expected one value a row: ({len(self)},)")
        return self.replace(
            labels=self.labels if labels is None else parse_labels(labels, self.ids if len(labels) == len(self) else None),
            conditions={**self.conditions, **new},
        )

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the numbers and conditions."""
        digest = hashlib.sha256(np.ascontiguousarray(self.array).tobytes())
        for name in sorted(self.conditions):
            digest.update(f"\n{name}\n{self.conditions[name].tolist()}".encode())
        return digest.hexdigest()


Items = ImageSet | TableSet


def read_native(items: Items, representation: Pixels | Table) -> tuple[np.ndarray, dict[int, str]]:
    """All items prepared, (N, *shape) in their native dtype, and the reason for each that could not be read.

    Unreadable files leave zeros. Arrays are refused as a whole if they do not fit the model.
    """
    if isinstance(items, TableSet):
        assert isinstance(representation, Table)
        return representation.prepare(items.array), {}
    assert isinstance(representation, Pixels)
    if isinstance(items.pixels, ArrayPixels):
        return prepare_all(items, representation), {}

    def one(i: int) -> np.ndarray | str:
        try:
            return representation.prepare(items.read(i))
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(one, range(len(items))))
    errors = {i: image for i, image in enumerate(found) if isinstance(image, str)}
    blank = np.zeros(representation.shape, dtype=representation.dtype)
    return np.stack([blank if isinstance(image, str) else image for image in found]), errors


def check_kind(items: Items, representation: Pixels | Table) -> None:
    """Raise DataError if a model of images is given a table, or the other way round."""
    if isinstance(items, ImageSet) != isinstance(representation, Pixels):
        given, wanted = ("images", "a table") if isinstance(items, ImageSet) else ("a table", "images")
        raise DataError(f"{given} given; this model was fitted on {wanted} of shape {representation.shape}")
