"""From raw scores to decisions: unknown conditions marginalised, p-values, one scale for all conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from knowngood.calibration import Calibration
from knowngood.calibration.conformal import on_scale
from knowngood.config import Settings
from knowngood.data.conditions import Expanded
from knowngood.detector.added_groups import IS, memberships
from knowngood.detector.pipeline import Pipeline
from knowngood.detector.scoring import Scored
from knowngood.detector.stated_conditions import Stated, mismatches, strata_by_itself
from knowngood.errors import DataError
from knowngood.scores import Adjustment, Score
from knowngood.scores.adjustment import marginal
from knowngood.scores.marginal import Rows, best_rows, choose_rule, hard, hard_p_values


class Decisions(NamedTuple):
    """What is decided for N items. Items that cannot be read have NaN and a reason in `errors`."""

    anomaly_score: np.ndarray  # (N,) comparable across conditions; above `limit(pipeline)` when p ≤ α, see `margin`
    p_values: np.ndarray  # (N,)
    parts: dict[str, np.ndarray]  # (N,) each, under the condition in `best`
    best: Expanded  # one row an item: its conditions, or those that explain it best where some were unknown
    row: np.ndarray  # (N,) which of the scored rows that is
    errors: dict[int, str]
    group: np.ndarray  # (N,) the added group of the calibration that decided, −1 for none
    stated: Stated | None = None  # whether the items fit their conditions, where these are checked
    compared: np.ndarray | None = None  # (N,) see `strata`; None where it is that of `best`

    @property
    def strata(self) -> np.ndarray:
        """(N,) the Mondrian group that the score was compared in, but for added groups: where stated conditions are
        checked that which the item looks like."""
        return self.best.stratum if self.compared is None else self.compared

    @property
    def joint_p_values(self) -> np.ndarray:
        """(N,) what verdicts are made of: the p-values; twice the smaller of both where stated conditions are checked.

        At most α of the normal items that fit their condition have a value ≤ α, whatever the two have in common.
        """
        if self.stated is None:
            return self.p_values
        return np.minimum(1.0, 2 * np.fmin(self.p_values, self.stated.p_values[:, 0]))

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
            None if batches[0].stated is None else Stated.concat([one.stated for one in batches if one.stated]),
            None if batches[0].compared is None else np.concatenate([batch.strata for batch in batches]),
        )


def decide(pipeline: Pipeline, scored: Scored, alpha: float | None = None) -> Decisions:
    """Scores and p-values of a batch of items; unknown conditions are marginalised.

    Hard: an item is as normal as its best condition makes it, p = max_c p_c, and the anomaly score is the smallest.
    Soft: S = −log Σ_c π_c exp(−S_c), compared with calibration items whose conditions were hidden too; for items of
    which no condition is known, by a model fitted with unknown="infer" and scored by a likelihood.
    Where stated conditions are checked, the score of every item is that with the checked ones marginalised, compared
    within the condition that it looks like; the mismatch with the stated one is compared apart, within that one. See
    `stated_conditions`.
    An item of an added group is compared with the calibration items of that group. One that may be of it, because a
    value is missing, gets the largest p-value of all groups that it may be of.

    Args:
        alpha: the false-alarm rate that decides which Mondrian groups are large enough; default that of the fit.
    """
    calibration, expanded, values = calibrated(pipeline), scored.expanded, scored.values
    n, level = len(scored.items), pipeline.level(alpha)
    score, p, row = np.full(n, np.nan), np.full(n, np.nan), np.searchsorted(expanded.item, np.arange(n))
    if pipeline.checked:
        values = whole_scores(pipeline, scored)[expanded.item]
    at = np.flatnonzero(~np.isnan(values) & possible(expanded))  # rows of items that could be read
    read, item = np.unique(expanded.item[at], return_inverse=True)
    strata = strata_by_itself(pipeline, scored) if pipeline.checked else expanded.stratum
    stratum = strata[at]
    shifted = calibration.anomaly_score(values[at], stratum)
    score[read] = hard(shifted, item)
    p[read] = hard_p_values(calibration.p_values(values[at], stratum, alpha=level), item)
    row[read] = at[best_rows(scored.values[at] if pipeline.checked else shifted, item)]
    if pipeline.marginal_calibration is not None:
        # It was made for items of which no condition is known.
        all_unknown = ~expanded.known & (np.bincount(expanded.item, minlength=n) == len(pipeline.schema.cells))
        at = at[all_unknown[expanded.item[at]]]
        which, item = np.unique(expanded.item[at], return_inverse=True)
        if len(at):
            hidden = marginal_scores(pipeline, scored, at)
            score[which] = on_common_scale(calibration, pipeline.marginal_calibration, hidden)
            p[which] = pipeline.marginal_calibration.p_values(hidden, alpha=level)
            row[which] = at[best_rows(values[at], item, expanded.log_weight[at])]
    parts = {name: part[row] for name, part in scored.parts.items()}
    best, group = expanded.take(row), np.full(n, -1)
    stated = _stated(pipeline, scored, level) if pipeline.checked else None
    if pipeline.added:
        belongs = memberships(pipeline.added, scored.items.conditions, n)
        if stated is not None:
            for k, common in enumerate(pipeline.mismatch_calibrations):
                groups = [added.mismatch[k] if added.mismatch else None for added in pipeline.added]
                known = stated.mismatch[:, k], stated.p_values[:, k]
                stated.mismatch[:, k], stated.p_values[:, k], _ = _by_added_group(
                    groups, common, belongs, *known, level
                )
        groups = [added.calibration for added in pipeline.added]
        score, p, group = _by_added_group(groups, calibration, belongs, score, p, level)
        belonging = belongs.max(axis=0)
        known = np.where(belonging == IS, True, best.known & (belonging == 0))
        label = [_with_added(pipeline, text, g) for text, g in zip(best.label, group.tolist(), strict=True)]
        best = replace(best, known=known, label=label)
    compared = strata[row] if pipeline.checked else None
    return Decisions(score, p, parts, best, row, dict(scored.errors), group, stated, compared)


def _stated(pipeline: Pipeline, scored: Scored, level: float) -> Stated:
    """Whether the items fit the conditions that are stated for them, before added groups."""
    found, expanded = mismatches(pipeline, scored), scored.expanded
    assert expanded.stated is not None
    p, scale = np.full_like(found.log_odds, np.nan), np.full_like(found.log_odds, np.nan)
    for k, calibration in enumerate(pipeline.mismatch_calibrations):
        at = np.flatnonzero(~np.isnan(found.log_odds[:, k]))
        values, stratum = found.log_odds[at, k], expanded.stratum[expanded.stated[at]]
        p[at, k], scale[at, k] = (
            calibration.p_values(values, stratum, alpha=level),
            calibration.anomaly_score(values, stratum),
        )
    return Stated(p, scale, found.looks_like, found.instead)


def _by_added_group(
    calibrations: Sequence[Calibration | None],
    common: Calibration,
    belongs: np.ndarray,
    score: np.ndarray,
    p: np.ndarray,
    level: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and p-values (N,) of items that belong (G, N) to added groups, and the group that decided.

    Args:
        calibrations: of each group, of scores on the scale of `common`; None of one that is not compared.
    """
    belonging, group = belongs.max(axis=0), np.full(len(p), -1)
    apart = (belonging == IS) & ~np.isnan(p)  # what the fit's own calibration says does not count for these
    found_p, found = np.where(apart, -np.inf, p), np.where(apart, np.inf, score)
    for g, calibration in enumerate(calibrations):
        at = np.flatnonzero((belongs[g] == belonging) & (belonging > 0) & ~np.isnan(p))
        if calibration is None:
            found_p[at], found[at] = np.nan, np.nan
            continue
        own = calibration.p_values(score[at], alpha=level)
        group[at[own > found_p[at]]] = g
        found_p[at] = np.maximum(found_p[at], own)
        found[at] = np.minimum(found[at], on_common_scale(common, calibration, score[at]))
    return found, found_p, group


