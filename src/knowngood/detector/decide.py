"""From raw scores to decisions: unknown conditions marginalised, p-values, one scale for all conditions."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from knowngood.calibration import Calibration
from knowngood.data.conditions import Expanded
from knowngood.detector.added_groups import IS, memberships
from knowngood.detector.pipeline import Pipeline
from knowngood.detector.scoring import Scored
from knowngood.errors import DataError
from knowngood.scores.adjustment import marginal
from knowngood.scores.marginal import Rows, best_rows, hard, hard_p_values


class Decisions(NamedTuple):
    """What is decided for N items. Items that cannot be read have NaN and a reason in `errors`."""

    anomaly_score: np.ndarray  # (N,) comparable across conditions; above `limit(pipeline)` exactly when p ≤ α
    p_values: np.ndarray  # (N,)
    parts: dict[str, np.ndarray]  # (N,) each, under the condition in `best`
    best: Expanded  # one row an item: its conditions, or those that explain it best where some were unknown
    row: np.ndarray  # (N,) which of the scored rows that is
    errors: dict[int, str]
    group: np.ndarray  # (N,) the added group of the calibration that decided, −1 for none

    @classmethod
    def concat(cls, batches: list[Decisions]) -> Decisions:
        """Of batches, one after the other. `row` keeps counting within its batch."""
        starts = np.cumsum([0] + [len(batch.p_values) for batch in batches])
        return cls(
            np.concatenate([batch.anomaly_score for batch in batches]),
            np.concatenate([batch.p_values for batch in batches]),
            {name: np.concatenate([batch.parts[name] for batch in batches]) for name in batches[0].parts},
            Expanded.concat([batch.best for batch in batches]),
            np.concatenate([batch.row for batch in batches]),
            {int(at) + i: why for at, one in zip(starts, batches, strict=False) for i, why in one.errors.items()},
            np.concatenate([batch.group for batch in batches]),
        )


def decide(pipeline: Pipeline, scored: Scored, alpha: float | None = None) -> Decisions:
    """Scores and p-values of a batch of items; unknown conditions are marginalised.

    Hard: an item is as normal as its best condition makes it, p = max_c p_c, and the anomaly score is the smallest.
    Soft: S = −log Σ_c π_c exp(−S_c), compared with calibration items whose conditions were hidden too; for items of
    which no condition is known, by a model fitted with unknown="infer" and scored by a likelihood.
    An item of an added group is compared with the calibration items of that group. One that may be of it, because a
    value is missing, gets the largest p-value of all groups that it may be of.

    Args:
        alpha: the false-alarm rate that decides which Mondrian groups are large enough; default that of the fit.
    """
    calibration, expanded, values = calibrated(pipeline), scored.expanded, scored.values
    n = len(scored.items)
    score, p, row = np.full(n, np.nan), np.full(n, np.nan), np.searchsorted(expanded.item, np.arange(n))
    at = np.flatnonzero(~np.isnan(values))  # rows of items that could be read
    read, item = np.unique(expanded.item[at], return_inverse=True)
    stratum = expanded.stratum[at]
    shifted = calibration.anomaly_score(values[at], stratum)
    score[read] = hard(shifted, item)
    p[read] = hard_p_values(calibration.p_values(values[at], stratum, alpha=alpha), item)
    row[read] = at[best_rows(shifted, item)]
    if pipeline.marginal_calibration is not None:
        # It was made for items of which no condition is known.
        all_unknown = ~expanded.known & (np.bincount(expanded.item, minlength=n) == len(pipeline.schema.cells))
        at = at[all_unknown[expanded.item[at]]]
        which, item = np.unique(expanded.item[at], return_inverse=True)
        if len(at):
            hidden = marginal_scores(pipeline, scored, at)
            score[which] = on_common_scale(pipeline, pipeline.marginal_calibration, hidden)
            p[which] = pipeline.marginal_calibration.p_values(hidden, alpha=alpha)
            row[which] = at[best_rows(values[at], item, expanded.log_weight[at])]
    parts = {name: part[row] for name, part in scored.parts.items()}
    best, group = expanded.take(row), np.full(n, -1)
    if pipeline.added:
        belongs = memberships(pipeline.added, scored.items.conditions, n)
        score, p, group = _by_added_group(pipeline, belongs, score, p, alpha)
        belonging = belongs.max(axis=0)
        known = np.where(belonging == IS, True, best.known & (belonging == 0))
        label = [_with_added(pipeline, text, g) for text, g in zip(best.label, group.tolist(), strict=True)]
        best = replace(best, known=known, label=label)
    return Decisions(score, p, parts, best, row, dict(scored.errors), group)


def _by_added_group(
    pipeline: Pipeline, belongs: np.ndarray, score: np.ndarray, p: np.ndarray, alpha: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and p-values (N,) of items that belong (G, N) to added groups, and the group that decided."""
    belonging, group = belongs.max(axis=0), np.full(len(p), -1)
    apart = (belonging == IS) & ~np.isnan(p)  # what the fit's own calibration says does not count for these
    found_p, found = np.where(apart, -np.inf, p), np.where(apart, np.inf, score)
    for g, added in enumerate(pipeline.added):
        at = np.flatnonzero((belongs[g] == belonging) & (belonging > 0) & ~np.isnan(p))
        own = added.calibration.p_values(score[at], alpha=alpha)
        group[at[own > found_p[at]]] = g
        found_p[at] = np.maximum(found_p[at], own)
        found[at] = np.minimum(found[at], on_common_scale(pipeline, added.calibration, score[at]))
    return found, found_p, group


