"""Large images in tiles: where the tiles are, and how their maps are merged without seams."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knowngood.errors import DataError, SettingsError

Size = int | tuple[int, int]  # of both sides, or (height, width)
Read = Callable[[int, int, int, int], NDArray[Any]]
Score = Callable[[NDArray[Any]], tuple[ArrayLike, ArrayLike]]


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


def plan_tiles(height: int, width: int, tile: Size, overlap: Size = 0) -> list[Tile]:
    """The fewest tiles of one size that cover every pixel and overlap by `overlap` or more, in reading order.

    Tiles are spread evenly from edge to edge, so overlaps differ by a pixel at most and nothing is padded. Along an
    axis shorter than the tile there is one tile, as long as the axis.

    Args:
        tile, overlap: pixels, for both axes or as (height, width); 0 ≤ overlap < tile.
    """
    tile, overlap = _pair(tile, "tile", 1), _pair(overlap, "overlap", 0)
    if height < 1 or width < 1:
        raise DataError(f"image of {height} × {width} pixels; expected at least 1 × 1")
    for size, shared in zip(tile, overlap, strict=True):
        if shared >= size:
            raise SettingsError(f"overlap = {shared} of tiles of {size} pixels; expected less than the tile")
    tops, lefts = _starts(height, tile[0], overlap[0]), _starts(width, tile[1], overlap[1])
    h, w = min(tile[0], height), min(tile[1], width)
    return [Tile(top, left, h, w) for top, left in itertools.product(tops, lefts)]


class TileMerger:
    """Puts the maps of an image's tiles together, one at a time: memory is the output map and one tile.

    Each tile counts with a weight that is the product of one for its row and one for its column. Where it overlaps a
    neighbour the weight falls as sin² towards the tile's end; weights are then divided by their sum over all tiles.
    So tiles cut from one map give that map again, and no edge of a tile shows. NaN (ignored) stays NaN.
    """

    def __init__(self, height: int, width: int, tile: Size, overlap: Size = 0) -> None:
        self.tiles = plan_tiles(height, width, tile, overlap)
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


def merge(maps: Iterable[ArrayLike], height: int, width: int, tile: Size, overlap: Size = 0) -> NDArray[np.float32]:
    """One map (height, width) from the maps of `plan_tiles(height, width, tile, overlap)`, in that order."""
    merger = TileMerger(height, width, tile, overlap)
    count = 0
    for count, values in enumerate(maps, start=1):
        if count > len(merger.tiles):
            raise DataError(f"more maps than the {len(merger.tiles)} tiles of the plan")
        merger.add(merger.tiles[count - 1], values)
    return merger.result()


class Tiled(NamedTuple):
    """A large image's map (H, W) float32 and the scores (T,) float64 of its tiles, in the order of the plan."""

    map: NDArray[np.float32]
    scores: NDArray[np.float64]

    @property
    def score(self) -> float:
        """The image's score: its largest tile score. Tiles that are ignored altogether have NaN and do not count."""
        if np.isnan(self.scores).all():
            raise DataError("every tile of the image is ignored; ignore less of it")
        return float(np.nanmax(self.scores))


def score_tiles(
    read: Read, size: tuple[int, int], tile: Size, overlap: Size, score_fn: Score, *, batch: int = 1
) -> Tiled:
    """Map and tile scores of an image of any size; `batch` tiles are held at a time.

    An image of more tiles has more chances to score high: calibrate on images of the same size and plan.

    Args:
        read: (top, left, height, width) → pixels (height, width, …), as `reader_of` makes.
        size: (height, width) of the whole image.
        tile, overlap: as for `plan_tiles`.
        score_fn: pixels (B, h, w, …), all tiles of one size → their maps (B, h, w) and pooled scores (B,), NaN for a
            tile that is ignored altogether.

    Returns:
        (map, scores); `.score` is the image's.
    """
    if batch < 1:
        raise SettingsError(f"batch = {batch}; expected a number of tiles, at least 1")
    merger = TileMerger(*size, tile, overlap)
    scores: list[float] = []
    for some in _batched(merger.tiles, batch):
        maps, values = score_fn(np.stack([_checked(read, one) for one in some]))
        maps, values = np.asarray(maps), np.asarray(values, dtype=np.float64)
        if values.shape != (len(some),) or len(maps) != len(some):
            raise DataError(
                f"score_fn: expected maps and scores of {len(some)} tiles, got shapes {maps.shape} and {values.shape}"
            )
        for one, values_of_tile in zip(some, maps, strict=True):
            merger.add(one, values_of_tile)
        scores.extend(values.tolist())
    return Tiled(merger.result(), np.array(scores))


def reader_of(pixels: NDArray[Any]) -> Read:
    """A `read` for `score_tiles` from an image (H, W, …) in memory, or mapped into it."""
    return lambda top, left, height, width: pixels[top : top + height, left : left + width]


def _pair(value: Size, name: str, least: int) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, int | np.integer) and v >= least for v in pair):
        raise SettingsError(f"{name} = {value!r}; expected pixels from {least}, or a pair (height, width) of them")
    return int(pair[0]), int(pair[1])


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    free = length - tile
    if free <= 0:
        return [0]
    gaps = -(-free // (tile - overlap))
    return [free * i // gaps for i in range(gaps + 1)]


def _weights(length: int, starts: list[int], size: int) -> dict[int, NDArray[np.float64]]:
    """Weights (size,) along one axis by the tile's start: positive, and 1 in sum at each of the axis's positions."""
    weights: dict[int, NDArray[np.float64]] = {}
    total = np.zeros(length)
    for i, start in enumerate(starts):
        weight = np.ones(size)
        if i > 0:
            shared = starts[i - 1] + size - start
            weight[:shared] *= _taper(shared)
        if i + 1 < len(starts):
            shared = start + size - starts[i + 1]
            weight[size - shared :] *= _taper(shared)[::-1]
        weights[start] = weight
        total[start : start + size] += weight
    return {start: weight / total[start : start + size] for start, weight in weights.items()}


def _taper(n: int) -> NDArray[np.float64]:
    """(n,) rising from above 0 to below 1; with its reverse it sums to 1."""
    return np.sin(np.pi / 2 * (np.arange(n) + 0.5) / max(n, 1)) ** 2


def _checked(read: Read, tile: Tile) -> NDArray[Any]:
    pixels = np.asarray(read(tile.top, tile.left, tile.height, tile.width))
    if pixels.shape[:2] != (tile.height, tile.width):
        raise DataError(f"reading {tile}: expected {tile.height} × {tile.width} pixels, got shape {pixels.shape}")
    return pixels


def _batched(tiles: list[Tile], n: int) -> Iterator[list[Tile]]:
    for start in range(0, len(tiles), n):
        yield tiles[start : start + n]
