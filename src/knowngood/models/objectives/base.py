"""The interface between a method and the training loop, and the ELBO's two terms that all methods share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from knowngood.config import Options
from knowngood.models.base import Batch
from knowngood.models.distributions import DiagonalGaussian
from knowngood.models.vae import ConditionalVAE

Losses = tuple[dict[str, Tensor], dict[str, Tensor]]


@dataclass
class Context:
    """What a loss may depend on beside the batch."""

    step: int
    total_steps: int
    generator: torch.Generator  # on the device
    n_items: int
    stratum_counts: Tensor  # (S,) training items of each stratum
    second: Batch | None = None  # an independent batch, when the objective asks for one
    anomalies: Batch | None = None  # labelled anomalies, when the run has any


class Penalty(nn.Module):
    """A term that is added to the model's loss of any objective."""

    def forward(
        self, objective: Objective, model: ConditionalVAE, batch: Batch, ctx: Context
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(cost in nats, a scalar; {term: per-sample values (B,) in nats})."""
        raise NotImplementedError


class Augmentation(nn.Module):
    """A random change of the items before the objective sees them, another one at each step."""

    def forward(self, batch: Batch, ctx: Context) -> tuple[Batch, Context]:
        raise NotImplementedError


class Objective(nn.Module):
    """One method. It owns its extra parameters; the loop gives each player gradient from its own loss only.

    What is asked of any method is composed: `penalties` are added to its loss, `augmentation` changes its batches.

    Class attributes say what the method needs:
        conditional: encoder, decoder and prior are conditional on c (else the model is built without conditions).
        prior: the prior that the method is defined with, used where the prior is "auto".
        stratified: batches hold few Mondrian groups (strata), at least 16 items of each.
        second_batch: `Context.second`, an independent batch, must be there.
        nuisance_dim: latent dimensions, the last ones, that hold nuisance factors.
        apart: these dimensions have an encoder of their own.
        factors: names of the nuisance factors y that it gets as `Batch.factors`; they are no input of the networks.
        factor_width: K, the columns of `Batch.factors`; set before `prepare` if there are factors.
        stratum_counts: (S,) training items of each Mondrian group; set before `prepare` if there are several.
        unit_factors: y lie in [0, 1] instead of being standardised.
        labelled_share: share of the normal items whose nuisance factors are known; the others have NaN.
        score: the anomaly score that the method is defined with, used where the score is "auto".
        learns_from_anomalies: labelled anomalies enter the training by `anomaly_loss` where labels are "auto".
    """

    conditional = True
    prior = "standard"
    stratified = False
    second_batch = False
    nuisance_dim = 0
    apart = False
    factors: tuple[str, ...] = ()
    factor_width = 0
    stratum_counts: Tensor | None = None
    unit_factors = False
    labelled_share = 1.0
    score = "elbo"
    learns_from_anomalies = False
    options: Any

    def __init__(self, options: Options | None = None) -> None:
        super().__init__()
        self.options = options
        self.augmentation: Augmentation | None = None
        self.penalties = nn.ModuleList()

    def prepare(self, model: ConditionalVAE) -> None:
        """Make parameters whose sizes the model decides, like it in dtype and device, if they are not there yet.

        Training calls it before anything else, and so must whoever calls `loss` or loads a saved state by hand.
        """

    def players(self, model: ConditionalVAE) -> dict[str, list[nn.Parameter]]:
        """Parameters by player; "model" trains at `lr`, all others at `lr_secondary`."""
        return {"model": list(model.parameters())}

    def betas(self, player: str) -> tuple[float, float] | None:
        """Adam's decay rates of the gradient's mean and square, for a player; None: those of the training options."""
        return None

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> Losses:
        """({player: scalar loss}, {term: per-sample values (B,) in nats}) of the method itself."""
        raise NotImplementedError

    def training_loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> Losses:
        """`loss` of the augmented batch, plus the penalties, which are taken of the batch as it is."""
        augmented: tuple[Batch, Context] = (batch, ctx) if self.augmentation is None else self.augmentation(batch, ctx)
        losses, terms = self.loss(model, *augmented)
        for penalty in self.penalties:
            cost, added = penalty(self, model, batch, ctx)
            losses, terms = {**losses, "model": losses["model"] + cost}, {**terms, **added}
        return losses, terms

    def anomaly_loss(self, model: ConditionalVAE, anomalies: Batch, ctx: Context, shift: float) -> Tensor:
        """The shifted prior's loss of labelled anomalies, a scalar: rec + KL(q(z|x,c) ‖ N(shift·1, I)) (DAn-VAE).

        The decoder's parameters are constants here, so that it does not learn to reconstruct anomalies.
        """
        q = model.encode(anomalies.x, anomalies.c)
        z = q.rsample(torch.empty_like(q.mean).normal_(generator=ctx.generator))
        return (stopped_reconstruction(model, anomalies, z) + q.kl(shifted(q, shift)).sum(1)).mean()

    def kept_state(self) -> dict[str, Tensor]:
        """What of its own parameters is worth keeping with the trained model; none of a mere adversary."""
        return {}


class ElboTerms(NamedTuple):
    """What a VAE's loss is made of, for a batch of B items and D dimensions."""

    z: Tensor  # (B, D), one draw from the posterior
    posterior: DiagonalGaussian
    reconstruction: Tensor  # (B,) −log p(x|z,c), summed over pixels
    kl: Tensor  # (B,) KL(q(z|x,c) ‖ r(z|c)), summed over dimensions


def elbo_terms(model: ConditionalVAE, batch: Batch, ctx: Context) -> ElboTerms:
    """The two terms of −ELBO by one reparametrised draw (arXiv:1312.6114, eq. 10)."""
    q = model.encode(batch.x, batch.c)
    noise = torch.empty_like(q.mean).normal_(generator=ctx.generator)
    z = q.rsample(noise)
    log_p = model.likelihood.log_prob(batch.x, model.decode(z, batch.c))
    kl = q.kl(model.prior(batch.c, like=q.mean))
    return ElboTerms(z, q, -log_p.flatten(1).sum(1), kl.sum(1))


def shifted(like: DiagonalGaussian, shift: float) -> DiagonalGaussian:
    """N(shift·1, I) for each row of `like`."""
    return DiagonalGaussian(torch.full_like(like.mean, shift), torch.zeros_like(like.mean))


def stopped_reconstruction(model: ConditionalVAE, batch: Batch, z: Tensor) -> Tensor:
    """−log p(x|z,c) (B,), with gradient for z alone; what a batch norm has gathered stays as it is, too."""
    constants = {name: parameter.detach() for name, parameter in model.named_parameters()}
    constants |= {name: buffer.clone() for name, buffer in model.named_buffers()}
    return -torch.func.functional_call(model, constants, (batch.x, z, batch.c)).flatten(1).sum(1)
