"""A quantile of |x − x̂|, x̂ the reconstruction from the posterior mean."""

import torch
from torch import Tensor

from knowngood.models.vae import ConditionalVAE
from knowngood.scores import Score, ScoreResult
from median_residual.options import MedianResidual


class MedianResidualScore(Score):
    """The value is the quantile over all pixels and channels of an item. The map is |x − x̂|, channels added up."""

    has_map = True

    def __init__(self, options: MedianResidual) -> None:
        super().__init__(options)
        self.quantile = options.quantile

    def score(
        self,
        model: ConditionalVAE,
        state: dict[str, Tensor],
        x: Tensor,  # (B, *shape), scaled to 0…1
        c: Tensor | None,  # (B, W) encoded conditions
        stratum: Tensor,  # (B,) Mondrian group
        *,
        want_map: bool = False,
    ) -> ScoreResult:
        reconstruction = model.likelihood.mean(model.decode(model.encode(x, c).mean, c))
        residual = (x - reconstruction).abs().double()  # (B, *shape)
        values = torch.quantile(residual.flatten(1), self.quantile, dim=1)  # (B,)
        return ScoreResult(values, residual.sum(1) if want_map and x.ndim == 4 else None, {})
