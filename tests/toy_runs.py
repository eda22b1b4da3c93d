"""A problem with known answer, a short run on it by the real training loop, and what can be read off the result."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from helpers import toy_model
from knowngood.config import MLP, Options, TrainingOptions
from knowngood.models.distributions import DiagonalGaussian
from knowngood.models.objectives import Objective
from knowngood.models.objectives.densities import total_correlation
from knowngood.models.vae import ConditionalVAE
from knowngood.training import Source, train

N = 1000


def two_factors(stratum: Tensor) -> Tensor:
    """(N, 6): two independent uniform factors, bent and mixed, with noise .1. A VAE turns the square they fill.

    A stratum has its own offset, so that codes of several depend on one another where the condition is not given.
    """
    generator = torch.Generator().manual_seed(0)
    factors = 2 * torch.rand(N, 2, generator=generator) - 1
    mixing = torch.tensor([[1.0, 0.6, 0.3, -0.4, 0.8, 0.2], [0.5, 1.0, -0.6, 0.7, 0.1, 0.9]])
    offset = stratum[:, None] * torch.tensor([0.8, -0.8, 0.4, 0.4, -0.4, 0.8])
    return torch.tanh(factors @ mixing) + offset + 0.1 * torch.randn(N, 6, generator=generator)


class Trained(NamedTuple):
    model: ConditionalVAE
    objective: Objective
    posterior: DiagonalGaussian  # of all items
    error: float  # root mean square of the reconstruction
    stratum: Tensor  # (N,) what the condition says, if there is one, else 0

    def tc(self) -> float:
        """TC(z|c) with the whole set as the batch, the mean over three draws: meaningful for D = 2."""
        q, generator = self.posterior, torch.Generator().manual_seed(0)
        draws = [q.rsample(torch.randn(q.mean.shape, generator=generator)) for _ in range(3)]
        whole = self.stratum, torch.bincount(self.stratum)
        return sum(total_correlation(z, q, *whole)[0].mean().item() for z in draws) / 3

    def covariance(self) -> Tensor:
        """Of z, (D, D)."""
        return self.posterior.mean.t().cov() + torch.diag(self.posterior.log_var.exp().mean(0))

    def kl(self) -> Tensor:
        """KL of each dimension against N(0, 1), the mean over items, (D,)."""
        zeros = torch.zeros_like(self.posterior.mean)
        return self.posterior.kl(DiagonalGaussian(zeros, zeros)).mean(0)


@cache
def trained_on_two_factors(options: Options, seed: int, latent_dim: int = 2, conditions: bool = False) -> Trained:
    """400 steps of 128 items; of two strata, given by a condition, or of one."""
    stratum = torch.arange(N) % (2 if conditions else 1)
    x, c, objective = two_factors(stratum), torch.eye(2)[stratum] if conditions else None, options.build()
    net: Any = {"net": MLP(hidden=(32,)), "condition_dim": 2 if conditions else 0, "latent_dim": latent_dim}
    model = toy_model((6,), **net, seed=seed, dtype=torch.float32, jitter=0)
    rates: Any = {"lr": 0.01, "lr_secondary": 0.003, "ema": None}
    options = TrainingOptions(batch_size=128, epochs=50, precision="float32", **rates)
    train(model, objective, Source(x, c=c, stratum=stratum), None, options, seed=seed, device="cpu")
    with torch.no_grad():
        error = (model.reconstruct(x, c) - x).square().mean().sqrt().item()
        return Trained(model, objective, model.encode(x, c), error, stratum)
