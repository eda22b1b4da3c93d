"""Input, reconstruction and their difference side by side, or an image, its anomaly map and the map over it.

Images are (H, W) or (H, W, C) of any dtype, C ≥ 1. One or three channels are shown as they are, of four the first
three, otherwise the mean over the channels.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from knowngood.calibration.map_scale import MapScale, legend
from knowngood.errors import DataError
from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.pixels import as_rgb, channels_of, heat, value_range

if TYPE_CHECKING:
    from PIL.Image import Image

PANELS = ("input", "reconstruction", "difference")
MAP_PANELS = ("input", "anomaly map", "map over input")
TALLEST = 10  # pairs one below the other
SMALLEST, LARGEST, GAP = 96, 160, 4  # pixels of a panel in a strip, and between two
Pair = tuple[np.ndarray, np.ndarray]


class Strips(NamedTuple):
    """Three panels an image, their names, and the scale they share in words."""

    panels: list[list[np.ndarray]]  # (H, W, 3) uint8
    names: tuple[str, str, str]
    scale: str


def difference(image: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """(H, W): image − reconstruction for one channel; its root mean square over several, which has no sign.

    Raises:
        DataError: the two shapes differ.
    """
    x, y = channels_of(image), channels_of(reconstruction)
    if x.shape != y.shape:
        raise DataError(f"triptych: the image is {x.shape}, its reconstruction {y.shape}; they must agree (H, W, C)")
    delta = np.nan_to_num(x - y)
    return delta[..., 0] if delta.shape[-1] == 1 else np.sqrt((delta**2).mean(-1))


def difference_limit(pairs: Iterable[Pair]) -> float:
    """The difference drawn in full colour, one for all pairs: the largest of their 99.5 % quantiles."""
    largest = max((float(np.quantile(np.abs(difference(*pair)), 0.995)) for pair in pairs), default=0.0)
    return largest or 1.0


def panels(
    image: np.ndarray, reconstruction: np.ndarray, *, limits: tuple[float, float], full: float
) -> list[np.ndarray]:
    """Three (H, W, 3) uint8 pictures: input and reconstruction between `limits`, difference from −`full` to `full`."""
    delta = difference(image, reconstruction)
    coloured = style.DIFFERENCE(0.5 + 0.5 * np.clip(delta / full, -1, 1))[..., :3]
    shown = [as_rgb(image, limits), as_rgb(reconstruction, limits), coloured]
    return [np.round(255 * panel).astype(np.uint8) for panel in shown]


def map_panels(image: np.ndarray, values: np.ndarray, *, scale: MapScale) -> list[np.ndarray]:
    """Three (H, W, 3) uint8 pictures: an image in 0…1, its anomaly map (H, W) on its scale, and the map over it.

    Raises:
        DataError: the map has another height or width.
    """
    if values.shape != image.shape[:2]:
        raise DataError(f"the image is {image.shape}, its map {values.shape}; they must agree in height and width")
    coloured = heat(scale.share(values))
    picture, alpha = as_rgb(image, (0.0, 1.0)), coloured[..., 3:]
    plain = np.ones_like(picture)
    shown = [picture, *(alpha * coloured[..., :3] + (1 - alpha) * under for under in (plain, picture))]
    return [np.round(255 * panel).astype(np.uint8) for panel in shown]


def side_by_side(pictures: Sequence[np.ndarray]) -> Image:
    """Three pictures (H, W, 3) uint8 in one, RGBA, with transparent gaps.

    Tiny images are enlarged by a whole factor, pixels kept as squares, until a panel is `SMALLEST` pixels wide; large
    ones are reduced to `LARGEST` pixels on their longer side.
    """
    from PIL import Image

    tiles = [Image.fromarray(picture) for picture in pictures]
    width, height = tiles[0].size
    if max(width, height) > LARGEST:
        scale = LARGEST / max(width, height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        tiles = [tile.resize(size, Image.Resampling.BOX) for tile in tiles]
    else:
        factor = max(1, min(-(-SMALLEST // width), LARGEST // max(width, height)))
        tiles = [tile.resize((width * factor, height * factor), Image.Resampling.NEAREST) for tile in tiles]
    width, height = tiles[0].size
    strip = Image.new("RGBA", (3 * width + 2 * GAP, height), (0, 0, 0, 0))
    for position, tile in enumerate(tiles):
        strip.paste(tile, (position * (width + GAP), 0))
    return strip


def strips(pairs: Sequence[Pair], scales: Sequence[MapScale] = ()) -> Strips:
    """The panels of (image, reconstruction), or of (image, anomaly map) where the `scales` of the maps are given.

    Raises:
        DataError: shapes that differ within a pair.
    """
    if scales:
        panels_of = [map_panels(*pair, scale=scale) for pair, scale in zip(pairs, scales, strict=True)]
        return Strips(panels_of, MAP_PANELS, legend(scales))
    limits, full = value_range(image for image, _ in pairs), difference_limit(pairs)
    scale = describe_difference(pairs[0][0], full) if pairs else ""
    return Strips([panels(*pair, limits=limits, full=full) for pair in pairs], PANELS, scale)


def triptychs(pairs: Sequence[Pair], captions: Sequence[str], scales: Sequence[MapScale] = ()) -> Figure:
    """Three panels for each pair, see `strips`: one below the other, of more than `TALLEST` in several columns.

    Raises:
        DataError: no pair, or shapes that differ within one.
    """
    if not pairs:
        raise DataError("triptychs: no pair of image and reconstruction given")
    width, height = 4.6, 1.45  # inches of a pair
    columns = 1 if len(pairs) <= TALLEST else math.ceil(math.sqrt(len(pairs) * height / width))
    lines = math.ceil(len(pairs) / columns)
    figure = style.new_figure(width * columns, height * lines + 0.5)
    drawn = strips(pairs, scales)
    every = figure.subplots(lines, 3 * columns, squeeze=False)
    grid = every.reshape(lines, columns, 3).swapaxes(0, 1).reshape(-1, 3)  # down the first column, then the next
    for axes in grid[len(pairs) :].flat:
        axes.set_axis_off()
    for row, three, caption in zip(grid[: len(pairs)], drawn.panels, captions, strict=True):
        for axes, panel in zip(row, three, strict=True):
            style.show(axes, panel, frame=True)
        # A blank title keeps the height free; the caption itself may be wider than its panel.
        row[0].set_title(" ", fontsize=8)
        where = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
        text = row[0].annotate(style.plain(caption), (0, 1), (0, 5), fontsize=8, color=style.INK, **where)
        text.set_in_layout(False)
    for axes, name in zip(every[-1], drawn.names * columns, strict=True):
        axes.text(0.5, -0.06, name, transform=axes.transAxes, ha="center", va="top", fontsize=7.5, color=style.MUTED)
    figure.supxlabel(textwrap.fill(drawn.scale, 62 * columns), fontsize=8, color=style.MUTED)
    return figure


def describe_difference(image: np.ndarray, full: float) -> str:
    """What the colours of the difference mean, with their scale."""
    if channels_of(image).shape[-1] == 1:
        return f"difference: blue darker, orange brighter than the reconstruction; full colour at ±{full:.3g}"
    return f"difference: root mean square over the channels; full colour at {full:.3g}"
