"""Total correlation within Mondrian groups (strata), TC(z|c), as a penalty: four estimates with one face.

What makes an estimate a penalty is its gradient: docs/methods/dcvae.md says up to which D each one's is right.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knowngood.config import TCOptions
from knowngood.models.distributions import DiagonalGaussian
from knowngood.models.objectives.base import Objective
from knowngood.models.objectives.densities import SMALLEST_GROUP, total_correlation
from knowngood.models.objectives.discriminator import BETAS, Discriminator
from knowngood.models.objectives.moment_ratio import GaussianRatio, MomentRatio
from knowngood.models.vae import ConditionalVAE


class Estimate(NamedTuple):
    tc: Tensor  # (B,) nats; its mean estimates TC, and its gradient through z is that of the penalty
    known: Tensor  # (B,) bool, False where the stratum has too few codes; tc is 0 there
    losses: dict[str, Tensor]  # of the estimate's own players


class SampledTC(nn.Module):
    """From the posteriors of the batch, by minibatch sampling: see `densities`. Batches must hold few strata."""

    stratified = True

    def __init__(self, options: TCOptions) -> None:
        super().__init__()
        self.options = options

    def prepare(self, latent_dim: int, counts: Tensor, like: Tensor) -> None:
        """Make what depends on D and on the training items of each stratum, counts (S,), if it is not there yet."""

    def forward(
        self, z: Tensor, q: DiagonalGaussian, stratum: Tensor, counts: Tensor, generator: torch.Generator
    ) -> Estimate:
        return Estimate(*total_correlation(z, q, stratum, counts, self.options.density), {})


class GaussianTC(SampledTC):
    """From covariances of recent codes: see `GaussianRatio`. Exact for Gaussian codes, blind to other dependence."""

    stratified = False
    kind: type[GaussianRatio] = GaussianRatio
    ratio: GaussianRatio  # made by `prepare`

    def prepare(self, latent_dim: int, counts: Tensor, like: Tensor) -> None:
        if not hasattr(self, "ratio"):
            self.ratio = self.kind(latent_dim, counts.to(like.device)).to(like)

    def forward(
        self, z: Tensor, q: DiagonalGaussian, stratum: Tensor, counts: Tensor, generator: torch.Generator
    ) -> Estimate:
        tc, known = self.ratio(z, stratum)
        if self.training:
            self.ratio.update(z.detach(), stratum)
        return Estimate(tc, known, {})


class MomentTC(GaussianTC):
    """From covariances and moments of the third and fourth order of recent codes: see `MomentRatio`."""

    kind = MomentRatio


class DiscriminatorTC(GaussianTC):
    """The Gaussian log ratio plus what a discriminator learns to add to it, given the stratum.

    It learns from the codes of the batch against the same codes with each dimension permuted within the stratum. A
    stratum with fewer than 16 items in the batch is left out.
    """

    stratified = True
    discriminator: Discriminator  # made by `prepare`

    def prepare(self, latent_dim: int, counts: Tensor, like: Tensor) -> None:
        super().prepare(latent_dim, counts, like)
        if not hasattr(self, "discriminator"):
            layers, width = self.options.discriminator_layers, self.options.discriminator_width
            self.discriminator = Discriminator(latent_dim + len(counts), layers, width).to(like)
            nn.init.zeros_(self.discriminator.last.weight)  # it starts as the Gaussian ratio

    def forward(
        self, z: Tensor, q: DiagonalGaussian, stratum: Tensor, counts: Tensor, generator: torch.Generator
    ) -> Estimate:
        kinds = F.one_hot(stratum, len(self.ratio.codes.slot)).to(z)
        many = kinds.sum(0)[stratum] >= SMALLEST_GROUP
        product = permuted_within(z.detach(), stratum, generator)
        tc, known = self.ratio(z, stratum)
        against = self.ratio(product, stratum)[0]
        joint, other = (torch.cat((self.ratio.standardised(of, stratum), kinds), 1) for of in (z, product))
        more, loss = self.discriminator.odds_and_loss(joint, other, base=(tc.detach(), against), of=many)
        if self.training:
            self.ratio.update(z.detach(), stratum)
        known = known & many
        return Estimate(torch.where(known, tc + more, 0.0), known, {"discriminator": loss})


def permuted_within(z: Tensor, stratum: Tensor, generator: torch.Generator) -> Tensor:
    """z (B, D), each dimension shuffled by itself among the items of a stratum: Π_d q(z_d|c) from q(z|c)."""
    order = torch.rand(z.shape, generator=generator, device=z.device).argsort(0)
    order = order.gather(0, stratum[order].argsort(dim=0, stable=True))  # by stratum, at random within each
    return torch.empty_like(z).index_copy_(0, stratum.argsort(stable=True), z.gather(0, order))


ESTIMATES = {"moments": MomentTC, "gaussian": GaussianTC, "discriminator": DiscriminatorTC, "sampled": SampledTC}


class TCObjective(Objective):
    """An objective with an estimate of TC: within strata if it is conditional, else of all codes together."""

    def __init__(self, options: TCOptions) -> None:
        super().__init__(options)
        self.estimate = ESTIMATES[options.tc](options) if options.tc in ESTIMATES else None

    def prepare(self, model: ConditionalVAE) -> None:
        if self.estimate is not None:
            counts = self.stratum_counts if self.conditional else None
            counts = torch.ones(1) if counts is None else counts
            self.estimate.prepare(model.latent_dim, counts, next(model.parameters()))

    def players(self, model: ConditionalVAE) -> dict[str, list[nn.Parameter]]:
        own = list(self.parameters())
        return {**super().players(model), **({"discriminator": own} if own else {})}

    def betas(self, player: str) -> tuple[float, float] | None:
        return BETAS if player == "discriminator" else super().betas(player)
