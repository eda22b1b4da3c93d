"""How an image compares with the reference index: nearest normal images, mean image, brightness and contrast."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from knowngood.detector.explain.deviations import ENOUGH, TOP, Fields
from knowngood.detector.explain.explanation import ImageFactor, Nearest
from knowngood.detector.explain.reference import FACTORS, factors_of, group_of, groups_of
from knowngood.detector.pipeline import Pipeline
from knowngood.representations import HOG

NO_INDEX = "the model was saved without a reference index; fit it again to have one"
TILES = "the model sees tiles, so images are not compared as a whole"


def comparison(pipeline: Pipeline, code: np.ndarray, stratum: int, x: Tensor) -> Fields:
    """Of an image with this code (K,), in a Mondrian group, whose scaled pixels are x (C, h, w)."""
    reference = pipeline.reference
    if reference is None:
        why = NO_INDEX if pipeline.settings.data.tile is None else TILES
        return {"missing": dict.fromkeys(("nearest", "image_factors", "mean_image"), why)}
    group = int(group_of(groups_of(pipeline), np.array([stratum]))[0])
    rows, distance = reference.nearest(code, group, TOP)
    found: Fields = {
        "nearest": tuple(Nearest(reference.ids[r], float(d)) for r, d in zip(rows, distance, strict=True)),
        "mean_image": np.moveaxis(reference.mean_image(group), 0, -1),
    }
    held_out, normal = reference.held_out_distances, reference.factors_of(group)
    if len(held_out) >= ENOUGH and len(distance):
        found["farther_than"] = float((held_out < distance[0]).mean())
    if len(normal) < ENOUGH:
        why = f"{len(normal)} normal images of this condition, too few for a normal range"
        return {**found, "missing": {"image_factors": why}}
    each = zip(FACTORS, factors_of(x[None])[0].tolist(), normal.T.astype(np.float64), strict=True)
    return {**found, "image_factors": tuple(_factor(pipeline, *one) for one in each)}


def _factor(pipeline: Pipeline, name: str, value: float, normal: np.ndarray) -> ImageFactor:
    """Compared with the values (m,) of normal images.

    The model accounts for a change if it is given the factor, is invariant to it (HOG), or was fitted to tolerate
    illumination that changes by as much.
    """
    low, median, high = (float(q) for q in np.quantile(normal, [0.025, 0.5, 0.975]))
    settings = pipeline.settings
    objective = getattr(settings.model, "objective", None)
    given = name in settings.conditioning.measure or name in getattr(objective, "factors", ())
    tolerance = getattr(settings.representation, "illumination", None)
    change = abs(value / median - 1) if median else 0.0
    tolerated = tolerance is not None and change <= tolerance
    return ImageFactor(name, value, median, low, high, given or tolerated or isinstance(pipeline.representation, HOG))
