"""How far the posterior of x is from the prior."""

from __future__ import annotations

from torch import Tensor

from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Condition, Score, ScoreResult, State, item_sum


class KLScore(Score):
    """KL(q(z|x,c) ‖ r(z|c)) in nats, summed over latent dimensions. It has no map."""

    def score(
        self, model: ConditionalVAE, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        posterior = model.encode(x, c)
        return ScoreResult(item_sum(posterior.kl(model.prior(c, like=posterior.mean))), None, {})
