"""How much better x could be explained if its posterior were fitted to it alone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from knowngood.config import LikelihoodRegret
from knowngood.objectives.base import Batch
from knowngood.scores.base import Score, ScoreResult, item_sum
from knowngood.scores.elbo import AT_ONCE_ACCELERATOR, AT_ONCE_CPU, common_normals
from knowngood.vae import ConditionalVAE, DiagonalGaussian

# Gradients are in nats. Adam takes steps of full length however small they are, unless ε stops it: dimensions that the
# decoder does not use would follow the rounding of their gradients.
SMALLEST_SLOPE = 1e-3


class LikelihoodRegretScore(Score):
    """max over (μ, log σ²) of ELBO(x; μ, σ²) − ELBO(x; μ(x,c), σ²(x,c)) in nats, the decoder as it is.

    Xiao et al., arXiv:2003.02977, in the form that optimises the item's own posterior rather than a copy of the
    encoder. Encoders do well on what they were trained on, so for normals there is little to gain.

    Every item has its own (μ, log σ²), starting from the encoder's, or from the prior's where that is better; all are
    optimised at once by Adam, which acts on each number by itself, its rate falling linearly to 0. The expectation in
    both ELBOs is over the same common draws as in `elbo`, so the objective does not change between steps, and since the
    best ELBO of an item counts, the regret is never negative.
    Parts: `regret_amortised`, the −ELBO of the encoder, and `regret_optimised`, the lowest that was found; the value is
    their difference. It has no map, and it is no likelihood.
    """

    def __init__(self, options: LikelihoodRegret) -> None:
        super().__init__(options)
        self.samples, self.steps, self.lr = options.samples, options.steps, options.lr

    def fit(self, model: ConditionalVAE, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """{"noise": (L, D)}."""
        return {"noise": common_normals(self.samples, model.latent_dim)}

    def score(
        self,
        model: ConditionalVAE,
        state: dict[str, Tensor],
        x: Tensor,
        c: Tensor | None,
        stratum: Tensor,
        *,
        want_map: bool = False,
    ) -> ScoreResult:
        at_once = AT_ONCE_CPU if x.device.type == "cpu" else AT_ONCE_ACCELERATOR
        size = max(1, at_once // (self.samples * x[:1].numel()))
        found = []
        for i in range(0, len(x), size):
            some = slice(i, i + size)
            found.append(self._climb(model, state["noise"], x[some], None if c is None else c[some]))
        first, best = (torch.cat(column) for column in zip(*found, strict=True))
        return ScoreResult(best - first, None, {"regret_amortised": -first, "regret_optimised": -best})

    def _climb(self, model: ConditionalVAE, noise: Tensor, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """ELBO (B,) under the encoder's posterior, and the best that was found."""
        with torch.no_grad():
            encoded = model.encode(x, c)
            prior = model.prior(c, like=encoded.mean)
            noise = noise.to(encoded.mean)
            known = elbo(model, encoded, prior, noise, x, c)
            of_prior = elbo(model, prior, prior, noise, x, c)
            best = torch.where(of_prior > known, of_prior, known)
            better = (of_prior > known)[:, None].to(encoded.mean.device)
            own = torch.where(better, torch.cat(prior, 1), torch.cat(encoded, 1))  # (B, 2D): μ and log σ²
        with torch.enable_grad():
            own.requires_grad_()
            adam = torch.optim.Adam([own], lr=self.lr, eps=SMALLEST_SLOPE)
            for step in range(self.steps):
                adam.param_groups[0]["lr"] = self.lr * (1 - step / self.steps)
                value = elbo(model, DiagonalGaussian(*own.chunk(2, dim=1)), prior, noise, x, c)
                best = torch.where(value > best, value.detach(), best)
                (own.grad,) = torch.autograd.grad(-value.sum(), own)  # leaves the model's parameters without any
                adam.step()
        with torch.no_grad():
            value = elbo(model, DiagonalGaussian(*own.chunk(2, dim=1)), prior, noise, x, c)
        return known, torch.where(value > best, value, best)


def elbo(
    model: ConditionalVAE, q: DiagonalGaussian, prior: DiagonalGaussian, noise: Tensor, x: Tensor, c: Tensor | None
) -> Tensor:
    """L⁻¹ Σ_l log p(x|μ + σ·ε_l, c) − KL(q ‖ r) in nats, (B,) float64, for draws ε (L, D)."""
    z = q.rsample(noise[:, None]).flatten(0, 1)
    params = model.decode(z, None if c is None else c.repeat(len(noise), 1))
    log_p = item_sum(model.likelihood.log_prob(x.expand(len(noise), *x.shape).flatten(0, 1), params))
    return log_p.unflatten(0, (len(noise), len(x))).mean(0) - item_sum(q.kl(prior))
