"""What the model believes good images look like: draws from the prior, one row a condition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.tiles import draw_tiles, tile_inches

_ROWS = 16  # in a block


def prior_samples(images: np.ndarray, names: Sequence[str], *, what: str = "condition", room: float = 14.0) -> Figure:
    """Draws z ~ r(z|c) decoded, one row a condition; more than 16 conditions stand in blocks side by side.

    Args:
        images: (K, S, H, W, C): S draws under each of K conditions, scaled so that the data range is 0…1.
        names: of the K conditions.
        what: they are, for example "class".
        room: inches that the tiles may take side by side.
    """
    count, draws, height, width, _ = images.shape
    blocks = math.ceil(count / _ROWS)
    rows = math.ceil(count / blocks)
    tile = tile_inches(draws * blocks, room)
    label = 0.45 + 0.07 * min(28, max(len(str(name)) for name in names))
    figure = style.new_figure(blocks * (draws * tile * width / height + label) + 0.1, max(rows * tile + 0.7, 1.4))
    for block, axes in enumerate(figure.subplots(1, blocks, squeeze=False)[0]):
        part = slice(block * rows, (block + 1) * rows)
        shown = images[part]
        if len(shown) < rows:  # the last block is as high as the others
            blank = np.full((rows - len(shown), *images.shape[1:]), np.nan)
            shown = np.concatenate([shown, blank])
        draw_tiles(axes, shown, rows=[*names[part], *[""] * (rows - len(names[part]))])
        if block == 0:
            axes.set_ylabel(style.plain(what), fontsize=9, color=style.INK)
    figure.supxlabel(f"{draws} draws from the prior a row, decoded", fontsize=9, color=style.INK)
    return figure
