"""How far the likelihood of x is from its mean over normal items, on either side."""

from __future__ import annotations

import torch
from torch import Tensor

from knowngood.errors import DataError
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Batches, Condition, ScoreResult, State
from knowngood.scores.elbo import DrawnScore

FEWEST = 10  # items for a stratum to have a mean of its own


class TypicalityScore(DrawnScore):
    """|NLL(x) − mean NLL of the normals that were fitted on, in the stratum of x|, in nats; NLL is the −ELBO.

    Nalisnick et al., arXiv:1906.02994, with one item at a time and the mean of the training set for the entropy.
    Strata with fewer than 10 normals, and stratum −1, have the mean of all. The part `typicality_nll` is NLL(x).
    """

    @torch.no_grad()
    def fit(self, model: ConditionalVAE, batches: Batches) -> State:
        """{"noise": (L, D), "mean_nll": (S+1,) float64}; the last is the mean of all together."""
        state, values, strata = super().fit(model, []), [], []
        for batch in batches:
            values.append(self.negative_elbo(model, state, batch.x, batch.c).values)
            strata.append(batch.stratum.to(values[-1].device))
        if not values:
            raise DataError("score 'typicality' compares with the likelihood of normals; no normals were given")
        return {**state, "mean_nll": stratum_means(torch.cat(values), torch.cat(strata))}

    def score(
        self, model: ConditionalVAE, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        nll = self.negative_elbo(model, state, x, c).values
        mean = state["mean_nll"].to(nll)
        own = mean[stratum.to(nll.device).clamp(-1, len(mean) - 1)]  # −1 is the last, that of all
        return ScoreResult((nll - own).abs(), None, {"typicality_nll": nll})


def stratum_means(values: Tensor, strata: Tensor) -> Tensor:
    """(S+1,) means of values (N,) by stratum (N,), that of all last; strata of fewer than 10 have that of all too."""
    everyone = values.mean()
    groups = [values[strata == s] for s in range(int(strata.max()) + 1)]
    return torch.stack([*(g.mean() if len(g) >= FEWEST else everyone for g in groups), everyone])
