"""β-TCVAE: the KL taken apart into what z knows of the item, how its dimensions depend, and each one's own KL."""

from __future__ import annotations

import torch
from torch import Tensor

from knowngood.models.base import Batch
from knowngood.models.objectives.base import Context, elbo_terms
from knowngood.models.objectives.densities import aggregate_posterior
from knowngood.models.objectives.total_correlation import TCObjective
from knowngood.models.vae import ConditionalVAE


class TCVAEObjective(TCObjective):
    """rec + α·I(z;n) + β·TC(z) + γ·Σ_j KL(q(z_j) ‖ r(z_j)). arXiv:1802.04942, eq. 4.

    The parts are means over one draw of z for each item. The last is Σ_j [log q̂(z_j) − log r(z_j)], from the posteriors
    of the batch, which is accurate in one dimension. With `tc="sampled"` the others are log q(z|n) − log q̂(z) and
    log q̂(z) − Σ_j log q̂(z_j); with the whole training set as the batch (B = N) MSS makes each part exact for the drawn
    z, and MWS adds constants, of which the gradient is 0. Otherwise TC is estimated by itself, and I(z;n) is what is
    left of log q(z|n) − log r(z). At α = β = γ the densities cancel: the sum is the KL by one draw.
    """

    conditional = False

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        elbo, given = elbo_terms(model, batch, ctx), self.options
        everything = torch.zeros_like(batch.stratum)
        counts = torch.full((1,), ctx.n_items, device=elbo.z.device)
        joint, marginals, _ = aggregate_posterior(elbo.z, elbo.posterior, everything, counts, given.density)
        losses: dict[str, Tensor] = {}
        if given.tc == "sampled":
            tc = joint - marginals.sum(1)
        else:
            assert self.estimate is not None
            tc, _, losses = self.estimate(elbo.z, elbo.posterior, everything, counts, ctx.generator)
        own = (marginals - model.prior(batch.c, like=elbo.z).log_prob(elbo.z)).sum(1)
        information = elbo.posterior.log_prob(elbo.z).sum(1) - tc - marginals.sum(1)
        loss = (elbo.reconstruction + given.alpha * information + given.beta * tc + given.gamma * own).mean()
        terms = {"reconstruction": elbo.reconstruction, "kl": elbo.kl}
        return {"model": loss, **losses}, {**terms, "information": information, "tc": tc, "dimension_kl": own}
