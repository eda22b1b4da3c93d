"""Polygons in shares of an image: checked once, filled at any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from knowngood.config.words import counted
from knowngood.errors import DataError

Polygon = tuple[tuple[float, float], ...]


def read_polygons(given: Any, size: Sequence[int] | None, where: str) -> tuple[Polygon, ...]:
    """Polygons in shares 0…1 of width and height, from lists of points (x, y).

    Args:
        given: polygons, each a list of at least three points, not all on one line; it is closed automatically.
        size: (width, height) in pixels of the image that the points belong to; None if they are shares already.
        where: what to call them in errors.

    Raises:
        DataError: names the polygon and what is wrong with it.
    """
    if size is not None and (len(size) != 2 or not all(isinstance(s, int | np.integer) and s > 0 for s in size)):
        raise DataError(f"{where}: size = {size!r}; expected (width, height) in pixels")
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise DataError(f"{where}: expected a list of polygons, each a list of points [x, y], got {given!s:.60}")
    polygons = [_points(one, f"{where}: polygon {i}") for i, one in enumerate(given)]
    extent = np.ones(2) if size is None else np.asarray(size, dtype=np.float64)
    for i, points in enumerate(polygons):
        outside = points[((points < 0) | (points > extent)).any(axis=1)]
        if len(outside):
            x, y = outside[0].tolist()
            way_out = (
                "Points are shares 0…1 of width and height; for pixels give size, (width, height) of the image"
                if size is None
                else f"The image is {size[0]} wide and {size[1]} high: correct size or cut the polygon at the edge"
            )
            raise DataError(f"{where}: polygon {i} has the point ({x:g}, {y:g}) outside of the image. {way_out}.")
    if size is not None and min(size) > 1 and all((points <= 1).all() for points in polygons):
        raise DataError(f"{where}: no coordinate is above 1, these are shares of the image and not pixels; omit size")
    return tuple(tuple((float(x), float(y)) for x, y in points / extent) for points in polygons)


def fill(polygons: Sequence[Polygon], height: int, width: int) -> NDArray[np.bool_]:
    """(height, width) True where the centre of a pixel lies inside any of the polygons or on an outline.

    The image runs from (0, 0) to (width, height); the centre of the first pixel is at (½, ½). Pillow draws on integer
    points, so vertices are rounded to half pixels: a polygon whose vertices are corners of pixels is exact, and else a
    pixel can differ from the even-odd rule only if its centre is within one pixel of an outline. Polygons that share
    an edge leave no gap; centres on that edge belong to both.
    """
    # On a grid twice as fine, corners of pixels are even and centres odd: every centre is a point that Pillow draws.
    canvas = Image.new("1", (2 * width + 1, 2 * height + 1))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        points = np.rint(np.asarray(polygon) * (2 * width, 2 * height)).astype(int)
        draw.polygon([(x, y) for x, y in points.tolist()], fill=1)
    return np.asarray(canvas)[1::2, 1::2].copy()


def _points(given: Any, where: str) -> NDArray[np.float64]:
    try:
        points = np.asarray(given, dtype=np.float64)
    except (ValueError, TypeError):
        points = np.empty((0, 0))
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise DataError(f"{where}: expected points [x, y] in finite numbers, got {given!s:.60}")
    if len(points) < 3:
        raise DataError(f"{where} has {counted(len(points), 'point')}; expected at least 3")
    sides = points[1:] - points[0]
    if not np.any(sides[:, None, 0] * sides[None, :, 1] - sides[:, None, 1] * sides[None, :, 0]):
        raise DataError(f"{where}: all its points lie on one line, there is nothing inside")
    return points
