"""How far x is from its reconstruction x̂, the mean of p(x|z,c) at the posterior mean z = μ(x,c)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from knowngood.config import Reconstruction
from knowngood.errors import SettingsError
from knowngood.models.likelihoods import BernoulliLikelihood
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Score, ScoreResult, State, item_sum, pixel_sum, wide
from knowngood.scores.ssim import ssim

CROSS_ENTROPY_EDGE = 1e-6


class ReconstructionScore(Score):
    """Distances between x and x̂, both scaled so that the data range is 0…1.

    | distance | value | map adds up to it |
    |---|---|---|
    | `l2` | ‖x − x̂‖₂, the dCVAE paper's A(x) | no: it holds squares, and adds up to the value's square |
    | `squared` | Σ (x − x̂)² | yes |
    | `mean` | mean of (x − x̂)² over pixels and channels | yes |
    | `cross_entropy` | −Σ x log x̂ + (1 − x) log(1 − x̂) in nats | yes |
    | `ssim` | 1 − mean SSIM, from 0 to 2 | yes |

    Cross-entropy uses the logits of a Bernoulli decoder; the mean of any other is kept 1e-6 away from 0 and 1.
    """

    has_map = True

    def __init__(self, options: Reconstruction) -> None:
        super().__init__(options)
        self.distance = options.distance

    def check(self, model: ConditionalVAE) -> None:
        shape = model.shape
        if len(shape) == 1 and self.distance in ("ssim", "cross_entropy"):
            raise SettingsError(
                f"score 'reconstruction' with distance = '{self.distance}' needs images; a table of {shape[0]} "
                "features was given. Use distance='l2', 'squared' or 'mean'."
            )

    def score(
        self,
        model: ConditionalVAE,
        state: State,
        x: Tensor,
        c: Tensor | None,
        stratum: Tensor,
        *,
        want_map: bool = False,
    ) -> ScoreResult:
        terms = self._terms(model, x, c)
        values = item_sum(terms)
        if self.distance == "l2":
            values = values.sqrt()
        return ScoreResult(values, pixel_sum(terms) if want_map else None, {})

    def _terms(self, model: ConditionalVAE, x: Tensor, c: Tensor | None) -> Tensor:
        """(B, *shape) non-negative terms that add up to the value, or to its square for l2."""
        params = model.decode(model.encode(x, c).mean, c)
        if self.distance == "cross_entropy" and isinstance(model.likelihood, BernoulliLikelihood):
            return -model.likelihood.log_prob(x, params)
        mean = model.likelihood.mean(params)
        if self.distance == "cross_entropy":
            edge = CROSS_ENTROPY_EDGE
            # In float64: float32 rounds 1 − 1e-6 by 1 % of its distance from 1.
            return F.binary_cross_entropy(wide(mean).clamp(edge, 1 - edge), wide(x), reduction="none")
        if self.distance == "ssim":
            return (1 - ssim(wide(x), wide(mean))) / x[0].numel()
        squares = (x - mean).square()
        return wide(squares) / x[0].numel() if self.distance == "mean" else squares
