"""Which condition an item was made under: p(c|x) over all that the fit has seen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from knowngood.config import Elbo, PriorDistance
from knowngood.detector.rows import Items
from knowngood.errors import SettingsError
from knowngood.models.vae import ConditionalVAE
from knowngood.scores import Score, ScoreResult
from knowngood.scores.base import item_sum
from knowngood.scores.elbo import ElboScore
from knowngood.scores.hidden import Cells
from knowngood.scores.views import ViewScore

if TYPE_CHECKING:
    from knowngood.detector.pipeline import Pipeline

TEMPERATURE = "condition_temperature"  # in a pipeline's state
TRIED = np.geomspace(1, 1e4, 161)
FEWEST, MOST, ROWS = 30, 256, 4096  # good items that it is fitted to, and these times conditions at most


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

    p(c|x) ∝ π_c · p(x|c)^(1/T), π_c the share of c among the good items of the fit. With priors that are held apart
    (`prior="separated"`), whose encoder does not see c, p(x|c) is r(μ|c), the density of the item's code μ under the
    prior of c: the Bayes classifier that `class_aware` teaches. Elsewhere it is exp(ELBO(x, c)); there an encoder that
    sees c could place any x near the prior of any c. Over views both are summed.

    Such odds are far too sure of themselves, so T was fitted to good items that the model was not fitted on, see
    `temperature`. p tells the known conditions from each other: what is of none of them may still be most like one,
    and whether it is odd is for the score to say.

    What conditions an item carries is not looked at.

    Raises:
        SettingsError: there are not two conditions to tell apart, one has not the role "infer", or the model sees none
            of them, or is on features.
    """
    labels, log_p, log_share = _log_densities(pipeline, items)
    t = pipeline.state.get(TEMPERATURE)
    return labels, _posterior(log_p, log_share, 1.0 if t is None else float(t))


def temperature(pipeline: Pipeline, items: Items) -> float:
    """T for p(c|x), fitted to good items (N,) whose conditions are known; 1 where fewer than 30 of them can be read."""
    cells = Cells.of(pipeline.schema, pipeline.device)
    if cells is None or len(cells.stratum.unique()) < len(cells) or len(items) < FEWEST:
        return 1.0
    most = max(FEWEST, min(MOST, ROWS // len(cells)))
    items = items[np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)]
    _, log_p, log_share = _log_densities(pipeline, items)
    own = pipeline.expand(items, "error").stratum[:, None] == cells.stratum.cpu().numpy()
    known = np.isfinite(log_p).all(1) & own.any(1)
    return fitted_temperature(log_p[known], log_share, own[known].argmax(1)) if known.sum() >= FEWEST else 1.0


def fitted_temperature(log_p: np.ndarray, log_share: np.ndarray, truth: np.ndarray) -> float:
    """The T ≥ 1 with the largest Σ log p(c|x) over N items of conditions `truth`. Guo et al., arXiv:1706.04599.

    To the sum comes one item more that is of its second likeliest condition, as in the rule of succession: N items
    told right say that about one of N + 1 is told wrong, and not that none ever is.

    Args:
        log_p: (N, K) log p(x|c). log_share: (K,) log π_c. truth: (N,) numbers of conditions.
    """

    def fit(t: float) -> float:
        p = np.maximum(_posterior(log_p, log_share, t), np.finfo(np.float64).tiny)
        right, second = p[np.arange(len(p)), truth], np.sort(p, axis=1)[:, -2]
        return float(np.log(right).sum() + np.log(second).mean())

    return float(max(TRIED, key=fit))


def _log_densities(pipeline: Pipeline, items: Items) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The K conditions in words, log p(x|c) (N, K), and log π_c (K,)."""
    check_tells_conditions(pipeline)
    schema, model = pipeline.schema, pipeline.model
    score: Score = PriorDensity(PriorDistance()) if model.prior_name == "separated" else ElboScore(Elbo())
    state = score.fit(model, [])
    score = ViewScore(score) if model.views is not None else score
    judge = replace(pipeline, score=score, state=state)
    every = schema.expand({}, 1, unknown="infer")
    found = []
    for part in pipeline.portions(items):
        values, _, _ = judge.raw_scores(part, schema.expand({}, len(part), unknown="infer"))
        found.append(-values.reshape(len(part), len(every.label)))
    return every.label, np.concatenate(found), every.log_weight


def _posterior(log_p: np.ndarray, log_share: np.ndarray, t: float) -> np.ndarray:
    joint = log_p / t + log_share
    p = np.exp(joint - joint.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def tells_conditions(pipeline: Pipeline) -> bool:
    """Whether `condition_probabilities` has a meaning."""
    schema, model = pipeline.schema, pipeline.model
    inferable = all("infer" in column.roles for column in schema.columns)
    return model.patches is None and bool(model.condition_dim) and len(schema.cells) > 1 and inferable


def check_tells_conditions(pipeline: Pipeline) -> None:
    """Raise SettingsError where it has none."""
    if pipeline.model.patches is not None:
        raise SettingsError("p(c|x) is of whole items, and with features a model knows places; fit on pixels")
    if not tells_conditions(pipeline):
        raise SettingsError(
            "p(c|x) needs a model that sees at least two conditions, all with the role 'infer'; fit with conditions, "
            "and an objective that uses them such as cvae"
        )
