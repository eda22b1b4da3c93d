"""Rows of a table, each column standardised: invariant to the unit and the offset of a column, to nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from knowngood.config import TableOptions
from knowngood.data.tableset import TableSet, check_rows
from knowngood.errors import DataError
from knowngood.representations.base import Fitted

FLOAT32_MAX = float(np.finfo(np.float32).max)


class Table(Fitted):
    """Mean, standard deviation and, if given, names of F columns, in float64. Fitted once; plain JSON."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: tuple[str, ...] = ()

    @classmethod
    def fit(cls, items: TableSet | np.ndarray, options: TableOptions | None = None) -> Table:
        """From (N, F) numbers. A column that is constant, up to rounding, gets std 1. There are no options yet.

        Raises DataError: not (N, F) with N, F ≥ 1, or a value is NaN or infinite.
        """
        array = items.rows if isinstance(items, TableSet) else items
        check_rows(array)
        if 0 in array.shape:
            raise DataError(f"a table of shape {array.shape} has nothing to fit on")
        rows = array.astype(np.float64)
        mean, std = rows.mean(axis=0), rows.std(axis=0)
        constant = (rows.min(axis=0) == rows.max(axis=0)) | (std <= 10 * np.finfo(np.float64).eps * np.abs(mean))
        std[constant] = 1.0
        names = items.names if isinstance(items, TableSet) else ()
        return cls(mean=tuple(mean.tolist()), std=tuple(std.tolist()), names=names)

    @property
    def shape(self) -> tuple[int]:
        return (len(self.mean),)

    @property
    def bytes_per_image(self) -> int:
        return 4 * len(self.mean)

    def check(self, shape: tuple[int, ...], dtype: Any) -> None:
        """Raise DataError if rows (..., F) have another number of columns."""
        if shape[-1] != len(self.mean):
            raise DataError(f"the table has {shape[-1]} features; the model was fitted on {len(self.mean)}")

    def read(
        self, items: TableSet, index: np.ndarray | None = None, workers: int = 0
    ) -> tuple[np.ndarray, dict[int, str]]:
        """The rows at `index` (M,), default all, standardised: (M, F) float32, and no errors. `workers` is unused.

        In float64 until the end: columns with a large offset keep their digits.

        Raises:
            DataError: another number of columns, or a value is NaN or infinite.
        """
        rows = items.rows if index is None else items.rows[index]
        check_rows(rows)
        self.check(rows.shape, rows.dtype)
        standard = (rows.astype(np.float64) - np.array(self.mean)) / np.array(self.std)
        return standard.clip(-FLOAT32_MAX, FLOAT32_MAX).astype(np.float32), {}

    def unscale(self, x: Tensor) -> Tensor:
        """Standardised rows (B, F) → raw values, in float32."""
        return x * x.new_tensor(self.std) + x.new_tensor(self.mean)

    def to_image(self, map: np.ndarray, source_shape: tuple[int, ...]) -> np.ndarray:
        """Raises DataError: a row of a table has no image coordinates."""
        raise DataError("a table has no image to draw a map on")
