"""How many bits more x takes under the model than in a code that knows nothing of the normals."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from knowngood.errors import SettingsError
from knowngood.models.likelihoods import GaussianLikelihood
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Condition, ScoreResult, State, item_sum, wide
from knowngood.scores.elbo import DrawnScore, decoded

LEVELS = 256
ACTIVITY = (1, 9, 33)  # from where on neighbours differ a little, some, and much
WEIGHT = 1 / 16  # that each symbol starts with


class InputComplexityScore(DrawnScore):
    """(−log₂ p(x|c) − L(x)) / d: bits a value, d values, L(x) the length of x in a lossless code.

    Serrà et al., arXiv:1909.11480. Simple images are likely under almost any model, anomalous or not; their length in a
    lossless code says how simple they are. Both are of x in 256 levels from 0 to 1: values beyond count as 0 or 1. p is
    the model's Gaussian integrated over the level, the first and last level having all that lies beyond, so that
    probabilities add up to 1; −log₂ p(x|c) is bounded by the ELBO over L common draws.

    Parts: `complexity_model` and `complexity_code`, the two in bits a value; the score is their difference.
    """

    def check(self, model: ConditionalVAE) -> None:
        if len(model.shape) != 3:
            raise SettingsError(
                "score 'input_complexity' compares with a lossless code of images, and items here have "
                f"{model.shape[0]} features; take scoring='elbo' or 'typicality'"
            )
        if not isinstance(model.likelihood, GaussianLikelihood):
            raise SettingsError(
                "score 'input_complexity' needs the probability of a grey level, and likelihood "
                f"'{model.likelihood.options.name}' gives none; fit with likelihood='gaussian', or take "
                "scoring='typicality'"
            )

    def score(
        self, model: ConditionalVAE, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        levels = (x * (LEVELS - 1)).round().clamp(0, LEVELS - 1)
        x = levels / (LEVELS - 1)
        posterior = model.encode(x, c)
        noise = self.noise(state, posterior)
        nats = item_sum(posterior.kl(model.prior(c, like=posterior.mean)))
        assert isinstance(model.likelihood, GaussianLikelihood)
        for _, repeated, params in decoded(model, posterior, noise, x, c):
            log_p = item_sum(log_level_probability(model.likelihood, repeated, params))
            nats = nats - log_p.unflatten(0, (-1, len(x))).sum(0) / len(noise)
        values = x[:1].numel()
        of_model = nats / (math.log(2) * values)
        of_code = (code_length(levels.long()) / values).to(of_model)
        return ScoreResult(of_model - of_code, None, {"complexity_model": of_model, "complexity_code": of_code})


def log_level_probability(likelihood: GaussianLikelihood, x: Tensor, params: Tensor) -> Tensor:
    """log P(level of x), float64: N(μ, σ²) between the midpoints to the levels beside it; x a multiple of 1/255."""
    x, mean, sigma = (wide(t) for t in (x, likelihood.mean(params), likelihood.log_sigma(params).exp()))
    half = 0.5 / (LEVELS - 1)
    # Mirrored, so that both ends lie in the lower tail, where log Φ is accurate.
    below = torch.where(x <= half, -math.inf, (x - half - mean) / sigma)
    above = torch.where(x >= 1 - half, math.inf, (x + half - mean) / sigma)
    upper = below + above > 0
    low, high = torch.where(upper, -above, below), torch.where(upper, -below, above)
    log_low, log_high = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    return log_high + torch.log(-torch.expm1(log_low - log_high))


def code_length(levels: Tensor) -> Tensor:
    """(B,) float64 bits for images (B, C, H, W) of int64 levels 0…255, each by itself.

    The code predicts each value from those to the left, above and above left by the median rule of JPEG-LS (Weinberger
    et al. 2000) and sends the difference modulo 256 by an adaptive arithmetic coder: the symbol k is expected with the
    probability (n_k + 1/16) / (n + 16), n_k of the n symbols so far having been k. Counts are kept apart for pixels
    whose three neighbours are alike, differ a little, some or much, and start anew with each image. What such a coder
    sends, but for the two bits that end it, has a closed form, as the order of symbols does not matter:
    Σ_contexts log₂ Γ(n + 16) / Γ(16) − Σ_k log₂ Γ(n_k + 1/16) / Γ(1/16).
    """
    symbol, context = symbols(levels)
    contexts = len(ACTIVITY) + 1
    item = torch.arange(len(levels), device=levels.device)[:, None]
    index = (item * contexts + context.flatten(1)) * LEVELS + symbol.flatten(1)
    counts = torch.bincount(index.flatten(), minlength=len(levels) * contexts * LEVELS)
    # From a table of log Γ by count: most counts are 0, and all are whole numbers.
    table = torch.lgamma(torch.arange(levels[:1].numel() + 1, dtype=torch.float64) + WEIGHT) - math.lgamma(WEIGHT)
    counts = counts.cpu().view(len(levels), contexts, LEVELS)
    every = torch.lgamma(counts.sum(2).double() + WEIGHT * LEVELS) - math.lgamma(WEIGHT * LEVELS)  # (B, contexts)
    return (every - table[counts].sum(2)).sum(1) / math.log(2)


def symbols(levels: Tensor) -> tuple[Tensor, Tensor]:
    """What is coded at each pixel, 0…255, and in which context, 0…3; same shape as `levels` (B, C, H, W)."""
    above = torch.cat((torch.zeros_like(levels[..., :1, :]), levels[..., :-1, :]), -2)
    left = torch.cat((above[..., :1], levels[..., :-1]), -1)  # beyond the left border lies what is above
    corner = torch.cat((above[..., :1], above[..., :-1]), -1)
    low, high = torch.minimum(left, above), torch.maximum(left, above)
    predicted = (left + above - corner).clamp(low, high)  # the median of left, above, left + above − corner
    activity = (left - corner).abs() + (above - corner).abs()
    bounds = torch.tensor(ACTIVITY, device=levels.device)
    return (levels - predicted) % LEVELS, torch.bucketize(activity, bounds, right=True)
