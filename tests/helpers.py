"""Small seeded models and batches in float64, where closed forms can be compared to the last digits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from knowngood.config import MLP, Gaussian, Options, VAEOptions
from knowngood.models.base import Batch
from knowngood.models.objectives import Context, Objective
from knowngood.models.vae import ConditionalVAE


def vae(
    shape: tuple[int, ...],
    latent_dim: int,
    condition_dim: int = 0,
    net: Any = "mlp",
    likelihood: Any = "gaussian",
    prior: Any = "standard",
    nuisance_dim: int = 0,
    **options: Any,
) -> ConditionalVAE:
    """A model of these choices; its weights are drawn from the global generator."""
    given = {"net": net, "likelihood": likelihood, "prior": prior, "latent_dim": latent_dim, **options}
    return ConditionalVAE(VAEOptions(**given), shape, condition_dim, nuisance_dim)


def toy_model(
    shape: tuple[int, ...] = (6,),
    *,
    latent_dim: int = 3,
    condition_dim: int = 2,
    net: Options | None = None,
    likelihood: Options | None = None,
    prior: str = "standard",
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    jitter: float = 0.6,
) -> ConditionalVAE:
    """A model whose weights are all moved a little, so that nothing sits at a starting value where gradients vanish."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net, likelihood = net or MLP(hidden=(8,)), likelihood or Gaussian()
        model = vae(shape, latent_dim, condition_dim, net, likelihood, prior).to(dtype)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                part = 0.05 if name.startswith("likelihood") else 1.0  # σ is on a log scale that learns fast
                parameter += part * jitter * torch.randn_like(parameter)
    return model


def toy_batch(model: ConditionalVAE, n: int = 40, strata: int | None = None, seed: int = 1) -> Batch:
    """x uniform on [0, 1); item i in stratum i % strata, one-hot in c where the model has conditions."""
    strata = strata or max(model.condition_dim, 1)
    generator = torch.Generator().manual_seed(seed)
    like = next(model.parameters())
    x = torch.rand(n, *model.shape, generator=generator, dtype=torch.float64).to(like)
    stratum = torch.arange(n) % strata
    c = torch.eye(model.condition_dim, dtype=like.dtype)[stratum % model.condition_dim] if model.condition_dim else None
    return Batch(x=x, c=c, stratum=stratum, label=torch.zeros(n), index=torch.arange(n))


def prepared(options: Options, model: ConditionalVAE, seed: int = 0) -> Objective:
    """The objective of these options with its own parameters made, in the model's dtype."""
    objective: Objective = options.build()
    objective.stratum_counts = torch.full((max(model.condition_dim, 1),), 100)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        objective.prepare(model)
    return objective


def toy_context(
    batch: Batch, *, seed: int = 2, times: int = 5, step: int = 0, total_steps: int = 100, second: Batch | None = None
) -> Context:
    """A training set `times` as large as the batch, with its strata in the same shares; draws from `seed`."""
    counts = torch.bincount(batch.stratum) * times
    generator = torch.Generator().manual_seed(seed)
    return Context(step, total_steps, generator, n_items=int(counts.sum()), stratum_counts=counts, second=second)


def gradients(loss: Tensor, model: torch.nn.Module) -> dict[str, Tensor]:
    """Gradient of every parameter by name; zeros where the loss does not reach."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def greatest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest absolute difference between two sets of gradients."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a if a[name].numel())
