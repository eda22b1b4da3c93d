"""The plane of two latent dimensions, decoded on a grid: what lies where, and under each condition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from knowngood.errors import DataError
from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.tiles import mosaic, show


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
            dimensions at the prior mean. Scaled so that the data range is 0…1.
        pairs: (P,) of dimensions.
        names: of the conditions; None for an unconditional model.
        reach: the outermost positions, in standard deviations of the prior.
        kl: (D,) nats that each dimension of the model carries on average, written beside its name.
        what: the names are, for example "class".

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
    alone = len(titles) == 1
    side = float(np.clip(11 / columns, 0.2 * steps, min(0.24 * steps if not alone else 0.4 * steps, 5.5)))
    figure = style.new_figure(columns * side * width / height + 1.0, rows * (side + (0.25 if wrapped else 0.08)) + 0.8)
    panels = figure.subplots(rows, columns, squeeze=False)
    half = reach * steps / (steps - 1) if steps > 1 else 1.0
    bold = {"fontsize": 9, "color": style.INK, "fontweight": "bold"}
    for place, axes in enumerate(panels.flat):
        row, column = divmod(place, columns)
        k, p = (place, 0) if wrapped else (row, column)
        if k >= len(titles):
            axes.set_axis_off()
            continue
        show(axes, mosaic(grids[k, p]), tile=max(height, width), extent=(-half, half, -half, half))
        axes.set_aspect(height / width)
        if place + columns >= len(titles) * (1 if wrapped else columns):
            axes.set_xticks([-reach, 0, reach])
        if column == 0:
            axes.set_yticks([-reach, 0, reach])
        axes.tick_params(labelsize=7.5, colors=style.MUTED, length=2)
        if wrapped and not alone:
            axes.set_title(style.short(titles[k]), loc="left", pad=3, **bold)
        elif column == 0 and not wrapped:
            axes.set_ylabel(style.short(titles[k]), rotation=0, ha="right", va="center", labelpad=8, **bold)
        if row == 0 and not wrapped:
            a, b = pairs[p]
            axes.set_title(f"→ {_name(a, kl)}\n↑ {_name(b, kl)}", fontsize=8.5, color=style.INK, loc="left", pad=4)
    unit = "prior standard deviations"
    if wrapped:
        a, b = pairs[0]
        figure.supxlabel(f"{_name(a, kl)}, in {unit}", fontsize=9, color=style.INK)
        figure.supylabel(f"{_name(b, kl)}, in {unit}", fontsize=9, color=style.INK)
    else:
        figure.supxlabel(f"positions in {unit}", fontsize=9, color=style.INK)
        if not alone:
            figure.supylabel(style.plain(what), fontsize=9, color=style.INK)
    return figure


def _name(dim: int, kl: np.ndarray | None) -> str:
    return f"z{dim}" if kl is None else f"z{dim} ({kl[dim]:.2f} nats)"
