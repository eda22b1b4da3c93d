"""Rows of a table as items, with labels and conditions as an `ImageSet` has them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from knowngood.data.labels import parse_labels
from knowngood.errors import DataError


@dataclass(frozen=True, eq=False)
class TableSet:
    """N rows of F numbers, with the same labels, conditions and ids as an `ImageSet`.

    rows: (N, F) finite numbers. ids: (N,) str. labels: (N,) 0 normal, 1 anomalous, NaN unknown.
    """

    rows: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    conditions: dict[str, np.ndarray] = field(default_factory=dict)
    splits: np.ndarray | None = None
    name: str = "table"

    @classmethod
    def from_array(cls, array: np.ndarray, name: str = "table") -> TableSet:
        """Rows (N, F); ids are zero-padded row numbers.

        Raises:
            DataError: not two-dimensional numbers, or a value is NaN or infinite.
        """
        check_rows(array)
        n = len(array)
        ids = np.array([str(i).zfill(len(str(n - 1))) for i in range(n)], dtype=str)
        return cls(array, ids, np.full(n, np.nan), name=name)

    def annotate(self, labels: Any = None, conditions: Mapping[str, Any] | None = None) -> TableSet:
        """A copy with other labels and added or replaced condition columns.

        Raises:
            DataError: not one label or value a row.
        """
        changes: dict[str, Any] = {}
        if labels is not None:
            changes["labels"] = parse_labels(labels, self.ids if len(labels) == len(self) else None)
        if conditions is not None:
            columns = {str(column): np.asarray(values) for column, values in conditions.items()}
            changes["conditions"] = {**self.conditions, **columns}
        changed = self.replace(**changes)
        for what, values in {"labels": changed.labels, **changed.conditions}.items():
            if np.shape(values) != (len(self),):
                raise DataError(f"{what}: shape {np.shape(values)} for {len(self):,} rows; expected one value a row")
        return changed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> TableSet:
        """The rows at a slice, a boolean mask (N,) or indices (M,), in that order."""
        return self.replace(
            rows=self.rows[key],
            ids=self.ids[key],
            labels=self.labels[key],
            conditions={column: values[key] for column, values in self.conditions.items()},
            splits=None if self.splits is None else self.splits[key],
        )

    def replace(self, **changes: Any) -> TableSet:
        """A copy with some attributes changed."""
        return dataclasses.replace(self, **changes)

    def fingerprint(self) -> str:
        """SHA-256 (hex) over rows, labels and conditions. The order of the rows counts."""
        digest = hashlib.sha256(f"{self.rows.dtype.str}{self.rows.shape}".encode())
        digest.update(np.ascontiguousarray(self.rows).tobytes())
        digest.update(np.where(np.isnan(self.labels), -1, self.labels).astype(np.int8).tobytes())
        for column in sorted(self.conditions):
            digest.update(f"\n{column}\n".encode())
            digest.update("\x1f".join(map(str, self.conditions[column].tolist())).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()


def check_rows(array: np.ndarray) -> None:
    """Raise DataError unless `array` is (rows, features) of finite numbers."""
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise DataError(f"a table of {array.dtype} with shape {array.shape}; expected numbers (rows, features)")
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise DataError(f"the table holds NaN or infinite values, first in row {row}, feature {column}")
