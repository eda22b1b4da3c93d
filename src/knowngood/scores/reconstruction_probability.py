"""How unlikely x is under what the decoder says of its codes, the variance of each pixel included."""

from __future__ import annotations

from torch import Tensor

from knowngood.errors import SettingsError
from knowngood.models.likelihoods import GaussianLikelihood
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Condition, ScoreResult, State
from knowngood.scores.elbo import DrawnScore


class ReconstructionProbabilityScore(DrawnScore):
    """−L⁻¹ Σ_l log p(x | μ_x(z_l,c), σ_x(z_l,c)) in nats, z_l = μ + σ·ε_l drawn from q(z|x,c).

    An & Cho 2015, "Variational Autoencoder based Anomaly Detection using Reconstruction Probability". A pixel that
    always varies, where the decoder has learned a large σ, counts less than one that never does. It is the first term
    of `elbo`; the map is by pixel and adds up to the value.
    """

    has_map = True

    def check(self, model: ConditionalVAE) -> None:
        likelihood = model.likelihood
        if isinstance(likelihood, GaussianLikelihood) and likelihood.fixed is None:
            return
        fixed = f" with sigma = {likelihood.options.sigma} fixed" if isinstance(likelihood, GaussianLikelihood) else ""
        raise SettingsError(
            "score 'reconstruction_probability' weighs errors by the variance that the decoder has learned, and "
            f"likelihood '{likelihood.options.name}'{fixed} learns none; fit with likelihood={{'name': 'gaussian', "
            "'sigma': 'input'}, or score by 'reconstruction'"
        )

    def score(
        self, model: ConditionalVAE, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        found = self.negative_elbo(model, state, x, c, want_map=want_map)
        return ScoreResult(found.parts["elbo_reconstruction"], found.map, {})