def marginal_scores(pipeline: Pipeline, scored: Scored, at: np.ndarray | slice = slice(None)) -> np.ndarray:
    """(n,) the scores of n items with the conditions marginalised, from their rows, which lie at these positions."""
    expanded, parts = scored.expanded, {name: part[at] for name, part in scored.parts.items()}
    item = np.unique(expanded.item[at], return_inverse=True)[1]
    rows = Rows(scored.values[at], parts, expanded.stratum[at], item, expanded.log_weight[at])
    return marginal(pipeline.score, pipeline.adjustments, pipeline.state, rows)


def condition_names(decisions: Decisions) -> list[str]:
    """The condition of each item in words."""
    best = decisions.best
    return [text + ("" if known else " (inferred)") for text, known in zip(best.label, best.known, strict=True)]


def _with_added(pipeline: Pipeline, text: str, group: int) -> str:
    """The condition of an item in words, with the values of the added group that decided."""
    if group < 0:
        return text or ("all" if pipeline.added else "")
    added = pipeline.added[group]
    kept = [part for part in text.split(", ") if part and part.split("=")[0] not in added.values]
    return ", ".join([*kept, added.name])


def calibrated(pipeline: Pipeline) -> Calibration:
    """The calibration; DataError if there is none."""
    if pipeline.calibration is None:
        raise DataError("this model is not calibrated; call calibrate on normal items first")
    return pipeline.calibration


def limit(pipeline: Pipeline) -> float:
    """The anomaly score above which an item is flagged at the α of the fit; +inf if that α cannot be guaranteed."""
    return calibrated(pipeline).pooled_threshold


def limit_in(pipeline: Pipeline, added: Calibration) -> float:
    """The anomaly score above which an item of an added group is flagged at the α of the fit; see `on_common_scale`."""
    own, common = added.pooled_threshold, limit(pipeline)
    return common if np.isfinite(own) and np.isfinite(common) else own


def on_common_scale(pipeline: Pipeline, calibration: Calibration, marginal: np.ndarray) -> np.ndarray:
    """Marginal scores, shifted so that `limit(pipeline)` is their threshold too."""
    own, common = calibration.pooled_threshold, limit(pipeline)
    if not np.isfinite(own) or not np.isfinite(common):
        return marginal
    shifted = marginal - (own - common)
    above = np.maximum(shifted, np.nextafter(common, np.inf))
    return np.where(marginal > own, above, np.minimum(shifted, common))
