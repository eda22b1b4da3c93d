"""The generated factor set: every combination of shape, scale, rotation, x and y on the dSprites grid, drawn on demand.

737,280 binary images of 64×64 pixels: 3 shapes × 6 scales × 40 rotations × 32 x × 32 y, numbered in this order, y
fastest, as in dSprites. `sprites` says how a shape is drawn; this is not the renderer of dSprites, so the pictures look
alike and are not the same. The rotations are those of dSprites, of which the last is a full turn: here it gives the
same pictures as the first. Some rotations of small squares coincide too, as they have few pixels. Values are 0 and 255.
Positions are one pixel apart.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knowngood.data.datasets.sprites import SHAPES, WIDTH, sprite
from knowngood.data.imageset import ImageSet
from knowngood.data.pixel_source import BlockPixels
from knowngood.errors import DataError, SettingsError

Ints = NDArray[np.int64]

FACTORS = ("shape", "scale", "rotation", "x", "y")
GRID = (3, 6, 40, 32, 32)  # levels of each factor
COUNT = 3 * 6 * 40 * 32 * 32
VALUES: dict[str, np.ndarray] = {
    "shape": np.array(SHAPES),
    "scale": np.linspace(0.5, 1, 6),
    "rotation": np.linspace(0, 2 * np.pi, 40),  # radians
    "x": np.linspace(0, 1, 32),  # left to right
    "y": np.linspace(0, 1, 32),  # top to bottom
}
SIZE = 64


class FactorPixels(BlockPixels):
    """Pictures of the factor set, drawn when read: (size, size, 1) uint8. `rows` (N,) are numbers in the grid."""

    def __init__(self, rows: ArrayLike, size: int = SIZE) -> None:
        if size not in (64, 32, 16):
            raise SettingsError(f"size = {size!r}; the factor set is drawn at 64 pixels, or averaged down to 32 or 16")
        super().__init__(_numbers(rows), (size, size, 1))

    def block(self, rows: np.ndarray) -> np.ndarray:
        return render(rows, self.shape[0])


def factor_codes(rows: ArrayLike) -> Ints:
    """Numbers in the grid (...) → the level of each factor (..., 5), from 0, in the order of `FACTORS`."""
    return np.stack(np.unravel_index(_numbers(rows), GRID), axis=-1).astype(np.int64)


def render(rows: ArrayLike, size: int = SIZE) -> np.ndarray:
    """Draw the images of these numbers: (..., size, size, 1) uint8, 0 and 255.

    At 32 and 16 pixels each is the mean of 2×2 and 4×4 pixels, rounded: grey edges keep half positions distinct.
    """
    numbers = _numbers(rows)
    shape, scale, rotation, x, y = factor_codes(numbers.ravel()).T
    canvas = np.zeros((numbers.size, SIZE, SIZE), dtype=np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(canvas, (WIDTH, WIDTH), axis=(1, 2), writeable=True)
    windows[np.arange(numbers.size), y, x] = _sprites()[shape, scale, rotation]
    if size != SIZE:
        k = SIZE // size
        total = np.full((numbers.size, size, size), k * k // 2, dtype=np.uint16)
        for at in np.ndindex(k, k):
            total += canvas[:, at[0] :: k, at[1] :: k]
        canvas = (total // (k * k)).astype(np.uint8)
    return canvas.reshape(*numbers.shape, size, size, 1)


def open_factors(n: int | None = None, *, seed: int = 0, size: int = SIZE) -> ImageSet:
    """The generated factor set, or a part of it. Nothing is stored: pixels are drawn when read.

    Condition columns: "class" (the shape), "scale", "rotation" (radians), "x" and "y" (0 to 1). An image's id is its
    number in the grid. All images are in split "train".

    Args:
        n: this many images drawn at random, in the order of the grid; None for all.
        seed: of the draw.
        size: 64, 32 or 16 pixels; see `render`.

    Raises:
        DataError: `n` is more than there are. SettingsError: an unknown size.
    """
    rows = np.arange(COUNT)
    if n is not None:
        if not 0 < n <= COUNT:
            raise DataError(f"n = {n}: the factor set has {COUNT:,} images; expected 1 to {COUNT:,}")
        rows = np.sort(np.random.default_rng(seed).choice(rows, n, replace=False))
    values = {name: VALUES[name][level] for name, level in zip(FACTORS, factor_codes(rows).T, strict=True)}
    return ImageSet(
        pixels=FactorPixels(rows, size),
        ids=np.char.zfill(rows.astype(str), len(str(COUNT))),
        labels=np.full(len(rows), np.nan),
        conditions={"class": values.pop("shape"), **values},
        splits=np.full(len(rows), "train"),
        name="factors",
    )


@cache
def _sprites() -> np.ndarray:
    """(3, 6, 40, 33, 33) uint8: the 720 pictures that are moved about, .8 MB."""
    drawn = [[[sprite(s, a, r) for r in VALUES["rotation"]] for a in VALUES["scale"]] for s in SHAPES]
    return np.array(drawn, dtype=np.uint8) * 255


def _numbers(rows: ArrayLike) -> Ints:
    numbers = np.asarray(rows)
    if numbers.size == 0:
        return numbers.astype(np.int64)
    if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= COUNT:
        raise DataError(
            f"numbers of images {numbers.min()} to {numbers.max()}, {numbers.dtype}; expected integers 0 to {COUNT - 1}"
        )
    return numbers.astype(np.int64)
