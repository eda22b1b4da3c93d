"""Conditional variational autoencoder."""

from __future__ import annotations

from knowngood.models.objectives.vae import VAEObjective


class CVAEObjective(VAEObjective):
    """−E log p(x|z,c) + KL(q(z|x,c) ‖ r(z|c)): minus the lower bound of Sohn et al. 2015, with x for their y.

    The VAE's two terms, of nets and a prior that see the conditions; without conditions it is the VAE.
    """

    conditional = True
