"""The interface between a method and the training loop, and the ELBO's two terms that all methods share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from knowngood.models.vae import ConditionalVAE, DiagonalGaussian


@dataclass
class Batch:
    """B items on the device."""

    x: Tensor  # (B, *shape) scaled
    c: Tensor | None  # (B, W) encoded conditions
    stratum: Tensor  # (B,) int64
    label: Tensor  # (B,) 0 good, 1 anomalous, NaN unknown
    index: Tensor  # (B,) int64, place in the training set
    factors: Tensor | None = None  # (B, K) nuisance factors y, standardised; NaN where unknown


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


class Objective(nn.Module):
    """One method. It owns its extra parameters; the loop gives each player gradient from its own loss only.

    Class attributes tell the rest of the library what the method needs:
        conditional: the conditions enter the nets (else the model is built without them).
        prior: the prior it is defined with, used when the setting is "auto".
        stratified: batches of few strata, at least 16 items of each.
        second_batch: `Context.second` must be there.
        nuisance_dim: how many dimensions, the last ones, are for nuisance factors.
        factors: columns whose values it gets as `Batch.factors`; they never enter the nets.
        factor_width: K, set before `prepare` if there are factors.
        labelled_share: of the good items, how many show their factors.
        scoring: the score it is defined with, used when the setting is "auto".
        anomaly_term: how it uses labelled anomalies when the setting is "auto"; "ignore" for not at all.
        shift: where `anomaly_loss` wants the codes of labelled anomalies, on every dimension.
    """

    conditional = True
    prior = "standard"
    stratified = False
    second_batch = False
    nuisance_dim = 0
    factors: tuple[str, ...] = ()
    factor_width = 0
    labelled_share = 1.0
    scoring = "elbo"
    anomaly_term = "ignore"
    shift = 10.0

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

    def surprise(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> Tensor:
        """How odd the items are, with gradient, (B,) in nats: −ELBO by one draw."""
        elbo = elbo_terms(model, batch, ctx)
        return elbo.reconstruction + elbo.kl

    def surprise_of(self, terms: dict[str, Tensor]) -> Tensor:
        """The same of items whose `loss` was just taken, out of its terms."""
        return terms["reconstruction"] + terms["kl"]

    def anomaly_loss(self, model: ConditionalVAE, anomalies: Batch, ctx: Context) -> Tensor:
        """The shifted prior's loss of labelled anomalies, a scalar: rec + KL(q(z|x,c) ‖ N(shift·1, I)).

        The encoder learns to put them elsewhere; the decoder's parameters are constants here, so it does not learn to
        draw them (DAn-VAE).
        """
        q = model.encode(anomalies.x, anomalies.c)
        z = q.rsample(torch.empty_like(q.mean).normal_(generator=ctx.generator))
        away = DiagonalGaussian(torch.full_like(q.mean, self.shift), torch.zeros_like(q.mean))
        return (stopped_reconstruction(model, anomalies, z) + q.kl(away).sum(1)).mean()

    def kept_state(self) -> dict[str, Tensor]:
        """What of its own parameters is worth keeping with the trained model; none of a mere adversary."""
        return {}


class ElboTerms(NamedTuple):
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


def stopped_reconstruction(model: ConditionalVAE, batch: Batch, z: Tensor) -> Tensor:
    """−log p(x|z,c) (B,), with gradient for z and none for the decoder or the likelihood.

    What a batch norm of the decoder has gathered stays as it is, too.
    """
    constants = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    constants |= {f"model.{name}": buffer.clone() for name, buffer in model.named_buffers()}
    log_p = torch.func.functional_call(_LogLikelihood(model), constants, (batch, z))
    return -log_p.flatten(1).sum(1)


class _LogLikelihood(nn.Module):
    """log p(x|z,c) as one call, so that `functional_call` can hold all parameters fixed."""

    def __init__(self, model: ConditionalVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, z: Tensor) -> Tensor:
        return self.model.likelihood.log_prob(batch.x, self.model.decode(z, batch.c))
