"""What an ensemble finds unlikely, or disagrees on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from knowngood.config import WAIC, Elbo
from knowngood.errors import SettingsError
from knowngood.models.objectives.base import Batch
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Score, ScoreResult
from knowngood.scores.elbo import ElboScore


class WAICScore(Score):
    """−(E_m log p_m(x|c) − Var_m log p_m(x|c)) over the members m of an ensemble. It has no map.

    Choi, Jang and Alemi, arXiv:1810.01392: Watanabe's criterion for one item. log p_m is the ELBO, with the same draws
    of z for all members, and the variance is divided by M. Parts: `waic_mean`, −E_m in nats, and `waic_variance`, in
    nats squared; they add up to the value. The variance grows as the square of the number of values that differ, so
    that on images it often outweighs the mean.
    """

    def __init__(self, options: WAIC) -> None:
        super().__init__(options)
        self.elbo: ElboScore = Elbo(samples=options.samples).build()

    def fit(self, model: ConditionalVAE, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """{"noise": (L, D)}, that of the ELBO.

        Raises:
            SettingsError: the model is no ensemble.
        """
        if len(model.members) < 2:
            raise SettingsError("score 'waic' is what the models of an ensemble disagree on; set ensemble=5, say")
        return self.elbo.fit(model, ())

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
        found = [self.elbo.score(member, state, x, c, stratum).values for member in model.members]
        surprise = torch.stack(found)  # (M, B)
        parts = {"waic_mean": surprise.mean(0), "waic_variance": surprise.var(0, correction=0)}
        return ScoreResult(parts["waic_mean"] + parts["waic_variance"], None, parts)
