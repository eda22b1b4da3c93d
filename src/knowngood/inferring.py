"""Which condition an item was made under: p(c|x) over all that the fit has seen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from knowngood.config import Elbo, PriorDistance
from knowngood.errors import SettingsError
from knowngood.rows import Items
from knowngood.scores import Score, ScoreResult
from knowngood.scores.base import item_sum
from knowngood.scores.elbo import ElboScore
from knowngood.scores.marginal import soft
from knowngood.scores.views import ViewScore
from knowngood.vae import ConditionalVAE

if TYPE_CHECKING:
    from knowngood.pipeline import Pipeline


class PriorDensity(Score):
    """−log r(μ|c) in nats, μ the posterior mean of x, for an encoder that does not see c."""

    is_likelihood = True

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
        mean = model.encode(x, c).mean
        return ScoreResult(-item_sum(model.prior(c, like=mean).log_prob(mean)), None, {})


def condition_probabilities(pipeline: Pipeline, items: Items) -> tuple[list[str], np.ndarray]:
    """The K conditions in words, and p(c|x) of each item (N, K): rows add up to 1; NaN for one that cannot be read.

    p(c|x) ∝ π_c · p(x|c), π_c the share of c among the good items of the fit. With priors that are held apart
    (`prior="separated"`), whose encoder does not see c, p(x|c) is r(μ|c), the density of the item's code μ under the
    prior of c: the Bayes classifier that `class_aware` teaches. Elsewhere it is exp(ELBO(x, c)); there an encoder that
    sees c could place any x near the prior of any c. Over views both are summed, and the odds so are sharper than they
    should be, since views of one image are not independent.

    What conditions an item carries is not looked at.

    Raises:
        SettingsError: there are not two conditions to tell apart, one has not the role "infer", or the model sees none
            of them, or is on features.
    """
    check_tells_conditions(pipeline)
    schema, model = pipeline.schema, pipeline.model
    score: Score = PriorDensity(PriorDistance()) if model.prior_name == "separated" else ElboScore(Elbo())
    state = score.fit(model, [])
    score = ViewScore(score) if model.views is not None else score
    judge = replace(pipeline, score=score, state=state)
    labels = schema.expand({}, 1, unknown="infer").label
    found = []
    for part in pipeline.portions(items):
        expanded = schema.expand({}, len(part), unknown="infer")
        values, _, _ = judge.raw_scores(part, expanded)
        joint = (expanded.log_weight - values).reshape(len(part), len(labels))
        evidence = soft(values, expanded.item, expanded.log_weight)  # −log p(x)
        found.append(np.exp(joint + evidence[:, None]))
    p = np.concatenate(found)
    return labels, p / p.sum(axis=1, keepdims=True)


def check_tells_conditions(pipeline: Pipeline) -> None:
    """Raise SettingsError where `condition_probabilities` has no meaning."""
    schema, model = pipeline.schema, pipeline.model
    if model.patches is not None:
        raise SettingsError("p(c|x) is of whole items, and with features a model knows places; fit on pixels")
    if (
        not model.condition_dim
        or len(schema.cells) < 2
        or any("infer" not in column.roles for column in schema.columns)
    ):
        raise SettingsError(
            "p(c|x) needs a model that sees at least two conditions, all with the role 'infer'; fit with conditions, "
            "and an objective that uses them such as cvae"
        )
