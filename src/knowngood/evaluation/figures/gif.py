"""Pictures one after the other as a GIF that repeats."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

COLOURS = 64
_SAMPLED = 9  # frames that the palette is made from


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


def font(size: float) -> FreeTypeFont:
    """The typeface of all other figures, which has signs that Pillow's own lacks."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
