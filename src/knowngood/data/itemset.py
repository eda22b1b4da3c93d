"""ItemSet: what images and rows of a table have in common. Labels, conditions and splits, one an item."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from knowngood.config.words import counted
from knowngood.data.labels import parse_labels
from knowngood.errors import DataError


class ItemSet(ABC):
    """N items; a base of frozen dataclasses.

    ids: (N,) str, unique. labels: (N,) 0 normal, 1 anomalous, NaN unknown. conditions: column → (N,) values; None or
    NaN where unknown. splits: (N,) str such as "train" and "test", or None. groups: (N,) integers, the same for items
    that belong together (see `data.groups`); None where nobody has looked.
    """

    ids: np.ndarray
    labels: np.ndarray
    conditions: dict[str, np.ndarray]
    splits: np.ndarray | None
    groups: np.ndarray | None
    name: str
    item: ClassVar[str]  # what errors call one

    def __post_init__(self) -> None:
        parts = {name: getattr(self, name, None) for name in ("ids", "labels", "splits", "groups", "masks")}
        parts |= {f"condition '{column}'": values for column, values in self.conditions.items()}
        for what, values in parts.items():
            if values is not None and len(values) != len(self):
                raise DataError(
                    f"{self.name}: {counted(len(self), self.item)} but {counted(len(values), 'value')} of {what}; "
                    "expected one an item"
                )

    @property
    def items(self) -> str:
        """What errors call them."""
        return f"{self.item}s"

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _take(self, index: np.ndarray) -> dict[str, Any]:
        """The attributes of a kind of items alone, of those at `index` (M,)."""

    @abstractmethod
    def _update_one(self, i: int, digest: Any) -> None:
        """Feed the content of item i to a hashlib object."""

    @abstractmethod
    def _update(self, digest: Any) -> None:
        """Feed the content of all items, in order, to a hashlib object."""

    def __getitem__(self, key: Any) -> Self:
        """The items at a slice, a boolean mask (N,) or indices (M,), in that order."""
        if isinstance(key, slice):
            index = np.arange(len(self))[key]
        else:
            index = np.atleast_1d(np.asarray(key))
            if index.dtype == bool and len(index) != len(self):
                raise DataError(
                    f"{self.name}: a mask of {counted(len(index), 'value')} for {counted(len(self), self.item)}"
                )
            if index.size == 0:
                index = index.astype(np.int64)
            elif index.dtype.kind not in "biu":
                raise DataError(f"{self.name}: cannot index with {index.dtype} values; use a slice, a mask or integers")
            index = np.arange(len(self))[index]  # negative indices become plain; too large ones raise IndexError
        return self.replace(
            ids=self.ids[index],
            labels=self.labels[index],
            conditions={column: values[index] for column, values in self.conditions.items()},
            splits=None if self.splits is None else self.splits[index],
            groups=None if self.groups is None else self.groups[index],
            **self._take(index),
        )

    def annotate(self, labels: Any = None, conditions: Mapping[str, Any] | None = None) -> Self:
        """A copy with other labels (see `parse_labels`) and added or replaced condition columns: (N,), or one value.

        Raises:
            DataError: not one label or value an item, or an unknown label word.
        """
        changes: dict[str, Any] = {}
        if labels is not None:
            changes["labels"] = parse_labels(labels, self.ids if len(labels) == len(self) else None)
        if conditions is not None:
            columns = {str(column): _column(values, len(self)) for column, values in conditions.items()}
            changes["conditions"] = {**self.conditions, **columns}
        return self.replace(**changes)

    def replace(self, **changes: Any) -> Self:
        """A copy with some attributes changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def fingerprint(self) -> str:
        """SHA-256 (hex) over content (file bytes for files), labels and conditions. The order of the items counts."""
        digest = hashlib.sha256()
        self._update(digest)
        digest.update(np.where(np.isnan(self.labels), -1, self.labels).astype(np.int8).tobytes())
        for column in sorted(self.conditions):
            digest.update(f"\n{column}\n".encode())
            digest.update("\x1f".join(map(str, self.conditions[column].tolist())).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()

    def digests(self) -> np.ndarray:
        """(N,) int64, of the content of each item by itself (file bytes for files): equal content, equal number."""
        found = np.empty(len(self), dtype=np.int64)
        for i in range(len(self)):
            digest = hashlib.blake2b(digest_size=8)
            self._update_one(i, digest)
            found[i] = int.from_bytes(digest.digest(), "little", signed=True)
        return found


def numbered(n: int) -> np.ndarray:
    """Ids of n items: zero-padded numbers from 0."""
    return np.array([str(i).zfill(len(str(n - 1))) for i in range(n)], dtype=str)


def _column(values: Any, n: int) -> np.ndarray:
    """(n,) the values of a condition column, of which one may stand for all."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    if np.ndim(values) == 0:
        values = np.full(n, values)
    array = np.asarray(values)
    if array.dtype.kind in "US":
        return array.astype(str)
    if array.dtype.kind not in "biuf":
        array = np.asarray(values, dtype=object)
    if array.ndim != 1:
        raise DataError(f"a condition column has shape {array.shape}; expected one value an item: (N,)")
    return array
