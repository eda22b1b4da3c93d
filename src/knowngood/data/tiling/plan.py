"""Large images in tiles: where the tiles are, and how their maps are merged without seams."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knowngood.errors import DataError, SettingsError


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of an image in pixels: rows from `top`, columns from `left`."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an image (H, W, …) with."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def plan_tiles(height: int, width: int, side: int, overlap: int = 0) -> list[Tile]:
    """The fewest square tiles that cover every pixel and overlap by `overlap` pixels or more, in reading order.

    Tiles are spread evenly from edge to edge, so overlaps differ by a pixel at most and nothing is padded. Along an
    axis shorter than the tile there is one tile, as long as the axis.
    """
    if not 0 <= overlap < side:
        raise SettingsError(f"overlap = {overlap} of tiles of {side} pixels; expected from 0 to less than the tile")
    corners = itertools.product(_starts(height, side, overlap), _starts(width, side, overlap))
    return [Tile(top, left, min(side, height), min(side, width)) for top, left in corners]


class TileMerger:
    """Puts the maps of an image's tiles together, one at a time: memory is the output map and one tile.

    Each tile counts with a weight that is the product of one for its row and one for its column. Where it overlaps a
    neighbour the weight falls as sin² towards the tile's end; weights are then divided by their sum over all tiles.
    So tiles cut from one map give that map again, and no edge of a tile shows. NaN (ignored) stays NaN.
    """

    def __init__(self, height: int, width: int, side: int, overlap: int = 0) -> None:
        self.tiles = plan_tiles(height, width, side, overlap)
        self._missing = set(self.tiles)
        self._rows = _weights(height, sorted({t.top for t in self.tiles}), self.tiles[0].height)
        self._columns = _weights(width, sorted({t.left for t in self.tiles}), self.tiles[0].width)
        self._map = np.zeros((height, width), dtype=np.float32)

    def add(self, tile: Tile, values: ArrayLike) -> None:
        """Add the map (tile.height, tile.width) of one tile of the plan; in any order, each once."""
        if tile not in self._missing:
            reason = "was added before" if tile in self.tiles else "is not in the plan"
            raise DataError(f"{tile} {reason}; expected each of `tiles` once")
        array = np.asarray(values, dtype=np.float64)
        if array.shape != (tile.height, tile.width):
            raise DataError(f"map of {tile}: expected shape {(tile.height, tile.width)}, got {array.shape}")
        self._missing.remove(tile)
        self._map[tile.slices] += array * self._rows[tile.top][:, None] * self._columns[tile.left]

    def result(self) -> NDArray[np.float32]:
        """The map (H, W) float32 of the whole image, once every tile was added."""
        if self._missing:
            example = next(t for t in self.tiles if t in self._missing)
            raise DataError(f"{len(self._missing)} of {len(self.tiles)} tiles are missing, the first is {example}")
        return self._map


def _starts(length: int, side: int, overlap: int) -> list[int]:
    free = length - side
    if free <= 0:
        return [0]
    gaps = -(-free // (side - overlap))
    return [free * i // gaps for i in range(gaps + 1)]


def _weights(length: int, starts: list[int], size: int) -> dict[int, NDArray[np.float64]]:
    """Weights (size,) along one axis by the tile's start: positive, and 1 in sum at each of the axis's positions."""
    weights = {start: np.ones(size) for start in starts}
    for before, after in itertools.pairwise(starts):
        shared = before + size - after
        taper = np.sin(np.pi / 2 * (np.arange(shared) + 0.5) / max(shared, 1)) ** 2  # with its reverse 1 in sum
        weights[after][:shared] *= taper
        weights[before][size - shared :] *= taper[::-1]
    total = np.zeros(length)
    for start, weight in weights.items():
        total[start : start + size] += weight
    return {start: weight / total[start : start + size] for start, weight in weights.items()}
