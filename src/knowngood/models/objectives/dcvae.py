"""Disentangled conditional VAE."""

from __future__ import annotations

from torch import Tensor

from knowngood.config import DCVAE
from knowngood.models.base import Batch
from knowngood.models.objectives.base import Context, elbo_terms
from knowngood.models.objectives.total_correlation import TCObjective
from knowngood.models.vae import ConditionalVAE


class DCVAEObjective(TCObjective):
    """−E log p(x|z,c) + KL(q(z|x,c) ‖ r(z|c)) + (β−1)·TC(z|c). The dCVAE paper, eq. 12 and 18.

    The paper's bound (eq. 18) already carries TC(z|c) with weight 1, inside its KL, like any CVAE with a factorised
    prior. `tc="bound"` is that bound and takes a learned prior; the others estimate TC and add the rest of a weight β.
    TC is estimated within strata of the conditions; where there are too few codes yet it adds nothing and is counted
    in the term `tc_skipped`.
    """

    def __init__(self, options: DCVAE) -> None:
        super().__init__(options)
        self.beta = options.beta if options.beta is not None else (1.0 if self.estimate is None else 2.0)
        self.stratified = self.estimate is not None and self.estimate.stratified
        self.prior = "learned" if self.estimate is None else "standard"

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        elbo = elbo_terms(model, batch, ctx)
        loss = (elbo.reconstruction + elbo.kl).mean()
        terms = {"reconstruction": elbo.reconstruction, "kl": elbo.kl}
        if self.estimate is None:
            return {"model": loss}, terms
        counts = ctx.stratum_counts
        tc, known, losses = self.estimate(elbo.z, elbo.posterior, batch.stratum, counts, ctx.generator)
        terms |= {"tc": tc, "tc_skipped": 1 - known.to(tc.dtype)}
        return {"model": loss + (self.beta - 1) * tc.mean(), **losses}, terms
