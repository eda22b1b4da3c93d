"""Regions of images that do not count, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

Point = tuple[float, float]
Area = Path | tuple[tuple[Point, ...], ...] | dict[str, Any]


def _regions(value: Any) -> Any:
    """Regions to ignore as plain data: a file, polygons, or those by the value of a condition."""
    if isinstance(value, str | Path) or value is None:
        return value
    if isinstance(value, Mapping) and not (set(map(str, value)) <= {"polygons", "size"} and "polygons" in value):
        return {str(key): _regions(one) for key, one in value.items()}
    if isinstance(value, Mapping):
        return {**value, "polygons": [_points(one) for one in value["polygons"]]}
    if hasattr(value, "shape") or not isinstance(value, list | tuple):
        raise ValueError(
            f"ignore: got a {type(value).__name__}; expected a file (a mask image, JSON or YAML), polygons as lists of "
            "points [x, y], or a mapping from the values of a condition to these. Save a mask as an image file."
        )
    return [_points(one) for one in value]


def _points(polygon: Any) -> list[Point]:
    try:
        return [(float(x), float(y)) for x, y in polygon]
    except (TypeError, ValueError):
        raise ValueError(f"ignore: {polygon!s:.60} is no polygon; expected a list of points [x, y]") from None


IgnoredRegions = Annotated[Area | None, BeforeValidator(_regions)]
