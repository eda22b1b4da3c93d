"""Large images as tiles: each is an image of its own to the model, read when asked for; and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knowngood.data.combinations import count_up
from knowngood.data.conditions import Expanded
from knowngood.data.findings import Unreadable
from knowngood.data.imageset import ImageSet
from knowngood.data.pixel_source import PixelSource
from knowngood.data.tiling.plan import Tile, TileMerger, plan_tiles
from knowngood.errors import DataError

Ints = NDArray[np.int64]
KEPT = 2  # decoded images held: threads that read ahead may be at the next one already


@dataclass(frozen=True, eq=False)
class Tiles:
    """T tiles of N images, those of an image together and in the order of `plan_tiles`.

    images: the tiles, with the labels and conditions of their images; ids "<id>@<top>,<left>".
    owner: (T,) the image of each tile, ascending. sizes: (N, 2) height and width of the images.
    side, overlap: of the tiles, in pixels of the image.
    """

    images: ImageSet
    owner: Ints
    sizes: Ints
    side: int
    overlap: int

    @classmethod
    def of(cls, images: ImageSet, side: int, share: float) -> Tiles:
        """Tiles of `side` pixels that overlap by at least this share of it, from the headers of the images.

        An image that is unreadable or smaller than a tile has one tile, and reading that raises DataError.
        """
        overlap = round(side * share)
        shapes = [_shape(images, i, side) for i in range(len(images))]
        plans = [plan_tiles(max(h, side), max(w, side), side, overlap) for h, w, _ in shapes]
        owner = np.repeat(np.arange(len(images)), [len(plan) for plan in plans])
        corners = np.array([(tile.top, tile.left) for plan in plans for tile in plan], dtype=np.int64).reshape(-1, 2)
        channels = np.array([shape[2] for shape in shapes], dtype=np.int64)[owner]
        tiles = images[owner].replace(
            pixels=TilePixels(_Whole(images.pixels), np.column_stack([owner, corners, channels]), side),
            ids=np.array([f"{images.ids[i]}@{y},{x}" for i, (y, x) in zip(owner, corners.tolist(), strict=True)]),
            splits=None,
            masks=None,
            rejected=(),
        )
        sizes = np.array([shape[:2] for shape in shapes], dtype=np.int64).reshape(-1, 2)
        return cls(tiles, owner, sizes, side, overlap)

    def check(self) -> None:
        """Raise DataError for the first image that is smaller than a tile."""
        small = np.flatnonzero((self.sizes < self.side).any(axis=1))
        if len(small):
            first = int(np.searchsorted(self.owner, small[0]))
            height, width = self.sizes[small[0]].tolist()
            name = str(self.images.ids[first]).rpartition("@")[0]
            raise DataError(f"{name}: {_too_small(height, width, self.side)}")

    def merger(self, i: int) -> TileMerger:
        """Puts the maps of image i together."""
        return TileMerger(int(self.sizes[i, 0]), int(self.sizes[i, 1]), self.side, self.overlap)

    def expand(self, expanded: Expanded) -> tuple[Expanded, Ints]:
        """The rows of the tiles of images with these rows, and which row (M',) of the image each one is."""
        starts = np.searchsorted(expanded.item, np.arange(len(self.sizes) + 1))
        counts = np.diff(starts)[self.owner]
        row = np.repeat(starts[self.owner], counts) + count_up(counts)
        item, known = np.repeat(np.arange(len(self.owner)), counts), expanded.known[self.owner]
        return replace(expanded.take(row), item=item, log_weight=expanded.log_weight[row], known=known), row


def drawn(index: Ints, most: int, seed: int) -> Ints:
    """`most` of ascending positions, drawn by the seed, ascending again; all of them if there are no more."""
    return index if len(index) <= most else np.sort(np.random.default_rng(seed).permutation(index)[:most])


def largest(values: NDArray[np.float64], row: Ints) -> Ints:
    """(R,) where the largest value of each row is, values (M',) belonging to rows 0…R−1, all of which occur."""
    order = np.lexsort((values, row))
    return order[np.append(row[order][1:] != row[order][:-1], True)] if len(order) else order


class TilePixels:
    """A `PixelSource` of tiles: corners (T, 4) are their image, top, left and channels."""

    def __init__(self, whole: _Whole, corners: Ints, side: int) -> None:
        self.whole, self.corners, self.side = whole, corners, side

    def __len__(self) -> int:
        return len(self.corners)

    def read(self, i: int) -> np.ndarray:
        """Tile i: (side, side, C), a copy. Raises DataError if its image is smaller, Unreadable as images do."""
        image, top, left, _ = self.corners[i].tolist()
        pixels = self.whole.read(image)
        if min(pixels.shape[:2]) < self.side:
            raise DataError(_too_small(pixels.shape[0], pixels.shape[1], self.side))
        return pixels[Tile(top, left, self.side, self.side).slices].copy()

    def take(self, indices: np.ndarray) -> TilePixels:
        """The tiles at `indices` (M,), in that order. Decoded images are shared."""
        return TilePixels(self.whole, self.corners[np.asarray(indices, dtype=np.int64)], self.side)

    def shapes(self) -> np.ndarray:
        """(T, 3) int64: height, width, channels."""
        found = np.full((len(self), 3), self.side, dtype=np.int64)
        found[:, 2] = self.corners[:, 3]
        return found

    def update(self, digest: Any) -> None:
        """Feed the whole images and the tiles' positions to a hashlib object."""
        self.whole.pixels.update(digest)
        digest.update(f"{self.side}".encode() + self.corners.tobytes())


class _Whole:
    """Whole images, of which the last few that were decoded are kept; threads that want the same one decode it once."""

    def __init__(self, pixels: PixelSource) -> None:
        self.pixels = pixels
        self._lock = Lock()
        self._read = lru_cache(KEPT)(pixels.read)

    def read(self, i: int) -> np.ndarray:
        with self._lock:
            return self._read(i)


def _shape(images: ImageSet, i: int, side: int) -> tuple[int, int, int]:
    try:
        height, width, channels = images.pixels.take(np.array([i])).shapes()[0].tolist()
    except Unreadable:  # reading its one tile will say so
        return side, side, 1
    return height, width, channels


def _too_small(height: int, width: int, side: int) -> str:
    return (
        f"the image is {height}×{width} and tiles have {side}×{side} pixels; "
        'fit with a smaller tile, data={"tile": …} (--tile), or remove such images'
    )
