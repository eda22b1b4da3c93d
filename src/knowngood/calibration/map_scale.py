"""How anomaly maps are coloured: from the threshold of the map on, so that what is normal stays without colour."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np

from knowngood.calibration.state import Calibration


class MapScale(NamedTuple):
    """Values of one map where its colour begins and where it is full; colour is strictly above `begins`.

    by: what `begins` is. "threshold": that of the map at the false-alarm rate `alpha`, which at most that share of
    normal images exceeds anywhere. "normals": the largest value in maps of `n` normal images, too few for a threshold.
    "map": the median of the map itself, where the maps of a model are not calibrated.
    """

    begins: float
    full: float
    by: Literal["threshold", "normals", "map"] = "threshold"
    alpha: float = math.nan
    n: int = 0

    def share(self, values: np.ndarray) -> np.ndarray:
        """Values as 0 (no colour) to 1 (full); NaN, where a region is ignored, has none."""
        share = (np.nan_to_num(values.astype(float), nan=self.begins) - self.begins) / (self.full - self.begins)
        return np.clip(share, 0, 1)


def scale_of(known: Calibration, alpha: float | None = None, stratum: int = -1) -> MapScale:
    """The scale by a calibration of maps: full at twice its threshold.

    Where too few images calibrate for a threshold at `alpha`, the largest value that any of them has takes its place.
    """
    alpha = known.alpha if alpha is None else alpha
    reference, threshold = known.reference(alpha, stratum), known.threshold(alpha, stratum)
    begins = threshold if math.isfinite(threshold) else float(reference.max())
    by: Literal["threshold", "normals"] = "threshold" if math.isfinite(threshold) else "normals"
    # Distances are above 0; a negative log-likelihood need not be, and 1 nat above what is normal is much.
    span = begins if begins > 0 else max(-begins, 1.0)
    return MapScale(begins, begins + span, by, alpha, len(reference))


def own_scale(values: np.ndarray) -> MapScale:
    """From the median of a map to its largest value, where nothing is known of other maps."""
    if np.isnan(values).all():
        return MapScale(0.0, 1.0, "map")
    low, high = (float(each(values)) for each in (np.nanmedian, np.nanmax))
    return MapScale(low, high if high > low else low + 1, "map")


def legend(scales: Iterable[MapScale | None]) -> str:
    """What the colours of these maps mean, in words, with the values where colour begins and is full."""
    known = [one for one in scales if one is not None]
    if not known:
        return ""
    begins, full = _span([one.begins for one in known]), _span([one.full for one in known])
    first, kinds = known[0], {one.by for one in known}
    if kinds == {"threshold"}:
        what = f"the threshold of the map, {begins}, which at most {100 * first.alpha:.3g} % of normal images exceed"
    elif kinds <= {"threshold", "normals"}:
        fewest = min(one.n for one in known if one.by == "normals")
        what = f"{begins}, the largest value in maps of normal images (too few for a threshold: {fewest})"
    else:
        what = f"the median of each map, {begins}: maps of this model have no threshold"
    return f"Colour begins at {what}; it is full from {full}."


def _span(values: list[float]) -> str:
    low, high = (f"{each(values):,.0f}" if each(values) >= 100 else f"{each(values):.3g}" for each in (min, max))
    return low if low == high else f"{low} to {high} by condition"
