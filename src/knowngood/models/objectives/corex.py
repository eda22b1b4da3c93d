"""CorEx: correlation explanation by an autoencoder with learned marginals."""

from __future__ import annotations

from knowngood.models.objectives.vae import VAEObjective


class CorExObjective(VAEObjective):
    """Correlation explanation: −E log q(x|z) + Σ_j KL(p(z_j|x) ‖ r_j(z_j)), with a factorised q(x|z).

    Σ_i H(x_i) minus this loss is a lower bound on TC(x), and on the part of it that z explains, whatever r is (Gao et
    al., arXiv:1802.05822; written out in the dCVAE paper, eq. 8). The marginals r_j are normal distributions with
    learned mean and variance. They are the model's learned prior, so that every score that asks for the prior meets the
    marginals that were learned; with `prior="standard"` it is the VAE.
    """

    prior = "learned"
