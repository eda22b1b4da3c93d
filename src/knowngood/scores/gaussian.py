"""How far a patch lies from what is usual at its place: the patch model without its latent."""

from __future__ import annotations

from torch import Tensor

from knowngood.errors import SettingsError
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Score, ScoreResult, item_sum


class GaussianScore(Score):
    """½ ‖x‖² of a whitened patch: half the squared Mahalanobis distance to the Gaussian of its place and conditions.

    With `shrink=0` and `context=0` this is PaDiM (arXiv:2011.08785, eq. 2), squared and halved; the nets have no say.
    """

    def check(self, model: ConditionalVAE) -> None:
        if model.patches is None:
            raise SettingsError(
                "score 'gaussian' is the distance to what is usual at a place, and only features have Gaussians of "
                "places; set features='efficientnet_lite0', or take scoring='mahalanobis'"
            )

    def score(
        self,
        model: ConditionalVAE,
        state: dict[str, Tensor],
        x: Tensor,
        c: Tensor | None,
        stratum: Tensor,
        *,
        want_map: bool = False,
    ) -> ScoreResult:
        return ScoreResult(0.5 * item_sum(x.square()), None, {})
