"""Explanations of decided items: the chosen images are read and scored again, under the conditions that fit best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from knowngood.calibration import Region
from knowngood.data import ImageSet
from knowngood.data.conditions import Expanded
from knowngood.data.tiling.tiles import Tiles
from knowngood.detector.decide import Decisions
from knowngood.detector.explain.comparison import comparison
from knowngood.detector.explain.deviations import Deviation, deviations
from knowngood.detector.explain.explanation import Explanation
from knowngood.detector.explain.reference import scaled_images
from knowngood.detector.explain.words import sentences, summary
from knowngood.detector.maps import image_maps, image_regions
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.detector.scoring import Scored, one_row_each, score_rows, tiles_of
from knowngood.errors import SettingsError

AT_ONCE = 16  # images


class Location(NamedTuple):
    """Where an image is anomalous: its map (H, W), the pixel of the peak, and regions, where there are any."""

    map: np.ndarray | None = None
    peak: tuple[int, int] | None = None
    regions: tuple[Region, ...] = ()


@torch.no_grad()
def explain(
    pipeline: Pipeline,
    items: Items,
    decisions: Decisions,
    flagged: np.ndarray,
    chosen: np.ndarray,
    *,
    alpha: float,
    conditions: Sequence[str | None] | None = None,
) -> list[Explanation]:
    """Explanations of the items at positions `chosen` (M,), in their order.

    Args:
        decisions: of all N items. flagged: (N,) bool, the verdicts, made at the false-alarm rate `alpha`.
        conditions: (N,) as the table names them.

    Raises:
        SettingsError: the model was fitted to a table. DataError: an image can no longer be read.
    """
    if not isinstance(items, ImageSet):
        raise SettingsError("explanations are of images; this model was fitted to a table")
    explanations = []
    for start in range(0, len(chosen), AT_ONCE):
        at = chosen[start : start + AT_ONCE]
        images, best = items[at], decisions.best.take(at)
        names = best.label if conditions is None else [conditions[i] or "" for i in at]
        locations, seen, grids = _located(pipeline, images, best, decisions, at, alpha)
        pictures = scaled_images(pipeline, seen)
        for k, deviation in enumerate(_deviations(pipeline, seen, best, grids)):
            compared = comparison(pipeline, deviation.code, int(best.stratum[k]), pictures[k])
            location, missing = locations[k], deviation.missing | compared.missing
            if location.map is None:
                missing["map"] = f"the score '{pipeline.score.options.name}' has no map"
            one = Explanation(
                id=str(images.ids[k]),
                anomaly_score=float(decisions.anomaly_score[at[k]]),
                p_value=float(decisions.p_values[at[k]]),
                is_anomalous=bool(flagged[at[k]]),
                condition=names[k],
                image=images.read(k),
                model_input=np.moveaxis(pictures[k].numpy(), 0, -1),
                reconstruction=deviation.reconstruction,
                residual=deviation.residual,
                mean_image=compared.mean_image,
                map=location.map,
                peak=location.peak,
                components=deviation.components,
                latents=deviation.latents,
                image_factors=compared.image_factors,
                nearest=compared.nearest,
                farther_than=compared.farther_than,
                regions=location.regions,
                missing=missing,
            )
            explanations.append(replace(one, sentences=sentences(one, alpha), summary=summary(one)))
    return explanations


def _located(
    pipeline: Pipeline, images: ImageSet, best: Expanded, decisions: Decisions, at: np.ndarray, alpha: float
) -> tuple[list[Location], ImageSet, np.ndarray | None]:
    """Where B images are anomalous, in pixels; what the model sees of each, and its map (B, h, w) of that.

    With tiles the model sees the tile of the peak.
    """
    if not pipeline.score.has_map:
        tiles = tiles_of(pipeline, images)
        locations = [Location()] * len(images)
        return locations, images if tiles is None else tiles.images[_tile_of_peak(tiles, locations)], None
    scored, _ = score_rows(pipeline, images, best, maps=True)
    maps = dict(image_maps(pipeline, scored, np.arange(len(images))))
    locations = [
        _location(pipeline, maps[k], decisions, int(i), alpha) if k in maps else Location() for k, i in enumerate(at)
    ]
    return locations, *_seen(scored, locations)


def _location(pipeline: Pipeline, values: np.ndarray, decisions: Decisions, i: int, alpha: float) -> Location:
    """Of the map (H, W) of item i."""
    peak = None
    if not np.isnan(values).all():
        row, column = divmod(int(np.nanargmax(values)), values.shape[1])
        peak = (row, column)
    calibrated = pipeline.map_calibration is not None
    return Location(values, peak, tuple(image_regions(pipeline, decisions, i, values, alpha)) if calibrated else ())


def _seen(scored: Scored, locations: list[Location]) -> tuple[ImageSet, np.ndarray | None]:
    assert isinstance(scored.seen, ImageSet)
    if scored.tiles is None:
        return scored.seen, scored.grids
    at = _tile_of_peak(scored.tiles, locations)
    return scored.seen[at], None if scored.grids is None else scored.grids[at]


def _tile_of_peak(tiles: Tiles, locations: list[Location]) -> np.ndarray:
    """(N,) of each image the tile whose centre is nearest to the peak; the first one without a peak."""
    rows = []
    for i, location in enumerate(locations):
        row, column = location.peak or (0, 0)
        centres = [(tile.top + tile.height / 2, tile.left + tile.width / 2) for tile in tiles.merger(i).tiles]
        distance = [max(abs(y - row), abs(x - column)) for y, x in centres]
        rows.append(int(np.flatnonzero(tiles.owner == i)[int(np.argmin(distance))]))
    return np.array(rows)


def _deviations(pipeline: Pipeline, images: ImageSet, best: Expanded, grids: np.ndarray | None) -> Iterator[Deviation]:
    """Of each image, under its one row; `grids` (N, h, w) are their maps."""
    for rows in one_row_each(pipeline, images, best):
        yield from deviations(pipeline, rows, None if grids is None else grids[rows.at])
