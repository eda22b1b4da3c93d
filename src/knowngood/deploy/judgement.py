"""Images in, rows out: those of the command line, as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from knowngood.calibration.map_scale import MapScale
from knowngood.data import ImageSet
from knowngood.data.conditions import Unknown
from knowngood.data.itemset import numbered
from knowngood.data.pixel_source import JoinedPixels

Row = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What is asked for of some images; see `Detector.detect`. keep: what a page shows of them, under `kept`."""

    alpha: float | None = None
    unknown: Unknown | None = None
    maps: bool = False
    explain: bool = False
    keep: bool = False


class Kept(NamedTuple):
    """Of an image that was read. alpha: of the verdict. map: (H, W), where the score has one; scale: of its colours.
    regions: boxes of it. reference: the group of normal images that it is compared with."""

    alpha: float
    map: np.ndarray | None
    scale: MapScale | None
    regions: tuple[tuple[int, int, int, int], ...]
    reference: int | None


def joined(sets: list[ImageSet]) -> ImageSet:
    """The images of several sets as one, numbered; a condition that a set lacks is unknown there."""
    if len(sets) == 1:
        return sets[0]
    names = dict.fromkeys(name for some in sets for name in some.conditions)
    columns = {
        name: np.concatenate([some.conditions.get(name, np.full(len(some), None)) for some in sets]) for name in names
    }
    pixels = JoinedPixels([some.pixels for some in sets])
    return ImageSet(pixels, numbered(len(pixels)), np.full(len(pixels), np.nan), columns, name=sets[0].name)


def plain(value: Any) -> Any:
    """A cell of a table as JSON knows it; what is missing, or no finite number, is None."""
    value = value.item() if isinstance(value, np.generic) else value
    missing = type(value).__name__ == "NAType" or (isinstance(value, float) and not math.isfinite(value))
    return None if missing else value
