"""Many small images as one picture: quick to draw, light in a file, and the tiles stay aligned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.pixels import as_rgb, reduced

LARGEST = 96  # pixels of a tile's longer side: a tile is less than an inch wide


def mosaic(images: np.ndarray) -> np.ndarray:
    """(R, K, H, W, C) images as one (h, w, 4) picture, RGBA in 0..1: R rows of K tiles, transparent between them.

    0 is black and 1 is white, as are values below and above. A tile that is all NaN is transparent.
    """
    rows, columns, height, width, _ = images.shape
    gap = gap_of(height, width)
    picture = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4))
    picture[..., :3] = 1  # what shows through where alpha is dropped
    for r in range(rows):
        for k in range(columns):
            if np.isnan(images[r, k]).all():
                continue
            top, left = r * (height + gap), k * (width + gap)
            tile = picture[top : top + height, left : left + width]
            tile[..., :3], tile[..., 3] = as_rgb(images[r, k], (0.0, 1.0)), 1
    return picture


def gap_of(height: int, width: int) -> int:
    """Pixels between tiles of this size."""
    return max(1, min(height, width) // 14)


def draw_tiles(
    axes: Axes,
    images: np.ndarray,
    *,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> None:
    """A mosaic of (R, K, H, W, C) images into axes that exist already, with a name for each row and column."""
    images = reduced(images, LARGEST)
    height, width = images.shape[2:4]
    gap = gap_of(height, width)
    style.show(axes, mosaic(images), tile=max(height, width))
    middle = (height - 1) / 2 + np.arange(images.shape[0]) * (height + gap)
    axes.set_yticks(middle if rows is not None else [], [style.short(name) for name in rows or ()])
    middle = (width - 1) / 2 + np.arange(images.shape[1]) * (width + gap)
    names = ["\n".join(map(style.short, name.splitlines())) for name in columns or ()]
    axes.set_xticks(middle if columns is not None else [], names)
    axes.tick_params(length=0, colors=style.INK, labelsize=8.0, pad=3)


def tile_inches(count: int, room: float) -> float:
    """How large to draw each of `count` tiles side by side in `room` inches."""
    return float(np.clip(room / max(count, 1), 0.3, 0.62))
