"""Rows of a table as items, and as the nets see them: every feature standardised."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from knowngood.errors import DataError
from knowngood.images.labels import parse_labels


@dataclass(frozen=True, eq=False)
class TableSet:
    """N rows of F numbers, with the same labels, conditions and ids as an `ImageSet`.

    rows: (N, F) finite numbers. ids: (N,) str. labels: (N,) 0 good, 1 anomalous, NaN unknown.
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
        _check(array)
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


class Table(BaseModel):
    """Mean and standard deviation of F features, in float64. Fitted once; plain JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, items: TableSet | np.ndarray, settings: Any = None) -> Table:
        """From (N, F) numbers. A feature that is constant, up to rounding, gets std 1. No setting changes this.

        Raises:
            DataError: not (N, F) with N, F ≥ 1, or a value is NaN or infinite.
        """
        array = items.rows if isinstance(items, TableSet) else items
        _check(array)
        if 0 in array.shape:
            raise DataError(f"a table of shape {array.shape} has nothing to fit on")
        rows = array.astype(np.float64)
        mean, std = rows.mean(axis=0), rows.std(axis=0)
        constant = (rows.min(axis=0) == rows.max(axis=0)) | (std <= 10 * np.finfo(np.float64).eps * np.abs(mean))
        std[constant] = 1.0
        return cls(mean=tuple(mean.tolist()), std=tuple(std.tolist()))

    @property
    def shape(self) -> tuple[int]:
        """(F,)."""
        return (len(self.mean),)

    @property
    def bytes_per_image(self) -> int:
        """Memory of one prepared row."""
        return 4 * len(self.mean)

    def prepare(self, rows: np.ndarray) -> np.ndarray:
        """Rows (N, F) or one row (F,) of any numbers → the same standardised, float32.

        In float64 until the end: features with a large offset keep their digits.

        Raises:
            DataError: another number of features, or a value is NaN or infinite.
        """
        _check(np.atleast_2d(rows))
        if rows.shape[-1] != len(self.mean):
            raise DataError(f"the table has {rows.shape[-1]} features; the model was fitted on {len(self.mean)}")
        return ((rows.astype(np.float64) - np.array(self.mean)) / np.array(self.std)).astype(np.float32)

    def read(
        self, items: TableSet, index: np.ndarray | None = None, workers: int = 0
    ) -> tuple[np.ndarray, dict[int, str]]:
        """The rows at `index` (M,), default all, prepared: (M, F), and no errors. In memory, so `workers` is unused."""
        return self.prepare(items.rows if index is None else items.rows[index]), {}

    def scale(self, batch: Tensor) -> Tensor:
        """Prepared rows (B, F) → float32. They are standardised already; `Pixels` has its arithmetic here."""
        return batch.float()

    def unscale(self, x: Tensor) -> Tensor:
        """Standardised rows (B, F) → raw values, in float32."""
        return x * x.new_tensor(self.std) + x.new_tensor(self.mean)


def _check(array: np.ndarray) -> None:
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise DataError(f"a table of {array.dtype} with shape {array.shape}; expected numbers (rows, features)")
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise DataError(f"the table holds NaN or infinite values, first in row {row}, feature {column}")
