"""The calibration of a pipeline: what normal items score that it was not fitted to, and what their maps reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from knowngood.calibration import Calibration, largest_value, one_of_each
from knowngood.config import Settings
from knowngood.data import ImageSet
from knowngood.data.conditions import ConditionSchema, Unknown
from knowngood.data.progress import track
from knowngood.detector.added_groups import AddedGroup
from knowngood.detector.decide import (
    calibrated,
    decide,
    marginal_scores,
    possible,
    rule_of,
    whole_scores,
)
from knowngood.detector.image_statistics import ImageStatistics
from knowngood.detector.maps import image_maps
from knowngood.detector.pipeline import Items, Method, Pipeline
from knowngood.detector.scoring import BEYOND, refuse_unread, score_batches
from knowngood.detector.stated_conditions import mismatches, strata_by_itself
from knowngood.errors import SettingsError
from knowngood.scores import Adjustment, Score

MOST_KEPT = 100  # suspicious items, with a model
MOST_NAMED = 5  # conditions in a message


class NormalScores(NamedTuple):
    """What n calibration items scored, (n,) each: raw scores, strata, marginal scores and largest values of maps."""

    ids: np.ndarray
    values: np.ndarray
    strata: np.ndarray
    marginal: np.ndarray | None
    maps: np.ndarray | None  # None where the model has no calibrated maps
    groups: np.ndarray | None  # items of one group belong together; None where all are independent
    mismatch: np.ndarray | None = None  # (n, 1 + J) with the stated conditions, where these are checked
    stated: np.ndarray | None = None  # (n,) the Mondrian group stated; `strata` is then that which the item looks like

    @classmethod
    def concat(cls, parts: Sequence[NormalScores]) -> NormalScores:
        """Of several sets, one after the other."""
        columns: Any = [None if column[0] is None else np.concatenate(column) for column in zip(*parts, strict=True)]  # type: ignore[arg-type]
        return cls(*columns)

    def of(self, some: np.ndarray) -> NormalScores:
        """Those of some items, (n,) bool or positions."""
        columns: Any = [None if column is None else column[some] for column in self]
        return NormalScores(*columns)


def calibrate(pipeline: Pipeline, normals: Items, method: Method) -> tuple[Pipeline, list[dict[str, Any]]]:
    """The pipeline calibrated on normal items that took no part in the fit, and the most suspicious of them.

    Added groups are gone.

    Raises:
        DataError: an item lacks a condition, or has a new one.
    """
    pipeline.schema.check_known(normals.conditions, len(normals))
    scores = normal_scores(pipeline, normals)
    statistics = image_statistics(normals, scores.strata)
    pipeline = replace(with_calibration(pipeline, scores, method), statistics=statistics, added=())
    return pipeline, suspicious(pipeline, scores)


def add_group(pipeline: Pipeline, normals: Items, values: dict[str, str], unknown: Unknown | None = None) -> Pipeline:
    """The pipeline with a Mondrian group of its calibration alone: items with these values, column → text.

    Their anomaly scores, as the other calibration gives them, are compared with those of the normal items given. A
    group of these values that was added before is replaced. Of items that belong together one counts.

    Raises:
        SettingsError: the group column, which is not asked for when items are scored.
        DataError: an item cannot be read. NotEnoughNormals: too few for the α of the fit.
    """
    if pipeline.settings.conditioning.group in values:
        raise SettingsError(
            f"as_group: '{pipeline.settings.conditioning.group}' is the group column, which says what belongs together "
            "and does not count when items are scored; give the column another name, such as 'camera'"
        )
    if normals.groups is not None:
        normals = normals[one_of_each(normals.groups)]
    alpha, columns = pipeline.level(), {name: np.full(len(normals), value) for name, value in values.items()}
    before = tuple(group for group in pipeline.added if group.values != values)
    # Read as items of the group, and judged by the calibration of the fit alone.
    pending = AddedGroup(values, Calibration.fit([0.0], alpha=alpha))
    reading = replace(pipeline, added=(pending,))
    scores, maps, mismatch = [], [], []
    locates = pipeline.map_calibration is not None
    stated = normals.annotate(None, columns)
    batches = score_batches(reading, stated, unknown=unknown, maps=locates, alternatives=True)
    for batch in track(batches, "calibration", len(normals), size=lambda batch: len(batch.items)):
        refuse_unread(batch.items, batch.errors)
        decisions = decide(replace(pipeline, added=()), batch)
        scores.append(np.where(decisions.anomaly_score < BEYOND, decisions.anomaly_score, np.inf))  # inf is refused
        if decisions.stated is not None:
            mismatch.append(decisions.stated.mismatch)
        if locates:
            maps += [largest_value(one) for _, one in image_maps(pipeline, batch, decisions.row)]
    group = AddedGroup(
        values,
        Calibration.fit(np.concatenate(scores), alpha=alpha),
        Calibration.fit(maps, alpha=alpha) if locates else None,
        image_statistics(normals, np.zeros(len(normals), dtype=np.int64)),
        normals.name,
        mismatch_calibrations(np.concatenate(mismatch), alpha=alpha) if mismatch else (),
    )
    return replace(pipeline, added=(*before, group))


def mismatch_calibrations(
    mismatch: np.ndarray, strata: np.ndarray | None = None, names: Sequence[str] = ("all",), *, alpha: float
) -> tuple[Calibration, ...]:
    """Of the mismatch of n items (n, 1 + J), in Mondrian groups (n,); none if some column is NaN throughout."""
    known = ~np.isnan(mismatch)
    if not known.any(axis=0).all():
        return ()
    strata = np.zeros(len(mismatch), np.int64) if strata is None else strata
    columns = zip(mismatch.T, known.T, strict=True)
    return tuple(Calibration.fit(values[some], strata[some], names, alpha=alpha) for values, some in columns)


def image_statistics(normals: Items, group: np.ndarray) -> ImageStatistics | None:
    """Of images that calibrate; None for rows of a table."""
    return ImageStatistics.of(normals, group) if isinstance(normals, ImageSet) else None


def normal_scores(pipeline: Pipeline, normals: Items) -> NormalScores:
    """Scores of normal items whose conditions are known; where there are maps their largest values too, for regions.

    Raises:
        DataError: an item cannot be read, or lacks a condition.
    """
    values, strata, maps, mismatch, stated = [], [], [], [], []
    locates = pipeline.score.has_map and isinstance(normals, ImageSet)
    batches = score_batches(pipeline, normals, unknown="error", maps=locates, alternatives=True)
    for batch in track(batches, "calibration", len(normals), size=lambda batch: len(batch.items)):
        refuse_unread(batch.items, batch.errors)
        scores = whole_scores(pipeline, batch) if pipeline.checked else batch.values
        values.append(np.where(scores < BEYOND, scores, np.inf))  # refused: a normal item cannot overflow
        rows = np.flatnonzero(possible(batch.expanded))
        strata.append((strata_by_itself(pipeline, batch) if pipeline.checked else batch.expanded.stratum)[rows])
        if pipeline.checked:
            stated.append(batch.expanded.stratum[rows])
            mismatch.append(mismatches(pipeline, batch).log_odds)
        if batch.grids is not None:
            maps += [largest_value(one) for _, one in image_maps(pipeline, batch, rows)]
    marginal, largest = None, np.array(maps) if maps else None
    if not pipeline.checked and marginalises(pipeline.settings, pipeline.score, pipeline.adjustments, pipeline.schema):
        hidden = score_batches(pipeline, normals.replace(conditions={}), unknown="infer")
        marginal = np.concatenate([marginal_scores(pipeline, batch) for batch in hidden])
    odds, told = (np.concatenate(some) if some else None for some in (mismatch, stated))
    return NormalScores(
        normals.ids, np.concatenate(values), np.concatenate(strata), marginal, largest, normals.groups, odds, told
    )


def with_calibration(pipeline: Pipeline, scores: NormalScores, method: Method) -> Pipeline:
    """The pipeline with thresholds and p-values from these scores, one of each group that belongs together.

    p-values are (1 + k)/(n + 1) of n independent scores. So of a group in a Mondrian group one random item counts.
    """
    names, alpha = pipeline.schema.stratum_names, pipeline.level()
    stated = scores.strata if scores.stated is None else scores.stated
    own, within_stated, one = (
        slice(None) if scores.groups is None else one_of_each(scores.groups, strata)
        for strata in (scores.strata, stated, None)
    )
    calibration = Calibration.fit(scores.values[own], scores.strata[own], names, alpha=alpha)
    marginal = None if scores.marginal is None else Calibration.fit(scores.marginal[one], alpha=alpha)
    # A map is that of the stated condition, and so compared within it.
    maps = (
        None
        if scores.maps is None
        else Calibration.fit(scores.maps[within_stated], stated[within_stated], names, alpha=alpha)
    )
    mismatch: tuple[Calibration, ...] = ()
    if scores.mismatch is not None:
        mismatch = mismatch_calibrations(scores.mismatch[within_stated], stated[within_stated], names, alpha=alpha)
    return replace(
        pipeline,
        calibration=calibration,
        marginal_calibration=marginal,
        map_calibration=maps,
        mismatch_calibrations=mismatch,
        calibrated_by=method,
    )


def suspicious(pipeline: Pipeline, scores: NormalScores) -> list[dict[str, Any]]:
    """The calibration items with the highest scores, at most 100, highest first: id, anomaly_score, condition.

    If anomalies are among the calibration items, thresholds are too high and anomalies are missed. It is enough that
    a person checks those with the highest scores and removes anomalies (Label-Trim, arXiv:2502.04807).
    """
    calibration = calibrated(pipeline)
    scale = calibration.anomaly_score(scores.values, scores.strata)
    names = np.array([*calibration.stratum_names, "none"])[scores.strata]
    order = np.argsort(-scale, kind="stable")[:MOST_KEPT]
    return [{"id": str(scores.ids[i]), "anomaly_score": float(scale[i]), "condition": str(names[i])} for i in order]


def marginalises(settings: Settings, score: Score, adjustments: Sequence[Adjustment], schema: ConditionSchema) -> bool:
    """Whether items of which no condition is known are marginalised by the score's own rule, not the best condition.

    Raises:
        SettingsError: that was asked for, and the score is no likelihood.
    """
    rule = rule_of(settings, score, adjustments)
    return rule == "soft" and settings.conditioning.unknown == "infer" and schema.inferable
