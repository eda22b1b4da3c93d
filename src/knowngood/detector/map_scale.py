"""The scale by which the anomaly map of each image is coloured."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from knowngood.calibration import Calibration
from knowngood.calibration.map_scale import MapScale, own_scale, scale_of
from knowngood.detector.decide import Decisions
from knowngood.detector.pipeline import Pipeline


def map_scales(
    pipeline: Pipeline, decisions: Decisions, maps: Iterable[np.ndarray | None], alpha: float | None = None
) -> list[MapScale | None]:
    """The scale of the map of each of N images; None where there is no map."""
    return [
        None if values is None else map_scale(pipeline, decisions, i, values, alpha) for i, values in enumerate(maps)
    ]


def map_scale(
    pipeline: Pipeline, decisions: Decisions, i: int, values: np.ndarray, alpha: float | None = None
) -> MapScale:
    """The scale of the map (H, W) of image i, by the threshold of its Mondrian group at α (default: of the fit)."""
    alpha = pipeline.settings.alpha if alpha is None else alpha
    known, stratum = calibration_of(pipeline, int(decisions.best.stratum[i]), int(decisions.group[i]))
    return own_scale(values) if known is None else scale_of(known, alpha, stratum)


def calibration_of(pipeline: Pipeline, stratum: int, group: int) -> tuple[Calibration | None, int]:
    """The calibration of maps that an image is compared with, and its Mondrian group there."""
    if group >= 0 and pipeline.added[group].maps is not None:
        return pipeline.added[group].maps, -1
    return pipeline.map_calibration, -1 if group >= 0 else stratum
