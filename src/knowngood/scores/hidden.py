"""Every condition that an item could have, for looks at what scores say when none of it is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from knowngood.data.conditions import ConditionSchema

AT_ONCE = 128  # rows


@dataclass(frozen=True)
class Cells:
    """The R conditions that occurred in the fit."""

    c: Tensor  # (R, W)
    stratum: Tensor  # (R,)
    log_weight: Tensor  # (R,) log π, π the share of good items

    @classmethod
    def of(cls, schema: ConditionSchema, device: torch.device) -> Cells | None:
        """None where there is nothing to infer: of one condition, or with one that may not be."""
        if len(schema.cells) < 2 or any("infer" not in column.roles for column in schema.columns):
            return None
        every = schema.expand({}, 1, unknown="infer")
        c, stratum, log_weight = (torch.from_numpy(t).to(device) for t in (every.c, every.stratum, every.log_weight))
        return cls(c, stratum, log_weight)

    def __len__(self) -> int:
        return len(self.stratum)

    def under_each(
        self, score: Callable[[Tensor, Tensor | None, Tensor], Tensor], x: Tensor, *, seen: bool = True
    ) -> Tensor:
        """(B, R) what `score` of x, c and stratum gives x (B, *shape) under every condition; c None unless seen.

        All rows of an item come one after the other, so that what does not depend on c can be done once.
        """
        found, r = [], len(self)
        for some in x.split(max(1, AT_ONCE // r)):
            c = self.c.repeat(len(some), 1) if seen else None
            values = score(some.repeat_interleave(r, 0), c, self.stratum.repeat(len(some)))
            found.append(values.unflatten(0, (len(some), r)))
        return torch.cat(found)
