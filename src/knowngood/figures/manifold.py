"""The plane of two latent dimensions, decoded on a grid: what lies where, and under each condition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from knowngood.errors import DataError
from knowngood.figures import style
from knowngood.figures.tiles import mosaic, show
from knowngood.figures.triptychs import value_range


def manifold(
    grids: np.ndarray,
    pairs: Sequence[tuple[int, int]],
    names: Sequence[str] | None = None,
    *,
    reach: float = 2.0,
    kl: np.ndarray | None = None,
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

    Raises:
        DataError: `grids` does not fit `pairs` and `names`.
    """
    titles = [""] if names is None else [str(name) for name in names]
    if grids.ndim != 7 or grids.shape[:2] != (len(titles), len(pairs)):
        raise DataError(f"manifold: grids {grids.shape} for {len(titles)} conditions and {len(pairs)} pairs")
    wrapped = len(pairs) == 1
    columns = math.ceil(math.sqrt(len(titles))) if wrapped else len(pairs)
    rows = math.ceil(len(titles) / columns) if wrapped else len(titles)
    steps, height, width = grids.shape[3], *grids.shape[4:6]
    side = float(np.clip(11 / columns, 0.22 * steps, min(0.42 * steps, 5.5)))
    figure = style.new_figure(columns * side * width / height + 0.9, rows * (side + 0.28) + 0.6)
    panels = figure.subplots(rows, columns, squeeze=False)
    limits, half = value_range([grids]), reach * steps / (steps - 1) if steps > 1 else 1.0
    for place, axes in enumerate(panels.flat):
        k, p = (place, 0) if wrapped else divmod(place, columns)
        if k >= len(titles):
            axes.set_axis_off()
            continue
        picture = mosaic(grids[k, p], limits=limits)
        show(axes, picture, tile=max(height, width), extent=(-half, half, -half, half))
        axes.set_aspect(height / width)
        row, column = divmod(place, columns)
        ticks = [-reach, 0, reach] if reach else [0]
        last = place + columns >= len(titles) if wrapped else row == rows - 1
        if last or not wrapped:
            axes.set_xticks(ticks if last else [])
        if column == 0 or not wrapped:
            axes.set_yticks(ticks if column == 0 else [])
        axes.tick_params(labelsize=7.5, colors=style.MUTED, length=2)
        a, b = pairs[p]
        if not wrapped or len(titles) == 1:
            axes.set_xlabel(_name(a, kl), fontsize=8.5, color=style.INK)
            axes.set_ylabel(_name(b, kl), fontsize=8.5, color=style.INK)
        if wrapped or column == 0:
            axes.set_title(style.short(titles[k]), fontsize=9, color=style.INK, loc="left", fontweight="bold", pad=3)
    if wrapped and len(titles) > 1:
        a, b = pairs[0]
        figure.supxlabel(f"{_name(a, kl)}, in prior standard deviations", fontsize=9, color=style.INK)
        figure.supylabel(f"{_name(b, kl)}, in prior standard deviations", fontsize=9, color=style.INK)
    else:
        figure.supxlabel("positions in prior standard deviations", fontsize=8, color=style.MUTED)
    return figure


def _name(dim: int, kl: np.ndarray | None) -> str:
    return f"z{dim}" if kl is None else f"z{dim} ({kl[dim]:.2f} nats)"
