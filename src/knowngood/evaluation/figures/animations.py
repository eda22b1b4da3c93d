"""GIF films: reconstructions during training, and the way from one image to another through latent space."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from knowngood.errors import DataError
from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.tiles import gap_of, mosaic

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS = 64
_SAMPLED = 9  # frames that the palette is made from
_LEFT, _HEAD, _FOOT, _MARGIN = 98, 24, 12, 6  # pixels


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
        rows = np.stack([inputs, made])
        pictures.append(_frame(rows, caption, step / max(*steps, 1), rows=("input", "reconstruction"), side=56))
    pause = [milliseconds] * len(pictures)
    pause[0], pause[-1] = 5 * milliseconds, 15 * milliseconds
    return write_gif(path, pictures, pause)


def interpolation_gif(path: str | Path, ends: np.ndarray, frames: np.ndarray, *, milliseconds: int = 70) -> Path:
    """A GIF that runs there and back: on the left and right the two images, between them the way, one row a pair.

    Args:
        ends: (P, 2, H, W, C) the two images of each pair.
        frames: (P, S, H, W, C) images decoded on the way; best some 20.
        milliseconds: each frame is shown.
    """
    steps = frames.shape[1]
    pictures = []
    for step in range(steps):
        share = step / max(steps - 1, 1)
        rows = np.stack([ends[:, 0], frames[:, step], ends[:, 1]], axis=1)
        pictures.append(_frame(rows, f"image 1 → image 2: {100 * share:.0f} %", share))
    film = pictures + pictures[-2:0:-1]
    pause = [milliseconds] * len(film)
    pause[0] = pause[steps - 1] = 8 * milliseconds
    return write_gif(path, film, pause)


def write_gif(path: str | Path, pictures: Sequence[Image], milliseconds: Sequence[int]) -> Path:
    """Write RGB pictures of one size, each shown for so long; the same pictures give the same bytes.

    All frames share one palette of 64 colours, taken from up to nine of them: no flicker, and a light file.
    """
    from PIL import Image

    some = np.unique(np.linspace(0, len(pictures) - 1, _SAMPLED).round().astype(int))
    sample = np.concatenate([np.asarray(pictures[i]) for i in some])
    palette = Image.fromarray(sample).quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    frames = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    path, buffer = Path(path), io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=list(milliseconds), loop=0, optimize=True
    )
    path.write_bytes(buffer.getvalue())
    return path


def _frame(images: np.ndarray, caption: str, share: float, *, rows: Sequence[str] = (), side: int = 96) -> Image:
    """Tiles (R, K, H, W, C), about `side` pixels each, under the caption; a bar below shows the progress `share`."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    height, width = images.shape[2:4]
    scale, gap, left = max(1, round(side / max(height, width))), gap_of(height, width), _LEFT if rows else _MARGIN
    tiles = Image.fromarray(np.round(255 * mosaic(images)[..., :3]).astype(np.uint8))
    tiles = tiles.resize((tiles.width * scale, tiles.height * scale), Image.Resampling.NEAREST)
    frame = Image.new("RGB", (left + tiles.width + _MARGIN, _HEAD + tiles.height + _FOOT), style.PAPER)
    frame.paste(tiles, (left, _HEAD))
    # The typeface of all other figures, which has signs that Pillow's own lacks.
    letters = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), 11)
    pen = ImageDraw.Draw(frame)
    pen.text((left, _HEAD / 2), caption, fill=style.INK, font=letters, anchor="lm")
    for row, name in enumerate(rows):
        middle = _HEAD + scale * (row * (height + gap) + height / 2)
        pen.text((left - _MARGIN, middle), name, fill=style.MUTED, font=letters, anchor="rm")
    bar = frame.height - _FOOT + 4
    pen.rectangle((left, bar, left + tiles.width - 1, bar + 3), fill=style.RULE)
    pen.rectangle((left, bar, left + round(share * (tiles.width - 1)), bar + 3), fill=style.NORMAL)
    return frame
