"""From raw scores of rows to what is said of items: conditions summed out, p-values, one scale for all conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from knowngood.data.conditions import Expanded
from knowngood.detector.rows import joined, take
from knowngood.scores.marginal import Rows, best_rows, hard, hard_p_values

if TYPE_CHECKING:
    from knowngood.detector.pipeline import Pipeline


class Judgement(NamedTuple):
    """What is said of N items. Items that could not be read have NaN and a reason in `errors`."""

    anomaly_score: np.ndarray  # (N,) comparable across conditions; flagged above `Pipeline.limit`
    p_value: np.ndarray  # (N,)
    parts: dict[str, np.ndarray]  # (N,) each, under the condition in `best`
    best: Expanded  # one row an item: its conditions, or those that explain it best where some were unknown
    errors: dict[int, str]

    @classmethod
    def joined(cls, parts: list[Judgement]) -> Judgement:
        """Of parts of the items, one after the other."""
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0] + [len(part.p_value) for part in parts])
        return cls(
            np.concatenate([part.anomaly_score for part in parts]),
            np.concatenate([part.p_value for part in parts]),
            {name: np.concatenate([part.parts[name] for part in parts]) for name in parts[0].parts},
            joined([part.best for part in parts]),
            {int(start) + i: why for start, part in zip(starts, parts, strict=False) for i, why in part.errors.items()},
        )


def judge(
    pipeline: Pipeline,
    n: int,
    expanded: Expanded,
    values: np.ndarray,
    parts: dict[str, np.ndarray],
    errors: dict[int, str],
    alpha: float | None = None,
) -> Judgement:
    """What raw scores (M,) of the rows of n items, with their parts (M,), say; see `Pipeline.judge`."""
    calibration = pipeline.calibrated()
    score, p, row = np.full(n, np.nan), np.full(n, np.nan), np.searchsorted(expanded.item, np.arange(n))
    at = np.flatnonzero(~np.isnan(values))  # rows of items that could be read
    read, item = np.unique(expanded.item[at], return_inverse=True)
    stratum = expanded.stratum[at]
    shifted = calibration.anomaly_score(values[at], stratum)
    score[read] = hard(shifted, item)
    p[read] = hard_p_values(calibration.p_values(values[at], stratum, alpha=alpha), item)
    row[read] = at[best_rows(shifted, item)]
    if pipeline.hidden is not None:
        summed_out = _summed_out(pipeline, expanded)[expanded.item[at]]
        at, item = at[summed_out], item[summed_out]
        which, item = np.unique(item, return_inverse=True)
        if len(at):
            which = read[which]
            of = {name: part[at] for name, part in parts.items()}
            rows = Rows(values[at], of, expanded.stratum[at], item, expanded.log_weight[at])
            summed = pipeline.score.summed_out(pipeline.state, rows)
            score[which] = _on_common_scale(pipeline, summed)
            p[which] = pipeline.hidden.p_values(summed, alpha=alpha)
            row[which] = at[best_rows(values[at], item, expanded.log_weight[at])]
    return Judgement(score, p, {name: part[row] for name, part in parts.items()}, take(expanded, row), errors)


def _summed_out(pipeline: Pipeline, expanded: Expanded) -> np.ndarray:
    """(N,) True for items of which no condition is known: those that `hidden` was calibrated for."""
    counts = np.bincount(expanded.item, minlength=len(expanded.known))
    return ~expanded.known & (counts == len(pipeline.schema.cells))


def _on_common_scale(pipeline: Pipeline, summed: np.ndarray) -> np.ndarray:
    """Scores with conditions summed out, shifted so that `Pipeline.limit` is their threshold too."""
    assert pipeline.hidden is not None
    own, common = pipeline.hidden.pooled_threshold, pipeline.limit
    if not np.isfinite(own) or not np.isfinite(common):
        return summed
    shifted = summed - (own - common)
    above = np.maximum(shifted, np.nextafter(common, np.inf))
    return np.where(summed > own, above, np.minimum(shifted, common))
