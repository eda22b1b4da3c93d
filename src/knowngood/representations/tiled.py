"""Large pictures: features of the backbone tile by tile, put together to maps of the whole picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from knowngood.config import FeatureOptions
from knowngood.data.imageset import ImageSet
from knowngood.data.tiling.plan import Tile, cores, plan_tiles
from knowngood.errors import SettingsError

LEAST_SEEN = 384  # pixels that a tile is enlarged to, if it is smaller and no image_size is given
UNIT = 32  # pixels of which sides and corners of tiles are multiples: the cells of a backbone's maps
GAUSSIANS = 2 * 2**30  # bytes of covariances, at most
GRIDS = 2 * 2**30  # bytes of the features of all training images

Size = tuple[int, int]


class Tiling(BaseModel):
    """Tiles of `side` pixels that overlap by `overlap` pixels or more, of pictures of `size` (H, W).

    All are multiples of `unit`, as are the corners of the tiles, so that the cells of a map are those of the picture.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: Size
    side: int
    overlap: int
    unit: int

    @classmethod
    def of(cls, size: Size, tile: int, share: float, options: FeatureOptions) -> Tiling:
        """Of pictures of `size` in tiles of `tile` pixels, all enlarged alike: by `image_size` over the tile, or to
        384 pixels a tile if they are smaller; else as they are. Sides become multiples of at most 32 pixels."""
        seen = options.image_size
        seen = max(tile, LEAST_SEEN) if seen is None else seen if isinstance(seen, int) else seen[0]
        unit = UNIT
        while unit > 1 and seen < 4 * unit:
            unit //= 2
        side, *sides = (max(1, round(n * seen / tile / unit)) * unit for n in (tile, *size))
        overlap = max(round(seen * share / unit), share > 0) * unit
        if overlap >= side:
            raise SettingsError(f"tile = {tile} is too small for tile_overlap = {share:g}; give a larger tile")
        return cls(size=(sides[0], sides[1]), side=side, overlap=overlap, unit=unit)

    def tiles(self) -> list[Tile]:
        """In reading order."""
        units = plan_tiles(*(n // self.unit for n in (*self.size, self.side, self.overlap)))
        return [Tile(*(self.unit * n for n in astuple(one))) for one in units]

    def counts(self) -> tuple[int, int]:
        """Tiles down and across."""
        tiles = self.tiles()
        return len({t.top for t in tiles}), len({t.left for t in tiles})

    def stride(self, features: int, images: int, cells: int, least: int) -> int:
        """The distance of two locations, from `least` on, so that covariances and training features fit in memory.

        cells: for each of which there is a Gaussian at every location; 0 if all locations share one.
        """
        each = 4 * features * max(features * cells / GAUSSIANS, images / GRIDS)  # share that a location takes
        return max(least, math.ceil(math.sqrt(math.prod(self.size) * each)))

    def stitched(
        self, images: Tensor, features: Callable[[Tensor], Sequence[Tensor]], at_once: int = 1
    ) -> list[Tensor]:
        """Maps (B, F_i, h_i, w_i) of whole pictures (B, C, H, W): every tile gives what lies nearest to its middle.

        `at_once`: tiles that go through the backbone together.
        """
        tiles = self.tiles()
        own = cores(tiles)
        parts: list[list[Tensor]] = []  # of each tile, its part of each map
        for start in range(0, len(tiles), at_once):
            some = tiles[start : start + at_once]
            maps = features(torch.cat([images[(..., *tile.slices)] for tile in some]))
            each = zip(*(m.unflatten(0, (len(some), -1)) for m in maps), strict=True)
            parts += map(_inside, some, own[start:], each)
        rows = range(0, len(tiles), self.counts()[1])
        return [
            torch.cat([torch.cat(some[row : row + len(tiles) // len(rows)], dim=-1) for row in rows], dim=-2)
            for some in zip(*parts, strict=True)
        ]


def alike(x: Tensor) -> bool:
    """Whether the locations of feature grids (N, F, h, w) look alike: the mean of all locations of the other images
    predicts a feature at least as well as the mean at its location does, in squares over the feature's variance."""
    n = len(x)
    if n < 2:
        return False
    x = x.double()
    own = (x - x.mean(0)) * n / (n - 1)
    means = x.mean((2, 3), keepdim=True)
    other = x - (means.sum(0) - means) / (n - 1)
    variance = x.var((0, 2, 3), keepdim=True).clamp_min(1e-12)
    return bool(((other.square() - own.square()) / variance).mean() <= 0)


def median_size(images: ImageSet) -> Size:
    """(H, W)."""
    height, width = np.median(images.shapes()[:, :2], axis=0).round().astype(int).tolist()
    return height, width


def _cell(pixel: int, scale: float) -> int:
    return math.floor(pixel * scale + 0.5)


def _inside(tile: Tile, core: Tile, maps: Iterable[Tensor]) -> list[Tensor]:
    """Of maps (B, F_i, h_i, w_i) of a tile the cells of its core."""
    own = []
    for m in maps:
        place = []
        scales = m.shape[-2] / tile.height, m.shape[-1] / tile.width
        for at, whole, by in zip(core.slices, tile.slices, scales, strict=True):
            corner = _cell(whole.start, by)
            place.append(slice(_cell(at.start, by) - corner, _cell(at.stop, by) - corner))
        own.append(m[(..., *place)])
    return own
