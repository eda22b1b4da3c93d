"""Disentangled conditional VAE."""

from __future__ import annotations

from torch import Tensor

from knowngood.config import DCVAE
from knowngood.models.base import Batch
from knowngood.models.objectives.base import Context, Objective, elbo_terms
from knowngood.models.objectives.densities import total_correlation
from knowngood.models.vae import ConditionalVAE


class DCVAEObjective(Objective):
    """−E log p(x|z,c) + KL(q(z|x,c) ‖ r(z|c)) + (β−1)·TC(z|c). The dCVAE paper, eq. 12 and 18.

    The paper's bound (eq. 18) already carries TC(z|c) with weight 1, inside its KL, like any CVAE with a factorised
    prior. `tc="bound"` is that bound and takes a learned prior; `tc="explicit"` adds the rest of a weight β.
    TC is estimated within strata of the conditions; a stratum with too few items in a batch adds nothing to it and is
    counted in the term `tc_skipped`.
    """

    def __init__(self, options: DCVAE) -> None:
        super().__init__(options)
        self.density = options.density
        self.explicit = options.tc == "explicit"
        self.beta = options.beta if options.beta is not None else (2.0 if self.explicit else 1.0)
        self.stratified = self.explicit
        self.prior = "standard" if self.explicit else "learned"

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        elbo = elbo_terms(model, batch, ctx)
        loss = (elbo.reconstruction + elbo.kl).mean()
        terms = {"reconstruction": elbo.reconstruction, "kl": elbo.kl}
        if self.explicit:
            tc, estimated = total_correlation(elbo.z, elbo.posterior, batch.stratum, ctx.stratum_counts, self.density)
            loss = loss + (self.beta - 1) * tc.mean()
            terms |= {"tc": tc, "tc_skipped": 1 - estimated.to(tc.dtype)}
        return {"model": loss}, terms
