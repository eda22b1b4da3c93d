"""How reconstructions come about: a few images, and below them what the model makes of them as it learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from knowngood.errors import DataError
from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.gif import font, write_gif
from knowngood.evaluation.figures.tiles import gap_of, mosaic

if TYPE_CHECKING:
    from PIL.Image import Image

_TILE = 56  # pixels, about, of an image's longer side
_LEFT, _HEAD, _FOOT, _MARGIN = 98, 24, 12, 6


def training_film(
    path: str | Path,
    inputs: np.ndarray,
    frames: np.ndarray,
    steps: Sequence[int],
    *,
    losses: Mapping[int, float] | None = None,
    milliseconds: int = 140,
) -> Path:
    """A GIF with one frame an evaluation: the inputs above, their reconstructions below, step and loss as caption.

    Args:
        inputs: (N, H, W, C), scaled so that the data range is 0…1; best some ten.
        frames: (T, N, H, W, C) reconstructions after each of the T steps.
        steps: (T,) training steps done.
        losses: step → loss on held-out images, in nats an image; a step without one is shown without.
        milliseconds: each frame is shown; the first and the last stay longer.

    Raises:
        DataError: no frame, or arrays that do not fit each other.
    """
    if frames.ndim != 5 or frames.shape[1:] != inputs.shape or len(frames) != len(steps) or not frames.size:
        raise DataError(
            f"training_film: inputs {inputs.shape}, frames {frames.shape} and {len(steps)} steps; "
            "expected (N, H, W, C), (T, N, H, W, C) and T steps, each at least 1"
        )
    pictures = []
    for made, step in zip(frames, steps, strict=True):
        caption = f"step {step:,}"
        if losses is not None and step in losses:
            caption += "     held-out loss " + f"{losses[step]:,.1f} nats".replace("-", "−")
        pictures.append(_frame(np.stack([inputs, made]), caption, step / max(*steps, 1)))
    pause = [milliseconds] * len(pictures)
    pause[0], pause[-1] = 5 * milliseconds, 15 * milliseconds
    return write_gif(path, pictures, pause)


def _frame(rows: np.ndarray, caption: str, share: float) -> Image:
    """Two rows of tiles (2, N, H, W, C) under the caption; a bar below says how far training has come."""
    from PIL import Image, ImageDraw

    height, width = rows.shape[2:4]
    scale, gap = max(1, round(_TILE / max(height, width))), gap_of(height, width)
    tiles = Image.fromarray(np.round(255 * mosaic(rows)[..., :3]).astype(np.uint8))
    tiles = tiles.resize((tiles.width * scale, tiles.height * scale), Image.Resampling.NEAREST)
    whole = Image.new("RGB", (_LEFT + tiles.width + _MARGIN, _HEAD + tiles.height + _FOOT), style.PAPER)
    whole.paste(tiles, (_LEFT, _HEAD))
    pen, letters = ImageDraw.Draw(whole), font(11)
    pen.text((_LEFT, _HEAD / 2), caption, fill=style.INK, font=letters, anchor="lm")
    for row, name in enumerate(("input", "reconstruction")):
        middle = _HEAD + scale * (row * (height + gap) + height / 2)
        pen.text((_LEFT - _MARGIN, middle), name, fill=style.MUTED, font=letters, anchor="rm")
    bar = whole.height - _FOOT + 4
    pen.rectangle((_LEFT, bar, _LEFT + tiles.width - 1, bar + 3), fill=style.RULE)
    pen.rectangle((_LEFT, bar, _LEFT + round(share * (tiles.width - 1)), bar + 3), fill=style.NORMAL)
    return whole
