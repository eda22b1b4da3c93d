"""Polygons in shares of an image: checked once, filled at any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knowngood.errors import DataError

Polygon = tuple[tuple[float, float], ...]


def read_polygons(given: Any, size: Sequence[int] | None, where: str) -> tuple[Polygon, ...]:
    """Polygons in shares 0…1 of width and height, from lists of points (x, y).

    Args:
        given: polygons, each a list of at least three points, not all on one line; it is closed by itself.
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
                else f"The image is {size[0]} wide and {size[1]} high: mend size or cut the polygon at the edge"
            )
            raise DataError(f"{where}: polygon {i} has the point ({x:g}, {y:g}) outside of the image. {way_out}.")
    if size is not None and min(size) > 1 and all((points <= 1).all() for points in polygons):
        raise DataError(f"{where}: no coordinate is above 1, these are shares of the image and not pixels; omit size")
    return tuple(tuple((float(x), float(y)) for x, y in points / extent) for points in polygons)


def fill(polygons: Sequence[Polygon], height: int, width: int) -> NDArray[np.bool_]:
    """(height, width) True where the centre of a pixel lies inside any of the polygons.

    Inside by the even-odd rule. A centre on an edge belongs to the area to the right of it, or below it: polygons that
    share an edge neither overlap nor leave a gap. The image runs from (0, 0) to (width, height), and the centre of the
    first pixel is at (½, ½).
    """
    inside = np.zeros((height, width), dtype=bool)
    for polygon in polygons:
        points = np.asarray(polygon) * (width, height) - 0.5  # centres are whole numbers now
        ends = np.roll(points, -1, axis=0)
        rows = slice(*(int(np.clip(np.ceil(y), 0, height)) for y in (points[:, 1].min(), points[:, 1].max())))
        turns = np.zeros((rows.stop - rows.start, width + 1), dtype=np.uint8)
        for a, b in zip(points, ends, strict=True):
            (x0, y0), (x1, y1) = (a, b) if a[1] <= b[1] else (b, a)  # the same crossings in both directions
            row = np.arange(*(int(np.clip(np.ceil(y), rows.start, rows.stop)) for y in (y0, y1)))
            if len(row):
                crossing = x0 + (row - y0) * (x1 - x0) / (y1 - y0)
                turns[row - rows.start, np.clip(np.ceil(crossing), 0, width).astype(np.int64)] ^= 1
        inside[rows] |= np.bitwise_xor.accumulate(turns[:, :width], axis=1).astype(bool)
    return inside


def _points(given: Any, where: str) -> NDArray[np.float64]:
    try:
        points = np.asarray(given, dtype=np.float64)
    except (ValueError, TypeError):
        raise DataError(f"{where}: expected points [x, y] in numbers, got {given!s:.60}") from None
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise DataError(f"{where}: expected points [x, y] in finite numbers, got {given!s:.60}")
    if len(points) < 3:
        raise DataError(f"{where} has {len(points)} points; expected at least 3")
    sides = points[1:] - points[0]
    if not np.any(sides[:, None, 0] * sides[None, :, 1] - sides[:, None, 1] * sides[None, :, 0]):
        raise DataError(f"{where}: all its points lie on one line, there is nothing inside")
    return points
