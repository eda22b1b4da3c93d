"""Training data held on the device: a batch is an index."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knowngood.models.base import Batch, Facts

Scale = Callable[[Tensor], Tensor]


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
        # index_select is faster, and returns features that lie location by location in another order
        items = self.data.index_select(0, index) if self.data.is_contiguous() else self.data[index]
        return self.facts.batch(self.scale(items), index)

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Batch]:
        device = self.data.device
        return (self.batch(row.to(device, non_blocking=True)) for row in rows)


def _as_tensor(data: Tensor | np.ndarray) -> Tensor:
    """`data` without a copy, also where it is read-only: nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.as_tensor(data)
