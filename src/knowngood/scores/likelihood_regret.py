"""How much better x could be explained if its posterior were fitted to it alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from knowngood.models.distributions import DiagonalGaussian
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Condition, ScoreResult, State, item_sum
from knowngood.scores.elbo import AT_ONCE_ACCELERATOR, AT_ONCE_CPU, DrawnScore, decoded
from knowngood.scores.lbfgs import maximise, within

FIRST_SHARE = 0.7  # of the way to where the gradient of the first pair of draws is 0; of later pairs less
TRUST = 4  # how many pairs of draws the encoder's variances are worth, dimension by dimension
# log p curving so much more than the precision says, on average over the dimensions: then all variances are too large,
# and μ stands on a peak that the posterior does not fit on.
NARROW = 3.0


class LikelihoodRegretScore(DrawnScore):
    """max over (μ, log σ²) of ELBO(x; μ, σ²) − ELBO(x; μ(x,c), σ²(x,c)) in nats, the decoder as it is.

    Xiao et al., arXiv:2003.02977, in the form that optimises the item's own posterior rather than a copy of the
    encoder. Encoders do well on what they were trained on, so for normals there is little to gain.

    Every item climbs by itself, all at once, from the encoder's (μ, σ²), or from the prior's where that is better.
    First μ climbs log p(x|z,c) + log r(z|c), by `steps` gradients at most, in units of σ: most of the gain is there.
    Then (μ, σ²) are fitted to the expectation, by pairs of draws μ ± σ·s with signs s. The mean gradient of a pair
    moves μ; their difference is the curvature of log p along s, and at the best ELBO
    σ_d⁻² = prior precision − E ∂² log p / ∂z_d² (Opper and Archambeau, Neural Computation 21, 2009).
    Items that gained nothing, or arrived at a peak much narrower than σ, try once more: they climb the mean of log p
    over a pair of draws, with twice the steps.

    Both ELBOs are over the same common draws as in `elbo`, of which the climb knows no more than signs: (μ, σ²) are
    fitted to the item and not to the draws. The regret is never negative, since the best ELBO of an item counts.
    Parts: `regret_amortised`, the −ELBO of the encoder, and `regret_optimised`, the lowest one; the value is
    their difference. It has no map, and it is no likelihood.
    """

    def score(
        self, model: ConditionalVAE, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        at_once = AT_ONCE_CPU if x.device.type == "cpu" else AT_ONCE_ACCELERATOR
        size = max(1, at_once // (self.options.samples * x[:1].numel()))
        parts = x.split(size), [None] * len(x) if c is None else c.split(size)
        found = [self._best(model, state["noise"], *part) for part in zip(*parts, strict=False)]
        first, best = (torch.cat(column) for column in zip(*found, strict=True))
        return ScoreResult(best - first, None, {"regret_amortised": -first, "regret_optimised": -best})

    def _best(self, model: ConditionalVAE, noise: Tensor, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """ELBO (B,) under the encoder's posterior, and the best that was found."""
        encoded = model.encode(x, c)
        prior = model.prior(c, like=encoded.mean)
        noise = noise.to(encoded.mean)
        known, of_prior = elbo(model, encoded, prior, noise, x, c), elbo_of_prior(model, noise, x, c)
        best = torch.where(of_prior > known, of_prior, known)
        better = (of_prior > known)[:, None].to(encoded.mean.device)
        start = DiagonalGaussian(*(torch.where(better, r, q) for r, q in zip(prior, encoded, strict=True)))

        def climbed(rows: Tensor, signs: Tensor, steps: int, spread: bool) -> tuple[Tensor, Tensor]:
            at, into = (DiagonalGaussian(q.mean[rows], q.log_var[rows]) for q in (start, prior))
            some_x, some_c = x[rows], None if c is None else c[rows]
            own, narrower = fitted(model, at, into, signs, steps, some_x, some_c, spread=spread)
            return elbo(model, own, into, noise, some_x, some_c), narrower

        # Common draws come in twos with opposite signs, so every other one has new ones.
        signs = noise[::2].sign()
        reached, narrower = climbed(torch.arange(len(x), device=x.device), signs, self.options.steps, spread=False)
        up = reached > best
        best = torch.where(up, reached, best)
        hard = (~up.to(narrower.device) | (narrower > NARROW)).nonzero()[:, 0]
        if len(hard):
            signs = torch.cat((signs, signs.roll(1, dims=1)))
            reached, _ = climbed(hard, signs, 2 * self.options.steps, spread=True)
            hard = hard.to(best.device)
            best = best.index_copy(0, hard, torch.where(reached > best[hard], reached, best[hard]))
        return known, best


