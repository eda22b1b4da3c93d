"""Where images are anomalous: maps of what the model sees, brought back to the images, and regions of these."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from knowngood.calibration import Calibration, Region, find_regions
from knowngood.data import ImageSet
from knowngood.detector.decide import Decisions
from knowngood.detector.ignored import Ignored, filled, moved
from knowngood.detector.map_scale import calibration_of
from knowngood.detector.pipeline import Pipeline
from knowngood.detector.scoring import Scored, cells_of
from knowngood.errors import SettingsError
from knowngood.representations import Table
from knowngood.representations.alignment.warping import Transform
from knowngood.representations.features import Located


def image_maps(pipeline: Pipeline, scored: Scored, row: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The anomaly map (H, W) of each readable image of a batch, at its own size, by position in the batch.

    Args:
        row: (N,) the scored row of each image whose map is asked for, see `Decisions.row`.
    """
    assert isinstance(scored.items, ImageSet)
    assert scored.grids is not None
    ignored = Ignored.of_model(pipeline.ignore, pipeline.schema, pipeline.model)
    cell = cells_of(pipeline.model, scored.expanded.c[row])
    for i in range(len(scored.items)):
        if i in scored.errors:
            continue
        height, width = scored.items[[i]].shapes()[0, :2].tolist()
        transform = scored.transforms[i]
        whole = _restored(pipeline, scored.grids[row[i]], (height, width), transform)
        if ignored is not None:
            mask = ignored.regions.mask((height, width), ignored.values[cell[i]])
            whole[moved(mask, transform) if isinstance(transform, Transform) else mask] = np.nan
        yield i, whole


def _restored(
    pipeline: Pipeline, values: np.ndarray, shape: tuple[int, int], transform: Located | None = None
) -> np.ndarray:
    """A map (h, w) over what the model sees → (H, W) over an image of that shape, which lay where `transform` says."""
    representation: Any = pipeline.representation
    if not hasattr(representation, "read_and_locate"):
        return representation.to_image(values, shape)
    return representation.to_image(filled(values), shape, transform)


def image_regions(
    pipeline: Pipeline, decisions: Decisions, i: int, one: np.ndarray, alpha: float | None, min_area: int = 1
) -> list[Region]:
    """Regions of the map of image i: connected pixels above what the share α of normal images of its group exceeds.

    α is by default that of the fit: not half of it where stated conditions are checked, as maps are tested alone.
    """
    check_regions(pipeline)
    alpha = pipeline.settings.alpha if alpha is None else alpha
    known, stratum = calibration_of(pipeline, int(decisions.best.stratum[i]), int(decisions.group[i]))
    assert known is not None
    return find_regions(one, known.threshold(alpha, stratum), min_area=min_area, maxima=known.reference(alpha, stratum))


def check_regions(pipeline: Pipeline) -> Calibration:
    """The calibration of maps; SettingsError if this model has none."""
    check_maps(pipeline)
    if pipeline.map_calibration is None:
        raise SettingsError("maps of this model have no threshold; calibrate it on normal images, or take anomaly_maps")
    return pipeline.map_calibration


def check_maps(pipeline: Pipeline) -> None:
    """Raise SettingsError if this model has no anomaly maps."""
    if isinstance(pipeline.representation, Table):
        raise SettingsError("maps are for images; this model was fitted to a table")
    if not pipeline.score.has_map:
        raise SettingsError(
            f"score '{pipeline.score.options.name}' has no map; fit with a score that has one: 'elbo' or "
            "'reconstruction' of a vae, 'patch_distance' on features"
        )
