"""Large images in tiles: where the tiles are, and which part of the image each one answers for."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from knowngood.errors import SettingsError

SIZES_DIFFER = 0.1  # of a side, by which pictures in tiles may differ in size


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


def cores(tiles: list[Tile]) -> list[Tile]:
    """Of each tile of a plan the part that is its own: up to the middle of every overlap. They partition the image."""
    rows = _edges([(t.top, t.height) for t in tiles])
    columns = _edges([(t.left, t.width) for t in tiles])
    own = [(*rows[t.top], *columns[t.left]) for t in tiles]
    return [Tile(top, left, bottom - top, right - left) for top, bottom, left, right in own]


def _starts(length: int, side: int, overlap: int) -> list[int]:
    free = length - side
    if free <= 0:
        return [0]
    gaps = -(-free // (side - overlap))
    return [free * i // gaps for i in range(gaps + 1)]


def _edges(spans: list[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """By the start of each span of one axis, where its own part begins and ends."""
    starts, size = sorted({start for start, _ in spans}), spans[0][1]
    middles = [(before + size + after) // 2 for before, after in itertools.pairwise(starts)]
    return dict(zip(starts, itertools.pairwise([0, *middles, starts[-1] + size]), strict=True))
