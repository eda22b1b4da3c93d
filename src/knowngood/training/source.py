"""Training data held on the device: a batch is an index."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from knowngood.errors import DataError
from knowngood.models.objectives.base import Batch

Scale = Callable[[Tensor], Tensor]


class BatchSource(Protocol):
    """What the loop asks of training data, in memory or streamed."""

    facts: Facts

    def __len__(self) -> int: ...

    def to(self, device: torch.device) -> BatchSource:
        """The same data with its batches on `device`."""
        ...

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Batch]:
        """One batch for each row of positions (B,) on the CPU, in their order."""
        ...


class Facts:
    """What is known of each item beside its pixels; small, and always in memory.

    Args:
        n: items.
        c: (N, W) float, encoded conditions, or None.
        stratum: (N,) int, 0 … n_strata − 1; default all 0.
        label: (N,) 0 good, 1 anomalous, NaN unknown; default all 0, since training data are known good.
        n_strata: default the largest stratum + 1.
        factors: (N, K) standardised nuisance factors, NaN where unknown, or None.

    Raises:
        DataError: a column does not have N rows, or a stratum lies outside the range.
    """

    def __init__(
        self,
        n: int,
        c: Tensor | np.ndarray | None = None,
        stratum: Tensor | np.ndarray | None = None,
        label: Tensor | np.ndarray | None = None,
        n_strata: int | None = None,
        factors: Tensor | np.ndarray | None = None,
    ) -> None:
        self.factors = None if factors is None else torch.as_tensor(factors, dtype=torch.float32)
        self.c = None if c is None else torch.as_tensor(c, dtype=torch.float32)
        self.stratum = torch.zeros(n, dtype=torch.int64) if stratum is None else torch.as_tensor(stratum).long()
        self.label = torch.zeros(n) if label is None else torch.as_tensor(label, dtype=torch.float32)
        columns = {"c": self.c, "stratum": self.stratum, "label": self.label, "factors": self.factors}
        for name, column in columns.items():
            if column is not None and len(column) != n:
                raise DataError(f"{name} has {len(column)} rows for {n} items; give one row an item")
        largest = int(self.stratum.max()) if n else 0
        self.n_strata = largest + 1 if n_strata is None else n_strata
        if n and (int(self.stratum.min()) < 0 or largest >= self.n_strata):
            raise DataError(
                f"strata run from {int(self.stratum.min())} to {largest}; expected 0 to {self.n_strata - 1}"
            )
        self.stratum_counts = torch.bincount(self.stratum, minlength=self.n_strata)  # (S,)

    def to(self, device: torch.device) -> Facts:
        moved = object.__new__(Facts)
        moved.c = None if self.c is None else self.c.to(device)
        moved.factors = None if self.factors is None else self.factors.to(device)
        moved.stratum, moved.label = self.stratum.to(device), self.label.to(device)
        moved.n_strata, moved.stratum_counts = self.n_strata, self.stratum_counts.to(device)
        return moved

    def batch(self, x: Tensor, index: Tensor) -> Batch:
        """The batch of scaled x (B, *shape) at positions `index` (B,), both on this device."""
        c, factors = (None if t is None else t.index_select(0, index) for t in (self.c, self.factors))
        return Batch(x, c, self.stratum.index_select(0, index), self.label.index_select(0, index), index, factors)


class Source:
    """Items in memory in their native dtype; scaled when a batch is made, on the device.

    Args:
        data: (N, C, H, W) prepared pixels or (N, F) values.
        scale: turns a native batch into scaled float32; default converts the dtype only.
        facts: c, stratum, label, n_strata, factors: see `Facts`.
    """

    def __init__(
        self,
        data: Tensor | np.ndarray,
        scale: Scale | None = None,
        **facts: Any,
    ) -> None:
        self.data = _as_tensor(data)
        self.scale = scale or Tensor.float
        self.facts = Facts(len(self.data), **facts)

    def __len__(self) -> int:
        return len(self.data)

    def to(self, device: torch.device) -> Source:
        moved = object.__new__(Source)
        moved.data, moved.scale, moved.facts = self.data.to(device), self.scale, self.facts.to(device)
        return moved

    def batch(self, index: Tensor) -> Batch:
        """The items at positions `index` (B,) int64, on the data's device."""
        return self.facts.batch(self.scale(self.data.index_select(0, index)), index)

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Batch]:
        device = self.data.device
        return (self.batch(row.to(device, non_blocking=True)) for row in rows)


def _as_tensor(data: Tensor | np.ndarray) -> Tensor:
    """`data` without a copy, also where it is read-only: nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.as_tensor(data)
