"""Square, ellipse and heart as black and white sprites, one pixel decision each: its centre is in the shape or not.

The renderer. A shape is given by an inequality in its own coordinates (u, v), of scale s and pixels as the unit:

    square    max(|u|, |v|) ≤ 11.3 s
    ellipse   (u / 15.7 s)² + (v / 7.8 s)² ≤ 1
    heart     (p² + q² − 1)³ ≤ p² q³ with p = u / 11.2 s and q = −v / 11.2 s: its point is below

A pixel whose centre lies (dx, dy) from the centre of the sprite, dx to the right and dy down, is white if
(u, v) = (dx cos θ + dy sin θ, dy cos θ − dx sin θ) is in the shape: the shape is turned by θ, clockwise as seen. The
sprite's centre is the centre of a pixel, so a shift by a whole pixel changes only the location. There are no grey
edges. No shape of scale ≤ 1 reaches further than 16 pixels from the centre.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from knowngood.errors import SettingsError

SHAPES = ("square", "ellipse", "heart")
REACH = 16  # pixels from the centre to the edge of a sprite's window
WIDTH = 2 * REACH + 1
SQUARE, ELLIPSE, HEART = 11.3, (15.7, 7.8), 11.2  # sizes at scale 1; of no scale used is an edge on pixel centres


def sprite(shape: str, scale: float, angle: float) -> NDArray[np.bool_]:
    """A shape in its window, (33, 33), True inside.

    Args:
        shape: one of `SHAPES`.
        scale: above 0, at most 1.
        angle: in radians, clockwise.
    """
    if shape not in SHAPES or not 0 < scale <= 1:
        raise SettingsError(
            f"sprite {shape!r} of scale {scale!r}; expected one of {', '.join(SHAPES)} and 0 < scale ≤ 1"
        )
    offset = np.arange(-REACH, REACH + 1, dtype=np.float64)
    dx, dy = offset[None, :], offset[:, None]
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / scale
    v = (dy * np.cos(angle) - dx * np.sin(angle)) / scale
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) <= SQUARE
    if shape == "ellipse":
        return (u / ELLIPSE[0]) ** 2 + (v / ELLIPSE[1]) ** 2 <= 1
    p, q = u / HEART, -v / HEART
    return (p**2 + q**2 - 1) ** 3 <= p**2 * q**3
