"""The interface between a method and the training loop, and the ELBO's two terms that all methods share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from knowngood.vae import ConditionalVAE, DiagonalGaussian


@dataclass
class Batch:
    """B items on the device."""

    x: Tensor  # (B, *shape) scaled
    c: Tensor | None  # (B, W) encoded conditions
    stratum: Tensor  # (B,) int64
    label: Tensor  # (B,) 0 good, 1 anomalous, NaN unknown
    index: Tensor  # (B,) int64, place in the training set


@dataclass
class Context:
    """What a loss may depend on beside the batch."""

    step: int
    total_steps: int
    generator: torch.Generator  # on the device
    n_items: int
    stratum_counts: Tensor  # (S,) training items of each stratum
    second: Batch | None = None  # an independent batch, when the objective asks for one


class Objective(nn.Module):
    """One method. It owns its extra parameters; the loop gives each player gradient from its own loss only.

    Class attributes tell the rest of the library what the method needs:
        conditional: the conditions enter the nets (else the model is built without them).
        prior: the prior it is defined with, used when the setting is "auto".
        stratified: batches of few strata, at least 16 items of each.
        second_batch: `Context.second` must be there.
    """

    conditional = True
    prior = "standard"
    stratified = False
    second_batch = False

    def prepare(self, model: ConditionalVAE) -> None:
        """Make parameters whose sizes the model decides, like it in dtype and device, if they are not there yet.

        Training calls it before anything else, and so must whoever calls `loss` or loads a saved state by hand.
        """

    def players(self, model: ConditionalVAE) -> dict[str, list[nn.Parameter]]:
        """Parameters by player; "model" trains at `lr`, all others at `lr_secondary`."""
        return {"model": list(model.parameters())}

    def betas(self, player: str) -> tuple[float, float]:
        """Adam's decay rates of the gradient's mean and square, for a player."""
        return 0.9, 0.999

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """({player: scalar loss}, {term: per-sample values (B,) in nats})."""
        raise NotImplementedError


class ElboTerms(NamedTuple):
    z: Tensor  # (B, D), one draw from the posterior
    posterior: DiagonalGaussian
    reconstruction: Tensor  # (B,) −log p(x|z,c), summed over pixels
    kl: Tensor  # (B,) KL(q(z|x,c) ‖ r(z|c)), summed over dimensions


def elbo_terms(model: ConditionalVAE, batch: Batch, ctx: Context) -> ElboTerms:
    """The two terms of −ELBO by one reparametrised draw (arXiv:1312.6114, eq. 7 and 10)."""
    q = model.encode(batch.x, batch.c)
    noise = torch.empty_like(q.mean).normal_(generator=ctx.generator)
    z = q.rsample(noise)
    log_p = model.likelihood.log_prob(batch.x, model.decode(z, batch.c))
    kl = q.kl(model.prior(batch.c, like=q.mean))
    return ElboTerms(z, q, -log_p.flatten(1).sum(1), kl.sum(1))
