"""Decoded images in grids: draws from the prior, walks along dimensions, planes of two.

Images are scaled so that the data range is 0…1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from knowngood.errors import DataError
from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.tiles import draw_tiles, mosaic, tile_inches

_ROWS = 16  # conditions in a block of draws


def prior_samples(images: np.ndarray, names: Sequence[str], *, what: str = "condition", room: float = 14.0) -> Figure:
    """Draws z ~ r(z|c) decoded, one row a condition; more than 16 conditions stand in blocks side by side.

    Args:
        images: (K, S, H, W, C): S draws under each of K conditions.
        names: of the K conditions.
        what: the column of the conditions, for example "class".
        room: inches that the tiles may take side by side.
    """
    count, draws, height, width, _ = images.shape
    blocks = math.ceil(count / _ROWS)
    rows = math.ceil(count / blocks)
    tile = tile_inches(draws * blocks, room)
    label = 0.45 + 0.07 * min(28, max(len(str(name)) for name in names))
    figure = style.new_figure(blocks * (draws * tile * width / height + label) + 0.1, max(rows * tile + 0.7, 1.4))
    blank = np.full((blocks * rows - count, *images.shape[1:]), np.nan)  # the last block is as high as the others
    tiles, names = np.concatenate([images, blank]), [*names, *[""] * len(blank)]
    for block, axes in enumerate(figure.subplots(1, blocks, squeeze=False)[0]):
        part = slice(block * rows, (block + 1) * rows)
        draw_tiles(axes, tiles[part], rows=names[part])
        if block == 0:
            axes.set_ylabel(style.plain(what), fontsize=9, color=style.INK)
    figure.supxlabel(f"{draws} draws from the prior a row, decoded", fontsize=9, color=style.INK)
    return figure


def traversal(
    images: np.ndarray,
    positions: np.ndarray,
    dims: Sequence[int],
    *,
    kl: np.ndarray | None = None,
    start: str = "the prior mean",
) -> Figure:
    """One row a dimension, decoded at each position along it, all other dimensions held.

    Args:
        images: (D, S, H, W, C).
        positions: (S,) in standard deviations of the prior from its mean.
        dims: (D,) the dimension of each row.
        kl: (D,) nats that each of them carries on average, written beside its name.
        start: where the other dimensions are held.
    """
    count, steps, height, width, _ = images.shape
    tile = tile_inches(steps, 8)
    figure = style.new_figure(steps * tile * width / height + (1.75 if kl is not None else 1.1), count * tile + 0.95)
    axes = figure.add_subplot()
    names = [f"z{dim}" if kl is None else f"z{dim}   {kl[i]:.2f} nats" for i, dim in enumerate(dims)]
    columns = [f"{value:+.3g}".replace("-", "−") if value else "0" for value in positions]
    draw_tiles(axes, images, rows=names, columns=columns)
    label = f"position along the dimension (prior standard deviations)\nothers at {style.short(start, 60)}"
    axes.set_xlabel(label, fontsize=8.5, color=style.INK)
    axes.set_ylabel("dimension, mean KL" if kl is not None else "dimension", fontsize=8.5, color=style.INK)
    return figure


def manifold(
    grids: np.ndarray,
    pairs: Sequence[tuple[int, int]],
    names: Sequence[str] | None = None,
    *,
    reach: float = 2.0,
    kl: np.ndarray | None = None,
    what: str = "condition",
) -> Figure:
    """One row of grids a condition, one column a pair of dimensions. With one pair the conditions fill a square.

    Args:
        grids: (K, P, S, S, H, W, C): under each of K conditions, for each of P pairs (a, b), the images decoded at S
            positions along b, from the highest (top) to the lowest, and S along a, from left to right; all other
            dimensions at the prior mean.
        pairs: (P,) of dimensions.
        names: of the conditions; None for an unconditional model.
        reach: the outermost positions, in standard deviations of the prior.
        kl: (D,) nats that each dimension of the model carries on average, written beside its name.
        what: the column of the conditions, for example "class".

    Raises:
        DataError: `grids` does not fit `pairs` and `names`.
    """
    titles = [""] if names is None else [str(name) for name in names]
    if grids.ndim != 7 or grids.shape[:2] != (len(titles), len(pairs)):
        raise DataError(f"manifold: grids {grids.shape} for {len(titles)} conditions and {len(pairs)} pairs")

    def dimension(dim: int) -> str:
        return f"z{dim}" if kl is None else f"z{dim} ({kl[dim]:.2f} nats)"

    square, alone = len(pairs) == 1, len(titles) == 1
    columns = math.ceil(math.sqrt(len(titles))) if square else len(pairs)
    rows = math.ceil(len(titles) / columns) if square else len(titles)
    steps, height, width = grids.shape[3], *grids.shape[4:6]
    side = float(np.clip(11 / columns, 0.2 * steps, min(0.24 * steps if not alone else 0.4 * steps, 5.5)))
    figure = style.new_figure(columns * side * width / height + 1.0, rows * (side + (0.25 if square else 0.08)) + 0.8)
    half = reach * steps / (steps - 1) if steps > 1 else 1.0
    bold = {"fontsize": 9, "color": style.INK, "fontweight": "bold"}
    for panel, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        row, column = divmod(panel, columns)
        k, p = (panel, 0) if square else (row, column)
        if k >= len(titles):
            axes.set_axis_off()
            continue
        style.show(axes, mosaic(grids[k, p]), tile=max(height, width), extent=(-half, half, -half, half))
        axes.set_aspect(height / width)
        if panel + columns >= len(titles) * (1 if square else columns):
            axes.set_xticks([-reach, 0, reach])
        if column == 0:
            axes.set_yticks([-reach, 0, reach])
        axes.tick_params(labelsize=7.5, colors=style.MUTED, length=2)
        if square and not alone:
            axes.set_title(style.short(titles[k]), loc="left", pad=3, **bold)
        elif column == 0 and not square:
            axes.set_ylabel(style.short(titles[k]), rotation=0, ha="right", va="center", labelpad=8, **bold)
        if row == 0 and not square:
            a, b = map(dimension, pairs[p])
            axes.set_title(f"→ {a}\n↑ {b}", fontsize=8.5, color=style.INK, loc="left", pad=4)
    unit = "prior standard deviations"
    a, b = map(dimension, pairs[0])
    xlabel, ylabel = (f"{a}, in {unit}", f"{b},\nin {unit}") if square else (f"positions in {unit}", style.plain(what))
    figure.supxlabel(xlabel, fontsize=9, color=style.INK)
    if square or not alone:
        figure.supylabel(ylabel, fontsize=9, color=style.INK)
    return figure
