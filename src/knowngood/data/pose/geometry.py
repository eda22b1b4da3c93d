"""Affine maps between pictures, and planes resized and sampled by them.

A map is (2, 3) and takes (x, y, 1) to (x', y'): x is the column, y the row, in pixels, (0, 0) the centre of the upper
left one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Floats = NDArray[np.float64]
Size = tuple[int, int]


class Quality(NamedTuple):
    """Correlation with the reference, −1 to 1, over the same pixels both times; NaN for a constant image."""

    before: float
    after: float


def rotation(degrees: float) -> Floats:
    """(2, 2) rotation by an angle, counter-clockwise positive."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, sin], [-sin, cos]])


def inverse(matrix: Floats) -> Floats:
    """(2, 3) the inverse map."""
    (a, b, right), (c, d, down) = matrix
    back = np.array([[d, -b], [-c, a]]) / (a * d - b * c)
    return np.column_stack((back, -back @ (right, down)))


def reduced(planes: NDArray[Any], scale: float) -> NDArray[Any]:
    """Planes (C, h, w) with sides divided by a scale, if it is above 1: bilinear and antialiased, in their dtype.

    Computed in float32.
    """
    if scale <= 1:
        return planes
    height, width = (max(1, round(side / scale)) for side in planes.shape[1:])
    bilinear = Image.Resampling.BILINEAR
    small = [Image.fromarray(plane.astype(np.float32)).resize((width, height), bilinear) for plane in planes]
    return np.stack([np.asarray(one) for one in small]).astype(planes.dtype, copy=False)


def sampled(planes: NDArray[Any], matrix: Floats, size: Size, out: Size) -> NDArray[Any]:
    """Planes (C, h, w), which cover a picture of `size`, at a map from pixels of `out` to those of the picture.

    Bilinear, (C, *out) in their dtype; beyond the picture its edge is repeated.
    """
    by = np.array([planes.shape[2] / size[1], planes.shape[1] / size[0]])  # pixels of the planes per pixel
    linear = matrix[:, :2] * by[:, None]
    start: Any = (matrix[:, 2] + 0.5) * by - 0.5
    moved = np.empty((len(planes), *out), planes.dtype)
    for plane, place in zip(planes, moved, strict=True):  # rows before columns
        ndimage.affine_transform(plane, linear[::-1, ::-1], start[::-1], out, output=place, order=1, mode="nearest")
    return moved


def laid(plane: NDArray[np.float32], matrix: Floats, out: Size) -> NDArray[np.float32]:
    """A plane (h, w) at a map from pixels of `out` to its own, bilinear; 0 beyond its edges."""
    edges = np.column_stack((matrix[:, :2], matrix[:, 2] + 0.5 - matrix[:, :2].sum(axis=1) / 2))  # (0, 0) at a corner
    affine = Image.Transform.AFFINE, tuple(edges.reshape(-1).tolist()), Image.Resampling.BILINEAR
    return np.array(Image.fromarray(plane).transform((out[1], out[0]), *affine))
