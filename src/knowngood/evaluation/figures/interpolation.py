"""On the way from one image to another through latent space: as a film strip, or as a small GIF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from knowngood.errors import DataError
from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.gif import font, write_gif
from knowngood.evaluation.figures.tiles import draw_tiles, tile_inches
from knowngood.evaluation.figures.triptychs import as_rgb


def interpolation(ends: np.ndarray, frames: np.ndarray, names: Sequence[tuple[str, str]] | None = None) -> Figure:
    """One row a pair: the first image, the reconstructions on the straight way between the two codes, the second image.

    Args:
        ends: (P, 2, H, W, C) the two images of each pair.
        frames: (P, S, H, W, C) what is decoded at S evenly spaced codes, both ends included.
        names: (P,) pairs of ids.

    Raises:
        DataError: `ends` and `frames` do not fit each other.
    """
    _check(ends, frames)
    pairs, steps, height, width, _ = frames.shape
    tile = tile_inches(steps + 2, 8.5)
    figure = style.new_figure((steps + 2) * tile * width / height + (1.9 if names else 0.5), pairs * tile + 0.75)
    axes = figure.add_subplot()
    shares = [f"{100 * share:.0f} %" for share in np.linspace(0, 1, steps)]
    rows = None if names is None else [f"{style.short(a, 14)} → {style.short(b, 14)}" for a, b in names]
    whole = np.concatenate([ends[:, :1], frames, ends[:, 1:]], axis=1)
    draw_tiles(axes, whole, columns=["image 1", *shares, "image 2"], size=7.5)
    if rows is not None:
        places = (height - 1) / 2 + np.arange(pairs) * ((whole.shape[2]) + max(1, min(height, width) // 14))
        axes.set_yticks(places, rows)
    axes.set_xlabel("share of the way between the two codes (reconstructions)", fontsize=8.5, color=style.INK)
    return figure


def interpolation_gif(path: str | Path, ends: np.ndarray, frames: np.ndarray, *, milliseconds: int = 70) -> Path:
    """A GIF that runs there and back: left and right the two images, between them the way, one row a pair.

    Args:
        ends, frames: as for `interpolation`; use some 20 frames.
        milliseconds: each frame is shown.
    """
    _check(ends, frames)
    steps = frames.shape[1]
    pictures = [_frame(ends, frames[:, step], step / max(steps - 1, 1)) for step in range(steps)]
    film = pictures + pictures[-2:0:-1]
    pause = [milliseconds] * len(film)
    pause[0] = pause[steps - 1] = 8 * milliseconds
    return write_gif(path, film, pause)


def _frame(ends: np.ndarray, now: np.ndarray, share: float):
    from PIL import Image, ImageDraw

    pairs, height, width, _ = now.shape
    scale = max(1, round(96 / max(height, width)))
    tile_h, tile_w, gap, head, foot = height * scale, width * scale, 6, 20, 12
    size = (3 * tile_w + 4 * gap, head + pairs * (tile_h + gap) + foot)
    whole = Image.new("RGB", size, style.PAPER)
    pen, letters = ImageDraw.Draw(whole), font(11)
    lefts = [gap + k * (tile_w + gap) for k in range(3)]
    for left, name in zip(lefts, ("image 1", f"{100 * share:.0f} %", "image 2"), strict=True):
        pen.text((left + tile_w / 2, head / 2), name, fill=style.INK, font=letters, anchor="mm")
    for row in range(pairs):
        for left, image in zip(lefts, (ends[row, 0], now[row], ends[row, 1]), strict=True):
            shown = np.round(255 * as_rgb(image, (0.0, 1.0))).astype(np.uint8)
            tile = Image.fromarray(shown).resize((tile_w, tile_h), Image.Resampling.NEAREST)
            whole.paste(tile, (left, head + row * (tile_h + gap)))
    bar = size[1] - foot + 2
    pen.rectangle((lefts[1], bar, lefts[1] + tile_w - 1, bar + 4), fill=style.RULE)
    pen.rectangle((lefts[1], bar, lefts[1] + round(share * (tile_w - 1)), bar + 4), fill=style.NORMAL)
    return whole


def _check(ends: np.ndarray, frames: np.ndarray) -> None:
    if frames.ndim != 5 or ends.shape != (frames.shape[0], 2, *frames.shape[2:]) or not frames.size:
        raise DataError(
            f"interpolation: ends {ends.shape} and frames {frames.shape}; expected (P, 2, H, W, C) and (P, S, H, W, C)"
        )
