"""The contract of a model, and the data it learns from: batches, and sources that give batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from knowngood.errors import DataError

Condition = Tensor | None  # (B, W) encoded conditions; None for items without


@dataclass
class Batch:
    """B items on the device."""

    x: Tensor  # (B, *shape) scaled
    c: Condition
    stratum: Tensor  # (B,) int64, the Mondrian group
    label: Tensor  # (B,) 0 normal, 1 anomalous, NaN unknown
    index: Tensor  # (B,) int64, position in the training set
    factors: Tensor | None = None  # (B, K) nuisance factors y, standardised; NaN where unknown

    def rows(self, rows: slice | Tensor) -> Batch:
        """Some of the items, by a slice or by positions (n,)."""
        values = (getattr(self, field.name) for field in fields(self))
        return Batch(*(None if t is None else t[rows] for t in values))  # type: ignore[arg-type]

    @classmethod
    def cat(cls, batches: Sequence[Batch]) -> Batch:
        """The items of one batch or more, one batch after the other."""
        columns = zip(*(vars(batch).values() for batch in batches), strict=True)
        return cls(*(None if column[0] is None else torch.cat(column) for column in columns))  # type: ignore[arg-type]


Batches = Iterable[Batch]


class BatchSource(Protocol):
    """Training data, in memory or streamed."""

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
        c: (N, W) float, encoded conditions, or None.
        stratum: (N,) int, Mondrian groups 0 … n_strata − 1; default all 0.
        label: (N,) 0 normal, 1 anomalous, NaN unknown; default all 0, since training data are normal.
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
        moved = copy(self)
        vars(moved).update({name: t.to(device) for name, t in vars(self).items() if isinstance(t, Tensor)})
        return moved

    def batch(self, x: Tensor, index: Tensor) -> Batch:
        """The batch of scaled x (B, *shape) at positions `index` (B,), both on this device."""
        c, factors = (None if t is None else t.index_select(0, index) for t in (self.c, self.factors))
        return Batch(x, c, self.stratum.index_select(0, index), self.label.index_select(0, index), index, factors)


@dataclass
class FitContext:
    """What a fit needs beside the normal items. A model without a network needs the seed only.

    train: the training loop, which trains (model, objective) in place on (source, held_out, anomalies).
    """

    train: Callable[..., Any] | None = None
    objective: nn.Module | None = None  # an `Objective`
    held_out: BatchSource | None = None  # normal items for early stopping
    anomalies: BatchSource | None = None  # labelled anomalies, where the objective learns from them
    seed: int = 0


class Model(nn.Module):
    """What learns from tensors x (N, *shape), under conditions c (N, condition_dim) if it has any.

    Attributes:
        kind: its name in the configuration.
        shape: of one item: (C, H, W) for images, (F, h, w) for feature maps, (F,) for tables.
        condition_dim: width of c; 0 for a model without conditions.
    """

    kind: ClassVar[str]
    shape: tuple[int, ...]
    condition_dim: int

    def fit(self, source: BatchSource, context: FitContext) -> Self:
        """Learn from normal items, in place."""
        raise NotImplementedError

    def sizes(self) -> dict[str, Any]:
        """Plain data: `options.build(**sizes())` makes a model that is ready for `load_state_dict`."""
        raise NotImplementedError


def as_loaded(model: Model) -> None:
    """Let what is saved of a model lie in memory as when it is loaded, in place: sums then agree to the last bit."""
    for module in model.modules():
        for name, t in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                setattr(module, name, t.contiguous())
