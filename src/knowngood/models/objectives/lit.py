"""Training under changing light, on top of any objective."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from knowngood.models.objectives.base import Batch, Context, Objective
from knowngood.models.objectives.wrapped import Wrapped
from knowngood.models.vae import ConditionalVAE


class Lit(Wrapped):
    """An objective whose images are multiplied by factors drawn from U(1 − tolerance, 1 + tolerance), one an image.

    Where brightness and contrast are among the nuisance factors they are multiplied alike.

    Args:
        follows: (K,) bool, factors that are multiplied; mean, std: (K,) by which they were standardised.
    """

    FOLLOWING = ("brightness", "contrast")
    follows: Tensor | None
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        base: Objective,
        tolerance: float,
        follows: Tensor | None = None,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        super().__init__(base)
        self.tolerance = tolerance
        for name, values in (("follows", follows), ("mean", mean), ("std", std)):
            self.register_buffer(name, values, persistent=False)

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        second = None if ctx.second is None else self.relit(ctx.second, ctx.generator)
        return self.base.loss(model, self.relit(batch, ctx.generator), replace(ctx, second=second))

    def relit(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch under other light."""
        draw = torch.rand(len(batch.x), generator=generator, device=batch.x.device).to(batch.x)
        factor = 1 + self.tolerance * (2 * draw - 1)  # (B,)
        x = batch.x * factor.view(-1, *[1] * (batch.x.ndim - 1))
        factors = batch.factors
        if factors is not None and self.follows is not None:
            mean, std = self.mean.to(factors), self.std.to(factors)
            after = ((factors * std + mean) * factor[:, None] - mean) / std
            factors = torch.where(self.follows, after, factors)
        return replace(batch, x=x, factors=factors)