def possible(expanded: Expanded) -> np.ndarray:
    """(M,) bool: the rows whose condition an item may have, that is its own one if it is stated."""
    if expanded.stated is None:
        return np.ones(len(expanded.item), dtype=bool)
    own = expanded.stated[expanded.item]
    return (own < 0) | (own == np.arange(len(own)))


def whole_scores(pipeline: Pipeline, scored: Scored) -> np.ndarray:
    """(N,) the score of each item by itself, whatever is stated in the checked columns: these are marginalised.

    Of a likelihood −log Σ_c π_c exp(−S_c), of a fusion by its own rule, of any other score the smallest S_c.
    """
    unread = np.isnan(scored.values[np.searchsorted(scored.expanded.item, np.arange(len(scored.items)))])
    if marginalised_softly(pipeline):
        filled = replace(scored, values=np.nan_to_num(scored.values))
        return np.where(unread, np.nan, marginal_scores(pipeline, filled))
    return np.where(unread, np.nan, hard(scored.values, scored.expanded.item))


def marginalised_softly(pipeline: Pipeline) -> bool:
    """Whether the score has a rule of its own for checked conditions, rather than the smallest of its values."""
    score, adjustments = pipeline.score, pipeline.adjustments
    soft = rule_of(pipeline.settings, score, adjustments) == "soft"
    return soft and (score.is_likelihood or pipeline.schema.inferable)


def rule_of(settings: Settings, score: Score, adjustments: Sequence[Adjustment]) -> Literal["soft", "hard"]:
    """How unknown conditions are marginalised.

    Raises:
        SettingsError: "soft" was asked for, and the score is no likelihood.
    """
    additive = all(adjustment.additive for adjustment in adjustments)  # then a likelihood is one still
    likelihood, own = score.is_likelihood and additive, score.marginalises and additive
    return choose_rule(settings.conditioning.marginalise, likelihood, score.options.name, marginalises=own)


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
    values = pipeline.schema.values_of(text) or {}
    kept = [f"{column}={value}" for column, value in values.items() if column not in added.values]
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


def margin(pipeline: Pipeline, decisions: Decisions) -> np.ndarray:
    """(N,) how far below its threshold each item is, negative exactly if it is flagged at the α of the fit.

    Of the anomaly score; where stated conditions are checked of the mismatch, if that is less. Where the items that
    another is compared with are too few for α, or enough though all others are not, the p-value decides on the sign.
    """
    own = limit(pipeline) - decisions.anomaly_score
    if decisions.stated is not None and pipeline.mismatch_calibrations:
        own = np.fmin(own, pipeline.mismatch_calibrations[0].pooled_threshold - decisions.stated.mismatch[:, 0])
    flagged = decisions.joint_p_values <= pipeline.settings.alpha
    return np.where(flagged, np.minimum(own, -np.finfo(np.float64).tiny), np.maximum(own, 0.0))


def on_common_scale(known: Calibration, calibration: Calibration, marginal: np.ndarray) -> np.ndarray:
    """Scores of another calibration, shifted so that the pooled threshold of `known` is theirs too."""
    return on_scale(marginal, calibration.pooled_threshold, known.pooled_threshold)
