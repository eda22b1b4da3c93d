"""p(c|x): which condition an item was made under, over all that the fit has seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from knowngood.detector.pipeline import Items, Pipeline
from knowngood.detector.scoring import Comparison, score_batches
from knowngood.errors import SettingsError
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.marginal import Cells

TEMPERATURE = "condition_temperature"  # in a pipeline's state
TRIED = np.geomspace(1, 1e4, 161)
FEWEST, MOST, ROWS = 30, 256, 4096  # normal items that it is fitted to, and these times conditions at most


def condition_probabilities(pipeline: Pipeline, items: Items) -> tuple[list[str], np.ndarray]:
    """The K conditions in words, and p(c|x) of each item (N, K): rows add up to 1; NaN for one that cannot be read.

    p(c|x) ∝ π_c · p(x|c)^(1/T), π_c the share of c among the normal items of the fit. With class-conditional priors far
    apart (`prior="separated"`), whose encoder does not see c, p(x|c) is a density of the item's code μ: by the nearest
    codes of c where the score has `neighbours`, else r(μ|c) under the prior, the Bayes classifier that `class_aware`
    trains. Elsewhere it is exp(ELBO(x, c)); there an encoder that sees c could place any x near the prior of any c.

    Such odds are over-confident, so T is fitted to normal items that the model was not fitted to, see
    `fitted_temperature`. p compares the known conditions with each other: what is of none of them may still be most
    like one, and whether it is anomalous is for the score to say. The conditions that items carry are not used.

    Raises:
        SettingsError: there are not two conditions to tell apart, one has not the role "infer", or the model is no VAE.
    """
    labels, log_p, log_share = _log_densities(pipeline, items)
    t = pipeline.state.get(TEMPERATURE)
    return labels, _posterior(log_p, log_share, 1.0 if t is None else float(t))


def fit_temperature(pipeline: Pipeline, items: Items) -> Pipeline:
    """The pipeline with T for p(c|x), fitted to held-out normal items (N,); as it is where p(c|x) has no meaning.

    T is 1 where fewer than 30 items can be read.
    """
    if not has_posterior(pipeline):
        return pipeline
    state = {**pipeline.state, TEMPERATURE: torch.tensor(_temperature(pipeline, items), dtype=torch.float64)}
    return replace(pipeline, state=state)


def fitted_temperature(log_p: np.ndarray, log_share: np.ndarray, truth: np.ndarray) -> float:
    """The T ≥ 1 with the largest Σ log p(c|x) over N items of conditions `truth`. Guo et al., arXiv:1706.04599.

    To the sum comes one more item that is of its second likeliest condition, as in the rule of succession: N items
    classified right say that about one of N + 1 is classified wrong, and not that none ever is.

    Args:
        log_p: (N, K) log p(x|c). log_share: (K,) log π_c. truth: (N,) numbers of conditions.
    """

    def likelihood(t: float) -> float:
        p = np.maximum(_posterior(log_p, log_share, t), np.finfo(np.float64).tiny)
        right, second = p[np.arange(len(p)), truth], np.sort(p, axis=1)[:, -2]
        return float(np.log(right).sum() + np.log(second).mean())

    return float(max(TRIED, key=likelihood))


def has_posterior(pipeline: Pipeline) -> bool:
    """Whether `condition_probabilities` has a meaning."""
    model = pipeline.model
    return isinstance(model, ConditionalVAE) and bool(model.condition_dim) and pipeline.schema.inferable


def check_posterior(pipeline: Pipeline) -> None:
    """Raise SettingsError where it has none."""
    if not has_posterior(pipeline):
        raise SettingsError(
            "p(c|x) needs a VAE with at least two conditions, all with the role 'infer'; fit with conditions and an "
            "objective that uses them such as cvae"
        )


def _temperature(pipeline: Pipeline, items: Items) -> float:
    cells = Cells.of(pipeline.schema, pipeline.device)
    if cells is None or len(cells.stratum.unique()) < len(cells) or len(items) < FEWEST:
        return 1.0
    most = max(FEWEST, min(MOST, ROWS // len(cells)))
    items = items[np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)]
    _, log_p, log_share = _log_densities(pipeline, items)
    strata = pipeline.schema.expand(items.conditions, len(items)).stratum
    own = strata[:, None] == cells.stratum.cpu().numpy()
    known = np.isfinite(log_p).all(1) & own.any(1)
    return fitted_temperature(log_p[known], log_share, own[known].argmax(1)) if known.sum() >= FEWEST else 1.0


def _log_densities(pipeline: Pipeline, items: Items) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The K conditions in words, log p(x|c) (N, K), and log π_c (K,)."""
    check_posterior(pipeline)
    model = pipeline.model
    assert isinstance(model, ConditionalVAE)
    _, density, state = Comparison.of(pipeline)
    scoring = replace(pipeline, score=density, state=state, adjustments=())
    every = pipeline.schema.expand({}, 1, unknown="infer")
    batches = score_batches(scoring, items.replace(conditions={}), unknown="infer")
    values = np.concatenate([batch.values for batch in batches])
    return every.label, -values.reshape(len(items), len(every.label)), every.log_weight


def _posterior(log_p: np.ndarray, log_share: np.ndarray, t: float) -> np.ndarray:
    joint = log_p / t + log_share
    p = np.exp(joint - joint.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)
