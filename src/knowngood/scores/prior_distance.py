"""How far the code of x lies from where codes of its condition belong."""

from __future__ import annotations

from torch import Tensor

from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Condition, Score, ScoreResult, State, item_sum


class PriorDistanceScore(Score):
    """½ Σ_d (μ_d − m_d(c))² / s_d(c)², μ the posterior mean of x and r(z|c) = N(m(c), diag s²(c)) the prior.

    Where c is not known the best condition counts, so it is the distance to the nearest prior. It is most useful
    where the encoder does not see c, with `prior="separated"`. It has no map.
    """

    def score(
        self, model: ConditionalVAE, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        mean = model.encode(x, c).mean
        prior = model.prior(c, like=mean)
        return ScoreResult(0.5 * item_sum((mean - prior.mean).square() * (-prior.log_var).exp()), None, {})
