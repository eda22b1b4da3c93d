"""Where images are odd: maps of what the nets see, brought back to the images, and regions of these."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from knowngood.calibration.map_thresholds import MapCalibration
from knowngood.calibration.regions import Region, find_regions
from knowngood.data import ImageSet
from knowngood.data.conditions import Expanded
from knowngood.data.tiling.plan import TileMerger
from knowngood.data.tiling.tiles import Tiles
from knowngood.detector.ignored import filled, moved
from knowngood.detector.rows import Chunk, refuse_unread
from knowngood.errors import SettingsError
from knowngood.representations import Features, Table
from knowngood.representations.alignment.warping import Transform
from knowngood.scores import ScoreResult

if TYPE_CHECKING:
    from knowngood.detector.pipeline import Pipeline


class Mapped(NamedTuple):
    """An image's raw score, the stratum of its condition, and its anomaly map (H, W) at its own size."""

    value: float
    stratum: int
    map: np.ndarray


def mapped(pipeline: Pipeline, items: ImageSet, expanded: Expanded) -> Iterator[Mapped]:
    """Each image under its one row in `expanded`; of those in tiles the maps put together. One map is held.

    Raises:
        DataError: an item cannot be read.
    """
    tiles = pipeline.tiles(items)
    seen, rows = (items, expanded) if tiles is None else (tiles.images, tiles.expand(expanded)[0])
    whole = Whole(pipeline, items, expanded, tiles)
    for chunk, result in map_chunks(pipeline, seen, rows):
        for _, one in whole.add(chunk, result):
            yield one


class Whole:
    """From chunks of images, or of their tiles, to maps of whole images, each under its one row in `expanded`."""

    def __init__(self, pipeline: Pipeline, items: ImageSet, expanded: Expanded, tiles: Tiles | None) -> None:
        self.pipeline, self.expanded, self.tiles = pipeline, expanded, tiles
        self.seen = items if tiles is None else tiles.images
        self._image, self._count, self._value = -1, 0, -math.inf
        self._merger: TileMerger | None = None

    def add(
        self, chunk: Chunk, result: ScoreResult, errors: Collection[int] = frozenset()
    ) -> Iterator[tuple[int, Mapped]]:
        """The next chunk → images that are complete now, by number; none of one with a row in `errors`."""
        values = result.values.tolist()
        for at, one in restored_rows(self.pipeline, self.seen, chunk, result.map, errors):
            value = values[at - chunk.rows.start]
            if self.tiles is None:
                yield at, Mapped(value, int(self.expanded.stratum[at]), one)
            else:
                yield from self._merged(self.tiles, at, value, one)

    def _merged(self, tiles: Tiles, at: int, value: float, one: np.ndarray) -> Iterator[tuple[int, Mapped]]:
        i = int(tiles.owner[at])
        if i != self._image or self._merger is None:
            self._merger, self._image, self._count, self._value = tiles.merger(i), i, 0, -math.inf
        self._merger.add(self._merger.tiles[at - int(np.searchsorted(tiles.owner, i))], one)
        self._count, self._value = self._count + 1, max(self._value, value)
        if self._count == len(self._merger.tiles):
            yield i, Mapped(self._value, int(self.expanded.stratum[i]), self._merger.result())
            self._merger = None


def map_chunks(pipeline: Pipeline, images: ImageSet, expanded: Expanded) -> Iterator[tuple[Chunk, ScoreResult]]:
    """Some images at a time, each under its one row in `expanded`, and their scores with maps.

    Raises:
        DataError: an image cannot be read.
    """
    errors: dict[int, str] = {}
    for chunk, result in pipeline.scored(images, expanded, errors, want_map=True):
        refuse_unread(images, errors)
        yield chunk, result


def score_chunk(pipeline: Pipeline, chunk: Chunk) -> tuple[Chunk, ScoreResult]:
    """A chunk, and its scores with maps."""
    how = pipeline.model, pipeline.state, chunk.x, chunk.c, chunk.stratum
    return chunk, pipeline.score.score(*how, want_map=True)


def restored_rows(
    pipeline: Pipeline, images: ImageSet, chunk: Chunk, maps: Tensor | None, errors: Collection[int] = frozenset()
) -> Iterator[tuple[int, np.ndarray]]:
    """The maps (B, h, w) of a chunk over their images, one at a time, by number; none of images in `errors`."""
    assert maps is not None
    cells = np.zeros(len(chunk.x), dtype=int)
    if pipeline.ignored is not None and pipeline.model.patches is not None:
        cells = pipeline.model.patches.cell(chunk.c, len(chunk.x)).cpu().numpy()
    for at, one, cell, transform in zip(
        range(chunk.rows.start, chunk.rows.stop), maps.cpu().numpy(), cells, chunk.lay, strict=True
    ):
        if at not in errors:
            height, width = images[[at]].shapes()[0, :2].tolist()
            yield at, restored(pipeline, one, (height, width), int(cell), transform)


def restored(
    pipeline: Pipeline, values: np.ndarray, shape: tuple[int, int], cell: int = 0, transform: Transform | None = None
) -> np.ndarray:
    """A map over what the nets see → over the image of shape (H, W), NaN where a region is ignored.

    Args:
        cell: of the image's conditions, see `Patches.cell`.
        transform: where the image lay, if it was aligned.
    """
    representation = pipeline.representation
    assert not isinstance(representation, Table)
    if not isinstance(representation, Features):
        return representation.restore(values, shape)
    whole = representation.restore(filled(values), shape, transform)
    if pipeline.ignored is not None:
        mask = pipeline.ignored.mask(shape, cell)
        whole[mask if transform is None else moved(mask, transform)] = np.nan
    return whole


def regions_in(known: MapCalibration, one: Mapped, alpha: float | None, min_area: int = 1) -> list[Region]:
    """Connected pixels above what few good images of the stratum exceed anywhere."""
    threshold, maxima = known.threshold(alpha, one.stratum), known.maxima(alpha, one.stratum)
    return find_regions(one.map, threshold, min_area=min_area, maxima=maxima)


def check_regions(pipeline: Pipeline) -> MapCalibration:
    """What normals' maps say; SettingsError if this model does not know."""
    check_maps(pipeline)
    if pipeline.maps_of_normals is None:
        raise SettingsError(
            "regions need a model on features; fit with features='efficientnet_lite0', or take anomaly_maps"
        )
    return pipeline.maps_of_normals


def check_maps(pipeline: Pipeline) -> None:
    """Raise SettingsError if this model has no anomaly maps."""
    if isinstance(pipeline.representation, Table):
        raise SettingsError("maps are for images; this model was fitted on a table")
    if not pipeline.score.has_map:
        raise SettingsError(
            f"score '{pipeline.score.options.name}' has no map; fit with scoring='elbo' or 'reconstruction'"
        )
