"""How much better x could be explained if its posterior were fitted to it alone."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from knowngood.models.distributions import DiagonalGaussian
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Condition, ScoreResult, State, item_sum
from knowngood.scores.elbo import AT_ONCE_ACCELERATOR, AT_ONCE_CPU, DrawnScore, decoded

# Of L-BFGS:
MEMORY = 20
FIRST_STEP = 0.3  # times the gradient, until a step has measured the curvature
FLAT = 1e-4  # slopes that fall by less than this along a step do not say how long the next should be
ENOUGH = 1e-3  # a row whose next step promises less than this has converged
# Of the fit of a posterior:
FIRST_SHARE = 0.7  # of the way to where the gradient of the first pair of draws is 0; of later pairs less
TRUST = 4  # how many pairs of draws the encoder's variances are worth, dimension by dimension
# log p curving so much more than the precision says, on average over the dimensions: then all variances are too large,
# and μ stands on a peak that the posterior does not fit on.
NARROW = 3.0


class LikelihoodRegretScore(DrawnScore):
    """max over (μ, log σ²) of ELBO(x; μ, σ²) − ELBO(x; μ(x,c), σ²(x,c)) in nats, the decoder as it is.

    Xiao et al., arXiv:2003.02977, in the form that optimises the item's own posterior rather than a copy of the
    encoder. Encoders do well on what they were trained on, so for normals there is little to gain.

    Every item climbs by itself, from the encoder's (μ, σ²), or from the prior's where that is better. First μ climbs
    log p(x|z,c) + log r(z|c), by `steps` gradients at most, in units of σ. Then (μ, σ²) are fitted to the expectation,
    by pairs of draws μ ± σ·s with signs s. The mean gradient of a pair moves μ; their difference is the curvature of
    log p along s, and at the best ELBO σ_d⁻² = prior precision − E ∂² log p / ∂z_d² (Opper and Archambeau, Neural
    Computation 21, 2009). Items that gained nothing, or arrived at a peak much narrower than σ, try once more.

    Both ELBOs are over the same common draws as in `elbo`, of which the climb knows no more than signs. Parts:
    `regret_amortised`, the −ELBO of the encoder, and `regret_optimised`, the lowest one; the value is their difference.
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


# Many small maximisations at once: every row ascends by itself, and stops when it has converged ---------------------


class Curvature:
    """Second derivatives of B objectives, estimated from steps: L-BFGS, Nocedal, Math. Comp. 35, 1980."""

    def __init__(self, like: Tensor) -> None:
        # (step s, fall y of the gradient along s, 1 / s·y or 0 in rows without information): (B, D), (B, D), (B, 1)
        self.pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=MEMORY)
        self.scale = torch.full_like(like[:, :1], FIRST_STEP)

    def learn(self, step: Tensor, fall: Tensor) -> Tensor:
        """Take in a step and the fall of the gradient along it, (B, D). Returns (B, 1): where that was informative."""
        product = (step * fall).sum(1, keepdim=True)
        informative = product > FLAT * step.square().sum(1, keepdim=True)
        self.pairs.append((step, fall, torch.where(informative, 1 / product, 0)))
        self.scale = torch.where(informative, product / fall.square().sum(1, keepdim=True), self.scale)
        return informative

    def newton(self, gradient: Tensor) -> Tensor:
        """The step (B, D) that leads up a gradient (B, D) to where it is 0."""
        step, shares = gradient, []
        for s, y, weight in reversed(self.pairs):
            shares.append(weight * (s * step).sum(1, keepdim=True))
            step = step - shares[-1] * y
        step = self.scale * step
        for s, y, weight in self.pairs:
            step = step + s * (shares.pop() - weight * (y * step).sum(1, keepdim=True))
        return step


def maximise(
    objective: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], start: Tensor, evaluations: int, radius: float
) -> tuple[Tensor, Curvature]:
    """The highest point (B, D) each row has found, and the curvature it met.

    Every evaluation is a step, there is no line search: a step that does not lead up is taken back, but what it says
    of the curvature is kept, and the next one is at most half as long. Rows do not depend on each other.

    Args:
        objective: values (N,) and gradients (N, D) at points (N, D) of the rows (N,), those that have not converged.
        start: (B, D), in units in which the objective curves about alike in all directions.
        evaluations: of the objective at most, the start among them.
        radius: length of the longest first step.
    """
    point = start
    value, gradient = objective(point, torch.arange(len(point), device=point.device))
    curvature = Curvature(like=point)
    longest = torch.full_like(point[:, :1], radius)
    ascending = torch.ones_like(longest, dtype=torch.bool)
    for _ in range(evaluations - 1):
        step = within(longest, curvature.newton(gradient))
        ascending = ascending & ((gradient * step).sum(1, keepdim=True) > 2 * ENOUGH)  # half of it on a parabola
        rows = ascending[:, 0].nonzero()[:, 0]
        if not len(rows):
            break
        step = torch.where(ascending, step, 0)
        there = point + step
        found, slope = objective(there[rows], rows)
        value_there = value.index_copy(0, rows.to(value.device), found)
        gradient_there = gradient.index_copy(0, rows, slope)
        informative = curvature.learn(step, gradient - gradient_there)
        up = (value_there > value)[:, None].to(point.device)
        length = step.norm(dim=1, keepdim=True)
        longest = torch.where(up, longest.maximum(2 * length), torch.where(informative, length / 2, length / 4))
        point, gradient = torch.where(up, there, point), torch.where(up, gradient_there, gradient)
        value = torch.maximum(value, value_there)
    return point, curvature


def within(longest: Tensor | float, step: Tensor) -> Tensor:
    """Steps (B, D), shortened where they are longer than `longest`."""
    length = step.norm(dim=1, keepdim=True)
    return torch.where(length > longest, step * (longest / length), step)
