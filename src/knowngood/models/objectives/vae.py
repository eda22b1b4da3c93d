"""Variational autoencoder, and the methods that are its loss with other conditions or another prior."""

from __future__ import annotations

from torch import Tensor

from knowngood.models.base import Batch
from knowngood.models.objectives.base import Context, Objective, elbo_terms
from knowngood.models.vae import ConditionalVAE


class VAEObjective(Objective):
    """−E log p(x|z) + KL(q(z|x) ‖ r(z)): minus the variational lower bound of arXiv:1312.6114."""

    conditional = False

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        elbo = elbo_terms(model, batch, ctx)
        loss = (elbo.reconstruction + elbo.kl).mean()
        return {"model": loss}, {"reconstruction": elbo.reconstruction, "kl": elbo.kl}


class CVAEObjective(VAEObjective):
    """−E log p(x|z,c) + KL(q(z|x,c) ‖ r(z|c)): minus the lower bound of Sohn et al. 2015, with x for their y.

    The VAE's two terms, of nets and a prior that see the conditions; without conditions it is the VAE.
    """

    conditional = True


class CorExObjective(VAEObjective):
    """Correlation explanation: −E log q(x|z) + Σ_j KL(p(z_j|x) ‖ r_j(z_j)), with a factorised q(x|z).

    Σ_i H(x_i) minus this loss is a lower bound on TC(x), and on the part of it that z explains, whatever r is (Gao et
    al., arXiv:1802.05822; written out in the dCVAE paper, eq. 8). The marginals r_j are normal distributions with
    learned mean and variance. They are the model's learned prior, so that every score that asks for the prior meets the
    marginals that were learned; with `prior="standard"` it is the VAE.
    """

    prior = "learned"
