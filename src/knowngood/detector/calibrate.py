"""What scores and maps of good images are usual: the calibration of a pipeline, from images set aside or left out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from knowngood.calibration import Calibration, minimum_normals
from knowngood.calibration.map_thresholds import MapCalibration
from knowngood.config import Settings
from knowngood.data import ImageSet
from knowngood.data.conditions import ConditionSchema
from knowngood.detector.maps import mapped
from knowngood.detector.rows import Items, Unknown
from knowngood.errors import DataError
from knowngood.scores import Score
from knowngood.scores.marginal import Rows, choose_rule
from knowngood.scores.patches import LeftOut, PatchScore

if TYPE_CHECKING:
    from knowngood.detector.pipeline import Pipeline

MOST_NAMED = 5  # conditions in a message


def calibrate(pipeline: Pipeline, normals: Items) -> None:
    """Set the calibration from normals that took no part in training; with features that of maps too."""
    settings, names = pipeline.settings, pipeline.schema.stratum_names
    pipeline.left_out = False
    if pipeline.model.patches is None:
        known = [_scores(pipeline, part, part.conditions, "error") for part in pipeline.portions(normals)]
        values, strata = (np.concatenate(column) for column in zip(*known, strict=True))
    else:
        assert isinstance(normals, ImageSet)
        expanded = pipeline.expand(normals, "error")
        values, strata = np.empty(len(normals)), expanded.stratum

        def maps() -> Iterator[np.ndarray]:
            for i, one in enumerate(mapped(pipeline, normals, expanded)):
                values[i] = one.value
                yield one.map

        pipeline.maps_of_normals = MapCalibration.fit(maps(), strata, names, alpha=settings.alpha)
    pipeline.calibration = Calibration.fit(values, strata, names, alpha=settings.alpha)
    pipeline.hidden = None
    if sums_out(settings, pipeline.score, pipeline.schema):
        summed = [_scores(pipeline, part, {}, "infer")[0] for part in pipeline.portions(normals)]
        pipeline.hidden = Calibration.fit(np.concatenate(summed), alpha=settings.alpha)


def calibrate_left_out(pipeline: Pipeline, normals: Items) -> None:
    """Set the calibration from the images that were learned from, each as if it had been left out.

    Nothing is set aside then. Scores are what a model of one image less gives; p-values are not promised to hold as
    those of images set aside are, though they do as far as one image of many changes little.
    """
    score = pipeline.score
    assert isinstance(score, PatchScore)
    pipeline.score = LeftOut(score.inner, score.smoothing)
    try:
        calibrate(pipeline, normals)
    finally:
        pipeline.score = score
    pipeline.left_out = True


def warn_of_small(pipeline: Pipeline, stacklevel: int = 3) -> None:
    """Name the strata that are too small for the α of the fit, where others are not: they carry no promise."""
    calibration = pipeline.calibrated()
    small = np.flatnonzero(~calibration.own())
    if not len(small) or len(small) == len(calibration.counts):
        return
    told = [f"{calibration.stratum_names[s]} ({calibration.counts[s]})" for s in small[:MOST_NAMED]]
    more = f" and {len(small) - MOST_NAMED:,} more" if len(small) > MOST_NAMED else ""
    columns = [column for column in pipeline.schema.columns if column.roles]
    roles = {column.name: tuple(role for role in column.roles if role != "stratify") for column in columns}
    flags = " ".join(f"--roles {name}={','.join(kept)}" for name, kept in roles.items())
    warnings.warn(
        f"conditions with too few calibration normals: {', '.join(told)}{more}; one takes "
        f"{minimum_normals(calibration.alpha)} at alpha = {calibration.alpha:g}. They are compared with all conditions "
        "together, with no promise of their own. Give more good items of them, leave them out, or calibrate all "
        f"together: roles={roles!r}, or {flags} on the command line.",
        stacklevel=stacklevel,
    )


def _scores(pipeline: Pipeline, normals: Items, conditions: Any, unknown: Unknown) -> tuple[np.ndarray, np.ndarray]:
    """Scores and strata (N,) of normals that are known by these conditions alone."""
    expanded = pipeline.schema.expand(conditions, len(normals), unknown=unknown)
    values, parts, errors = pipeline.raw_scores(normals, expanded)
    if errors:
        i, reason = next(iter(errors.items()))
        raise DataError(f"{normals.ids[i]}: {reason}; {len(errors)} calibration images cannot be read")
    if unknown == "error":
        return values, expanded.stratum
    rows = Rows(values, parts, expanded.stratum, expanded.item, expanded.log_weight)
    return pipeline.score.summed_out(pipeline.state, rows), expanded.stratum[rows.first]


def sums_out(settings: Settings, score: Score, schema: ConditionSchema) -> bool:
    """Whether conditions of which none is known are summed out by the score's rule, rather than the best one taken.

    Raises:
        SettingsError: that was asked for, and the score is no likelihood.
    """
    rule = choose_rule(settings.marginalise, score.is_likelihood, score.options.name, sums_out=score.sums_out)
    inferable = len(schema.cells) > 1 and all("infer" in column.roles for column in schema.columns)
    return rule == "soft" and settings.unknown == "infer" and inferable
