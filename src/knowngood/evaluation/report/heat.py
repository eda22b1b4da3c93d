"""One scale of colour for all anomaly maps of a page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

USUAL = 0.95  # of the values of maps of images that are not flagged stay clear
HALF = 0.5  # of the values where all images are flagged


def map_limits(maps: Sequence[tuple[np.ndarray | None, bool]]) -> tuple[float, float]:
    """Values where colour begins and where it is full, one scale for all maps; each with whether it is flagged.

    It begins above what 95 % of the places of images that are not flagged have (half of all places, if there are none),
    and is full at the median of the largest values of flagged images.
    """
    read = [(values[~np.isnan(values)], flagged) for values, flagged in maps if values is not None]
    known = [(values, flagged) for values, flagged in read if values.size]
    if not known:
        return 0.0, 1.0
    calm = [values for values, flagged in known if not flagged]
    odd = [values for values, flagged in known if flagged] or [values for values, _ in known]
    everywhere = np.concatenate(calm or [values for values, _ in known])
    low = float(np.quantile(everywhere, USUAL if calm else HALF))
    high = float(np.median([values.max() for values in odd]))
    return low, high if high > low else low + 1.0