def fitted(
    model: ConditionalVAE,
    start: DiagonalGaussian,
    prior: DiagonalGaussian,
    signs: Tensor,
    steps: int,
    x: Tensor,
    c: Condition,
    *,
    spread: bool = False,
) -> tuple[DiagonalGaussian, Tensor]:
    """The posterior of each item alone, (B, D), found from `start`, and how many times too wide (B,) `start` was there.

    Args:
        signs: (K, D) of −1 and 1; the posterior is refined by K pairs of draws.
        steps: how often μ climbs.
        spread: climb the mean over the first pair of draws, so as not to end on a peak that is narrower than σ.
    """
    unit = (0.5 * start.log_var).exp()
    least = (-prior.log_var).exp()
    radius = 2 * math.sqrt(unit.shape[1])
    draws = (signs[0], -signs[0]) if spread else (torch.zeros_like(signs[0]),)

    def expected(u: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """E log p(x|z,c) + log r(μ|c), less a constant, and its gradient at μ = start + unit·u."""
        mean = start.mean[rows] + unit[rows] * u
        some_x, some_c = x[rows], None if c is None else c[rows]
        found = [log_likelihood(model, mean + unit[rows] * draw, some_x, some_c) for draw in draws]
        value, slope = (torch.stack(terms).mean(0) for terms in zip(*found, strict=True))
        off = mean - prior.mean[rows]
        pull = off * least[rows]
        return value - 0.5 * item_sum(off * pull), unit[rows] * (slope - pull)

    u, curvature = maximise(expected, torch.zeros_like(unit), steps, radius)
    precision = (-start.log_var).exp()
    narrower = torch.ones_like(precision[:, 0])
    for k, sign in enumerate(signs, 1):
        mean, draw = start.mean + unit * u, sign * precision.rsqrt()
        above, below = (log_likelihood(model, mean + side, x, c)[1] for side in (draw, -draw))
        measured = least + (below - above) / (2 * draw)
        # One pair says little of one dimension, but enough of all of them together.
        ratio = (measured / precision).mean(1, keepdim=True)
        ratio = torch.where(ratio > NARROW, ratio, 1)
        precision = ratio * precision
        narrower = ratio[:, 0] if k == 1 else narrower
        # Weights that fall with age as 1/k², so that what the encoder said is forgotten over many pairs.
        precision = precision + 2 / (2 * TRUST + k) * (measured.maximum(least) - precision)
        gradient = (above + below) / 2 - (mean - prior.mean) * least
        u = u + within(radius, FIRST_SHARE / k * curvature.newton(unit * gradient)) / ratio
    return DiagonalGaussian(start.mean + unit * u, -precision.log()), narrower


def log_likelihood(model: ConditionalVAE, z: Tensor, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
    """log p(x|z,c) in nats, (B,) float64, and its gradient by z, (B, D)."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = item_sum(model.likelihood.log_prob(x, model.decode(z, c)))
        return value.detach(), torch.autograd.grad(value.sum(), z)[0]  # leaves the model's parameters without any


def elbo(
    model: ConditionalVAE, q: DiagonalGaussian, prior: DiagonalGaussian, noise: Tensor, x: Tensor, c: Condition
) -> Tensor:
    """L⁻¹ Σ_l log p(x|μ + σ·ε_l, c) − KL(q ‖ r) in nats, (B,) float64, for draws ε (L, D)."""
    log_p = [item_sum(model.likelihood.log_prob(rows, params)) for _, rows, params in decoded(model, q, noise, x, c)]
    return torch.cat(log_p).unflatten(0, (len(noise), len(x))).mean(0) - item_sum(q.kl(prior))


def elbo_of_prior(model: ConditionalVAE, noise: Tensor, x: Tensor, c: Condition) -> Tensor:
    """The same for q = r, whose KL is 0. All items of a condition share their z, which are decoded once."""
    kinds, kind = None, torch.zeros(len(x), dtype=torch.long, device=x.device)
    if c is not None:
        kinds, kind = torch.unique(c, dim=0, return_inverse=True)
    prior = model.prior(kinds, like=noise[:1] if kinds is None else noise.new_empty(len(kinds), noise.shape[1]))
    log_p = [item_sum(model.likelihood.log_prob(x, model.decode(prior.rsample(e), kinds)[kind])) for e in noise]
    return torch.stack(log_p).mean(0)
