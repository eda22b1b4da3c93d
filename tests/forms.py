"""Every form of every objective, and its loss, terms and gradients on a small model with fixed draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import gradients, prepared, toy_batch, toy_context, toy_model
from knowngood.config import (
    CVAE,
    DANVAE,
    DCVAE,
    DIPVAE,
    RFVAE,
    TCVAE,
    VAE,
    BetaVAE,
    CorEx,
    FactorVAE,
    InfoVAE,
    Options,
)
from knowngood.models.base import Batch
from knowngood.models.objectives import Context, Objective
from knowngood.models.vae import ConditionalVAE

SMALL: Any = {"discriminator_layers": 2, "discriminator_width": 8}

FORMS: dict[str, Options] = {
    "vae": VAE(),
    "beta_vae": BetaVAE(beta=4),
    "beta_vae-capacity": BetaVAE(capacity=5, gamma=3),
    "cvae": CVAE(),
    "dcvae-moments": DCVAE(beta=3),
    "dcvae-gaussian": DCVAE(beta=3, tc="gaussian"),
    "dcvae-discriminator": DCVAE(beta=3, tc="discriminator", **SMALL),
    "dcvae-mss": DCVAE(beta=3, tc="sampled"),
    "dcvae-mws": DCVAE(beta=3, tc="sampled", density="mws"),
    "dcvae-bound": DCVAE(tc="bound"),
    "factor_vae": FactorVAE(gamma=3, **SMALL),
    "tc_vae-moments": TCVAE(alpha=2, beta=3, gamma=0.5),
    "tc_vae-gaussian": TCVAE(alpha=2, beta=3, gamma=0.5, tc="gaussian"),
    "tc_vae-discriminator": TCVAE(alpha=2, beta=3, gamma=0.5, tc="discriminator", **SMALL),
    "tc_vae-mss": TCVAE(alpha=2, beta=3, gamma=0.5, tc="sampled"),
    "tc_vae-mws": TCVAE(alpha=2, beta=3, gamma=0.5, tc="sampled", density="mws"),
    "rf_vae": RFVAE(gamma=3, eta_s=2, eta_h=5, entropy_from=0, relevance_from=0, **SMALL),
    "dip_vae-I": DIPVAE(form="I", lambda_od=3, lambda_d=2),
    "dip_vae-II": DIPVAE(form="II", lambda_od=3, lambda_d=2),
    "info_vae": InfoVAE(alpha=0.5, lambda_mmd=20),
    "info_vae-rbf": InfoVAE(alpha=0.5, lambda_mmd=20, kernel="rbf"),
    "corex": CorEx(),
    "dan_vae": DANVAE(nuisance_dim=1, factors=("one", "two"), beta_a=1.5, beta_n=2, head_weight=3),
}
every_form = pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)


def model_for(options: Options, **changes: Any) -> ConditionalVAE:
    """A toy model built as the objective is defined: with or without conditions, with its own prior."""
    objective: Objective = options.build()
    given = {"condition_dim": 2 if objective.conditional else 0, "prior": objective.prior, **changes}
    return toy_model(**given)


def objective_for(options: Options, model: ConditionalVAE) -> Objective:
    """The objective, ready for this model, with its parameters moved away from a start at 0.

    Where it keeps running means of codes, they are those of another batch and stay so.
    """
    model.nuisance_dim = options.build().nuisance_dim
    objective, generator = prepared(options, model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in objective.parameters():
            if not parameter.any():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(0.3 * noise)
        if any(True for _ in objective.buffers()):
            for seed in (9, 10, 11):
                warm = toy_batch(model, seed=seed)
                objective.loss(model, warm, toy_context(warm))
    return objective.eval()


def batch_for(options: Options, model: ConditionalVAE, n: int = 40) -> Batch:
    """A toy batch with the nuisance factors that the objective wants, unknown for every fourth item."""
    batch, objective = toy_batch(model, n=n), options.build()
    if objective.factors:
        generator = torch.Generator().manual_seed(11)
        batch.factors = torch.randn(n, objective.factor_width, generator=generator, dtype=torch.float64)
        batch.factors[::4, -1] = torch.nan
    return batch


def context_for(objective: Objective, model: ConditionalVAE, batch: Batch, **context: Any) -> Context:
    """A context with a second batch where the objective wants one."""
    second = toy_batch(model, n=len(batch.x), seed=7) if objective.second_batch else None
    return toy_context(batch, second=second, **context)


def evaluate(
    options: Options, model: ConditionalVAE, batch: Batch, **context: Any
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """(loss of the model, its terms, its gradients), always with the same draw of z."""
    objective = objective_for(options, model)
    losses, terms = objective.loss(model, batch, context_for(objective, model, batch, **context))
    assert losses.keys() == objective.players(model).keys()
    return losses["model"], terms, gradients(losses["model"], model)


def encoder_part(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: slope for name, slope in found.items() if name.startswith("net.encoder")}


def largest(found: dict[str, Tensor]) -> float:
    return max(float(slope.abs().max()) for slope in found.values())
