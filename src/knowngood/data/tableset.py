"""Rows of a table as items, with labels and conditions as an `ImageSet` has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from knowngood.data.itemset import ItemSet, numbered
from knowngood.errors import DataError


@dataclass(frozen=True, eq=False)
class TableSet(ItemSet):
    """N rows (N, F) of finite numbers, with ids, labels, conditions, splits and groups: see `ItemSet`.

    names: of the F columns, if they have any.
    """

    rows: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    conditions: dict[str, np.ndarray] = field(default_factory=dict)
    splits: np.ndarray | None = None
    name: str = "table"
    names: tuple[str, ...] = ()
    groups: np.ndarray | None = None

    item = "row"

    @classmethod
    def from_array(cls, array: np.ndarray, name: str = "table") -> TableSet:
        """Rows (N, F); ids are zero-padded row numbers.

        Raises:
            DataError: not two-dimensional numbers, or a value is NaN or infinite.
        """
        check_rows(array)
        return cls(array, numbered(len(array)), np.full(len(array), np.nan), name=name)

    def __len__(self) -> int:
        return len(self.rows)

    def _take(self, index: np.ndarray) -> dict[str, Any]:
        return {"rows": self.rows[index]}

    def _update_one(self, i: int, digest: Any) -> None:
        digest.update(np.ascontiguousarray(self.rows[i], dtype=np.float64).tobytes())

    def _update(self, digest: Any) -> None:
        digest.update(f"{self.rows.dtype.str}{self.rows.shape}".encode())
        digest.update(np.ascontiguousarray(self.rows).tobytes())


def check_rows(array: np.ndarray, names: Any = None) -> None:
    """Raise DataError unless `array` is (rows, features) of finite numbers."""
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise DataError(f"a table of {array.dtype} with shape {array.shape}; expected numbers (rows, features)")
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        where = f"feature {column}" if names is None else f"column '{names[column]}'"
        raise DataError(
            f"the table holds NaN or infinite values, first {array[row, column]} in row {row}, {where}; fill them in "
            "or leave these rows out"
        )
