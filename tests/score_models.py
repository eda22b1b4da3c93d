"""Small untrained models and random items for the tests of scores."""

from __future__ import annotations

import torch
from torch import Tensor

from helpers import vae
from knowngood.config import MLP, Bernoulli, Conv, Gaussian
from knowngood.models.base import Batch
from knowngood.models.vae import ConditionalVAE

IMAGE, TABLE = (2, 9, 12), (6,)
CONDITIONS = 3


def small_model(shape: tuple[int, ...] = IMAGE, likelihood: str = "gaussian", net: str = "mlp") -> ConditionalVAE:
    """Random weights, a learned prior that is not standard, and a decoder that varies strongly with z."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = {"mlp": MLP(hidden=(24,)), "conv": Conv(channels=(4, 8), dense=16)}
        p_x = Bernoulli() if likelihood == "bernoulli" else Gaussian(sigma="input")
        model = vae(shape, 5, CONDITIONS, nets[net], p_x, "learned", nuisance_dim=2)
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5
    return model.eval().requires_grad_(False)


def items(n: int, shape: tuple[int, ...] = IMAGE, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """x (n, *shape) in [0, 1], c (n, 3) one-hot, stratum (n,)."""
    generator = torch.Generator().manual_seed(seed)
    stratum = torch.randint(CONDITIONS, (n,), generator=generator)
    return torch.rand(n, *shape, generator=generator), torch.nn.functional.one_hot(stratum, CONDITIONS).float(), stratum


def batches(n: int, shape: tuple[int, ...] = IMAGE, size: int = 16) -> list[Batch]:
    x, c, stratum = items(n, shape, seed=2)
    unknown = torch.full((n,), float("nan"))
    return [
        Batch(
            x[i : i + size],
            c[i : i + size],
            stratum[i : i + size],
            unknown[i : i + size],
            torch.arange(n)[i : i + size],
        )
        for i in range(0, n, size)
    ]
