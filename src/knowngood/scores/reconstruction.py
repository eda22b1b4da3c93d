"""How far x is from its reconstruction x̂, the mean of p(x|z,c) at the posterior mean z = μ(x,c)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from knowngood.errors import SettingsError
from knowngood.models.likelihoods import BernoulliLikelihood
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Condition, Score, ScoreResult, State, item_sum, pixel_sum, wide

CROSS_ENTROPY_EDGE = 1e-6
WINDOW, SIGMA = 11, 1.5  # of the SSIM
C1, C2 = 0.01**2, 0.03**2


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

    def check(self, model: ConditionalVAE) -> None:
        if len(model.shape) == 1 and self.options.distance in ("ssim", "cross_entropy"):
            raise SettingsError(
                f"score 'reconstruction' with distance = '{self.options.distance}' needs images; a table of "
                f"{model.shape[0]} features was given. Use distance='l2', 'squared' or 'mean'."
            )

    def score(
        self, model: ConditionalVAE, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        terms = self._terms(model, x, c)
        values = item_sum(terms)
        if self.options.distance == "l2":
            values = values.sqrt()
        return ScoreResult(values, pixel_sum(terms) if want_map else None, {})

    def _terms(self, model: ConditionalVAE, x: Tensor, c: Condition) -> Tensor:
        """(B, *shape) non-negative terms that add up to the value, or to its square for l2."""
        params = model.decode(model.encode(x, c).mean, c)
        if self.options.distance == "cross_entropy" and isinstance(model.likelihood, BernoulliLikelihood):
            return -model.likelihood.log_prob(x, params)
        mean = model.likelihood.mean(params)
        if self.options.distance == "cross_entropy":
            edge = CROSS_ENTROPY_EDGE
            # In float64: float32 rounds 1 − 1e-6 by 1 % of its distance from 1.
            return F.binary_cross_entropy(wide(mean).clamp(edge, 1 - edge), wide(x), reduction="none")
        if self.options.distance == "ssim":
            return (1 - ssim(wide(x), wide(mean))) / x[0].numel()
        squares = (x - mean).square()
        return wide(squares) / x[0].numel() if self.options.distance == "mean" else squares


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM at each pixel of two images whose data range is 1. Wang et al. 2004 (IEEE TIP 13, eq. 13).

    Means, variances and the covariance are weighted by a Gaussian window of 11×11, σ = 1.5. At the border the window
    covers the pixels that exist, its weights adding up to 1 again, so that no pixel is invented and every pixel gets a
    value. On a side shorter than 11 the window is the largest odd number that fits, σ in proportion.

    x, y and the result are (B, C, H, W); it is in [−1, 1], 1 where they agree. Give float64: variances are differences
    of nearly equal numbers.
    """
    rows, columns = (_weights(size, x) for size in x.shape[-2:])

    def local_mean(t: Tensor) -> Tensor:
        return rows @ t @ columns.t()

    mean_x, mean_y = local_mean(x), local_mean(y)
    var_x = local_mean(x * x) - mean_x * mean_x
    var_y = local_mean(y * y) - mean_y * mean_y
    covariance = local_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x * mean_x + mean_y * mean_y + C1)
    return luminance * (2 * covariance + C2) / (var_x + var_y + C2)


def _weights(size: int, like: Tensor) -> Tensor:
    """(size, size): row i holds the window's weights around pixel i, a banded matrix whose rows add up to 1."""
    window = min(WINDOW, size - 1 + size % 2)
    sigma = SIGMA * window / WINDOW
    position = torch.arange(size, dtype=like.dtype, device=like.device)
    distance = position[:, None] - position
    weights = torch.exp(-0.5 * (distance / sigma).square()) * (distance.abs() <= window // 2)
    return weights / weights.sum(1, keepdim=True)
