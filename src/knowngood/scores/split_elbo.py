"""The score of a model with a split latent: what nuisance factors explain costs nothing."""

from __future__ import annotations

from torch import Tensor

from knowngood.errors import SettingsError
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Batches, Condition, Score, ScoreResult, State, item_sum, pixel_sum


class SplitElboScore(Score):
    """S(x) = −log p(x|μ_a, μ_n, c) + KL(q(z_a|x,c) ‖ r(z_a|c)) in nats, z_n being the model's last `nuisance_dim` dims.

    Parts: `split_reconstruction` and `split_kl`, which add up to the value, and beside them `nuisance_kl`,
    KL(q(z_n|x,c) ‖ r(z_n|c)): how far the nuisance lies from its prior. The map is the first term by pixel and adds
    up to `split_reconstruction`. It is no likelihood: −ELBO bounds −log p(x|c) because it pays for all of z, and S
    leaves a part unpaid, so it can lie on either side.
    """

    has_map = True

    def check(self, model: ConditionalVAE) -> None:
        if not model.nuisance_dim:
            raise SettingsError(
                "score 'split_elbo' needs a model that keeps dimensions for nuisance factors, and this one keeps none "
                "(nuisance_dim = 0); fit with objective = 'dan_vae', or score by 'elbo'"
            )

    def fit(self, model: ConditionalVAE, batches: Batches) -> State:
        self.check(model)
        return {}

    def score(
        self, model: ConditionalVAE, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        posterior = model.encode(x, c)
        kl = posterior.kl(model.prior(c, like=posterior.mean))  # (B, D)
        of_anomaly, of_nuisance = kl.tensor_split([model.latent_dim - model.nuisance_dim], dim=1)
        log_p = model.likelihood.log_prob(x, model.decode(posterior.mean, c))
        spread = pixel_sum(log_p) if want_map else None
        reconstruction = -item_sum(log_p if spread is None else spread)
        parts = {"split_reconstruction": reconstruction, "split_kl": item_sum(of_anomaly)}
        values = reconstruction + parts["split_kl"]
        return ScoreResult(values, None if spread is None else -spread, {**parts, "nuisance_kl": item_sum(of_nuisance)})
