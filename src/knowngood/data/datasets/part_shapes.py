"""The products of the generated parts: outline, holes, slots with inserts, print, material.

Coordinates (u, v) of a part: its centre is (0, 0), u to the right, v down, the picture is 2 wide. Outlines are signed
distances, negative inside (Quilez, https://iquilezles.org/articles/distfunctions2d). `k` is the column `variation`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.floating]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Product:
    """One kind of part.

    Attributes:
        outline: (u, v, k) → signed distance. ink: (u, v, k) → print, 0 to 1.
        holes: centre and radius of each. slots: centres of where an insert can be. filled: which slots have one.
        colour, insert: reflectance of the part and of its inserts, linear RGB.
        thickness: height above the mat. gloss: weight of the highlights. grain: stretch of the texture along v.
    """

    outline: Callable[[Grid, Grid, float], Grid]
    holes: tuple[tuple[float, float, float], ...]
    slots: tuple[tuple[float, float], ...]
    filled: tuple[int, ...]
    colour: Colour
    insert: Colour
    thickness: float = 0.06
    gloss: float = 0.3
    grain: float = 1.0
    ink: Callable[[Grid, Grid, float], Grid] | None = None

    def body(self, u: Grid, v: Grid, k: float, undrilled: int | None = None) -> Grid:
        """Signed distance of the part with its holes, but for the one that is `undrilled`."""
        distance = self.outline(u, v, k)
        for number, (x, y, radius) in enumerate(self.holes):
            if number != undrilled:
                distance = np.maximum(distance, -disc(u, v, x, y, radius))
        return distance


def disc(u: Grid, v: Grid, x: float, y: float, radius: float) -> Grid:
    """Signed distance of a disc."""
    return np.sqrt((u - x) ** 2 + (v - y) ** 2) - radius  # hypot is four times slower


def segment(u: Grid, v: Grid, a: NDArray, b: NDArray) -> Grid:
    """Distance from the segment between the points a and b."""
    (du, dv), pu, pv = b - a, u - a[0], v - a[1]
    along = np.clip((pu * du + pv * dv) / (du**2 + dv**2), 0, 1)
    return np.hypot(pu - along * du, pv - along * dv)


def _box(u: Grid, v: Grid, x: float, y: float, width: float, height: float, corner: float = 0.06) -> Grid:
    """A box of these half sides with rounded corners."""
    a, b = np.abs(u - x) - width + corner, np.abs(v - y) - height + corner
    return np.hypot(np.maximum(a, 0), np.maximum(b, 0)) + np.minimum(np.maximum(a, b), 0) - corner


def _bracket(u: Grid, v: Grid, k: float) -> Grid:
    arm = 0.17 + 0.06 * k
    return np.minimum(_box(u, v, -0.4, 0, arm, 0.66), _box(u, v, 0.02, 0.43, 0.64, arm))


def _gear(u: Grid, v: Grid, k: float) -> Grid:
    return np.hypot(u, v) - 0.6 - (0.03 + 0.04 * k) * np.clip(2 * np.cos(16 * np.arctan2(v, u)), -1, 1)


def _print(u: Grid, v: Grid, k: float) -> Grid:
    """A bar code, which differs from label to label, a frame and two lines of text."""
    stripes = np.sin(31 * u + 40 * k) + np.sin(57 * u - 90 * k) + np.sin(83 * u + 20 * k)
    bars = (stripes > 0.2) & (_box(u, v, -0.12, -0.16, 0.42, 0.15, 0.01) < 0)
    words = np.sin(60 * u) + np.sin(23 * u + 1) > -0.3
    text = words & (np.minimum(np.abs(v - 0.08), np.abs(v - 0.17)) < 0.022) & (np.abs(u + 0.06) < 0.48)
    frame = np.abs(_box(u, v, 0, 0, 0.62, 0.4, 0.04)) < 0.008
    return 0.85 * (bars | text | frame)


def _ring(n: int, radius: float) -> tuple[tuple[float, float], ...]:
    turns = 2 * np.pi * np.arange(n) / n - np.pi / 2
    return tuple((float(radius * np.cos(turn)), float(radius * np.sin(turn))) for turn in turns)


STEEL, BRASS, BLACK, RED = (0.5, 0.52, 0.55), (0.62, 0.48, 0.22), (0.12, 0.12, 0.13), (0.6, 0.1, 0.08)
PRODUCTS: dict[str, Product] = {
    "washer": Product(
        outline=lambda u, v, k: np.hypot(u, v) - (0.58 + 0.08 * k),
        holes=((0.0, 0.0, 0.2),), slots=_ring(6, 0.4), filled=(0, 2, 4), colour=STEEL, insert=BLACK, grain=0.12,
    ),
    "bracket": Product(
        outline=_bracket,
        holes=((-0.4, -0.47, 0.08), (0.49, 0.43, 0.08)),
        slots=((-0.4, -0.2), (-0.4, 0.07), (-0.1, 0.43), (0.2, 0.43)), filled=(0, 2),
        colour=(0.14, 0.3, 0.48), insert=STEEL, gloss=0.15,
    ),
    "gear": Product(
        outline=_gear,
        holes=((0.0, 0.0, 0.15),), slots=_ring(5, 0.37), filled=(0, 1, 3), colour=BRASS, insert=BLACK,
    ),
    "label": Product(
        outline=lambda u, v, k: _box(u, v, 0, 0, 0.7, 0.47),
        holes=((0.47, -0.22, 0.07),), slots=tuple((x, 0.295) for x in (-0.45, -0.22, 0.01, 0.24, 0.47)),
        filled=(1, 3), colour=(0.78, 0.77, 0.72), insert=RED, thickness=0.012, gloss=0.05, ink=_print,
    ),
}  # fmt: skip
