"""What each latent dimension does: walk along it, all others held, and look at what the decoder makes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.tiles import draw_tiles, tile_inches


def traversal(
    images: np.ndarray,
    positions: np.ndarray,
    dims: Sequence[int],
    *,
    kl: np.ndarray | None = None,
    start: str = "the prior mean",
) -> Figure:
    """One row a dimension, decoded at each position along it.

    Args:
        images: (D, S, H, W, C), scaled so that the data range is 0…1.
        positions: (S,) in standard deviations of the prior from its mean.
        dims: (D,) which dimension each row walks along.
        kl: (D,) nats that each of them carries on average, written beside its name.
        start: where the other dimensions are held.
    """
    count, steps, height, width, _ = images.shape
    tile = tile_inches(steps, 8)
    figure = style.new_figure(steps * tile * width / height + (1.75 if kl is not None else 1.1), count * tile + 0.95)
    axes = figure.add_subplot()
    names = [f"z{dim}" if kl is None else f"z{dim}   {kl[i]:.2f} nats" for i, dim in enumerate(dims)]
    draw_tiles(
        axes, images, rows=names, columns=[f"{value:+.3g}".replace("-", "−") if value else "0" for value in positions]
    )
    axes.set_xlabel(
        f"position along the dimension (prior standard deviations)\nothers at {style.short(start, 60)}",
        fontsize=8.5,
        color=style.INK,
    )
    axes.set_ylabel("dimension, mean KL" if kl is not None else "dimension", fontsize=8.5, color=style.INK)
    return figure
