"""Images in, rows out: those of the command line, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from knowngood.calibration.map_scale import MapScale
from knowngood.data.conditions import Unknown

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
