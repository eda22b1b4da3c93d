"""Every condition that an item could have, for scores of items whose condition is unknown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from knowngood.data.conditions import ConditionSchema

ROWS = 128  # scored at a time


@dataclass(frozen=True)
class Cells:
    """The R conditions that occurred in the fit."""

    c: Tensor  # (R, W)
    stratum: Tensor  # (R,)
    log_weight: Tensor  # (R,) log π, π the share of normal items

    @classmethod
    def of(cls, schema: ConditionSchema, device: torch.device) -> Cells | None:
        """None where there is nothing to infer: with one condition only, or with a column that must be known."""
        if len(schema.cells) < 2 or any("infer" not in column.roles for column in schema.columns):
            return None
        every = schema.expand({}, 1, unknown="infer")
        c, stratum, log_weight = (torch.from_numpy(t).to(device) for t in (every.c, every.stratum, every.log_weight))
        return cls(c, stratum, log_weight)

    def __len__(self) -> int:
        return len(self.stratum)

    def under_each(
        self, score: Callable[[Tensor, Tensor | None, Tensor], Tensor], x: Tensor, *, conditional: bool = True
    ) -> Tensor:
        """(B, R) what `score` of x, c and stratum gives x (B, *shape) under every condition; c None if unconditional.

        All rows of an item come one after the other, so that what does not depend on c can be computed once.
        """
        values, r = [], len(self)
        for some in x.split(max(1, ROWS // r)):
            c = self.c.repeat(len(some), 1) if conditional else None
            scored = score(some.repeat_interleave(r, 0), c, self.stratum.repeat(len(some)))
            values.append(scored.unflatten(0, (len(some), r)))
        return torch.cat(values)
