"""−ELBO: how many nats the model needs at most for x given c."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from knowngood.models.distributions import DiagonalGaussian
from knowngood.models.vae import ConditionalVAE
from knowngood.representations.base import in_parts
from knowngood.scores.base import Batches, Condition, Score, ScoreResult, State, item_sum, pixel_sum

NOISE_SEED = 0
# Pixel values decoded together, so that a layer's activations stay within some 15 MB, on accelerators 1 GB.
AT_ONCE_CPU, AT_ONCE_ACCELERATOR = 2**17, 2**23


class DrawnScore(Score):
    """A score over `options.samples` common draws of z, made once and saved; with 0 of them z is the posterior mean."""

    def fit(self, model: ConditionalVAE, batches: Batches) -> State:
        """{"noise": (L, D)}, nothing with 0 draws."""
        return {"noise": common_normals(self.options.samples, model.latent_dim)} if self.options.samples else {}

    def noise(self, state: State, posterior: DiagonalGaussian) -> Tensor:
        """The draws ε (L, D); one of zeros for the mean alone."""
        return state["noise"].to(posterior.mean) if self.options.samples else torch.zeros_like(posterior.mean[:1])

    def negative_elbo(
        self, model: ConditionalVAE, state: State, x: Tensor, c: Condition, *, want_map: bool = False
    ) -> ScoreResult:
        """As `ElboScore.score`."""
        posterior = model.encode(x, c)
        kl = item_sum(posterior.kl(model.prior(c, like=posterior.mean)))
        noise = self.noise(state, posterior)
        total: Tensor | None = None  # Σ_l −log p(x|z_l,c): (B, H, W) if a map is wanted, else (B,)
        spread = want_map and x.ndim == 4
        for z, repeated, params in decoded(model, posterior, noise, x, c):
            log_p = model.likelihood.log_prob(repeated, params)
            terms = pixel_sum(log_p) if spread else item_sum(log_p)
            assert terms is not None
            added = -terms.unflatten(0, (len(z), -1)).sum(0)
            total = added if total is None else total + added
        assert total is not None
        mean = total / len(noise)
        reconstruction = mean.flatten(1).sum(1) if spread else mean
        parts = {"elbo_reconstruction": reconstruction, "elbo_kl": kl}
        return ScoreResult(reconstruction + kl, mean if spread else None, parts)


class ElboScore(DrawnScore):
    """−E_q log p(x|z,c) + KL(q(z|x,c) ‖ r(z|c)) in nats, the dCVAE paper's E(x).

    The expectation is the mean over L draws z_l = μ + σ·ε_l, with the same ε for every item: L points of a scrambled
    Sobol sequence through the normal quantile function, made once and saved with the model. With 0 samples z = μ.
    Parts: `elbo_reconstruction` (the first term) and `elbo_kl`; they add up to the value. The map is the first term by
    pixel and adds up to `elbo_reconstruction`.
    """

    has_map = True
    is_likelihood = True

    def score(
        self, model: ConditionalVAE, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        return self.negative_elbo(model, state, x, c, want_map=want_map)


def decoded(
    model: ConditionalVAE, posterior: DiagonalGaussian, noise: Tensor, x: Tensor, c: Condition
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Decode z_l = μ + σ·ε_l for all items, some of the draws ε (L, D) at a time: (z, x, parameters of p(x|z,c)).

    z is (l, B, D). Rows of the others are all items under one ε, then all under the next: (l·B, …), x (B, *shape)
    repeated l times.
    """
    at_once = AT_ONCE_CPU if x.device.type == "cpu" else AT_ONCE_ACCELERATOR
    for some in in_parts(noise, at_once, x.numel()):
        z = posterior.rsample(some[:, None])
        params = model.decode(z.flatten(0, 1), None if c is None else c.repeat(len(some), 1))
        yield z, x.expand(len(some), *x.shape).flatten(0, 1), params


def common_normals(samples: int, dims: int) -> Tensor:
    """(samples, dims) float32 standard normal points, spread evenly: the same ones at every call."""
    points = torch.quasirandom.SobolEngine(dims, scramble=True, seed=NOISE_SEED).draw(samples, dtype=torch.float64)
    inside = points.clamp(1e-9, 1 - 1e-9)
    return (math.sqrt(2) * torch.erfinv(2 * inside - 1)).float()
