"""Training under changing illumination: an augmentation for any objective."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from knowngood.models.base import Batch
from knowngood.models.objectives.base import Augmentation, Context


class Illuminated(Augmentation):
    """Multiplies every image by a factor drawn from U(1 − tolerance, 1 + tolerance).

    Where brightness and contrast are among the nuisance factors they are multiplied alike.

    Args:
        follows: (K,) bool, factors that are multiplied; mean, std: (K,) by which they were standardised.
    """

    FOLLOWING: ClassVar = ("brightness", "contrast")
    follows: Tensor | None
    mean: Tensor
    std: Tensor

    def __init__(
        self, tolerance: float, follows: Tensor | None = None, mean: Tensor | None = None, std: Tensor | None = None
    ) -> None:
        super().__init__()
        self.tolerance = tolerance
        for name, values in (("follows", follows), ("mean", mean), ("std", std)):
            self.register_buffer(name, values, persistent=False)

    def forward(self, batch: Batch, ctx: Context) -> tuple[Batch, Context]:
        second = None if ctx.second is None else self.illuminated(ctx.second, ctx.generator)
        return self.illuminated(batch, ctx.generator), replace(ctx, second=second)

    def illuminated(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch under another illumination."""
        draw = torch.rand(len(batch.x), generator=generator, device=batch.x.device).to(batch.x)
        factor = 1 + self.tolerance * (2 * draw - 1)  # (B,)
        x = batch.x * factor.view(-1, *[1] * (batch.x.ndim - 1))
        factors = batch.factors
        if factors is not None and self.follows is not None:
            mean, std = self.mean.to(factors), self.std.to(factors)
            after = ((factors * std + mean) * factor[:, None] - mean) / std
            factors = torch.where(self.follows, after, factors)
        return replace(batch, x=x, factors=factors)
