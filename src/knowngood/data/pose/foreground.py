"""What stands out of a picture against the colour of its border."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from knowngood.data.pose.geometry import Floats, reduced

SEEN = 192  # pixels of the longer side at which the foreground is looked for
BORDER = 0.03  # width of the border whose colour is the background's, a share of the side
LEAST_AREA, LARGEST_AREA = 0.005, 0.75  # of the picture that a part covers
TOUCHES = 0.02  # of the border that a part may cover
AT_BORDER = 0.25  # likewise, of one that is only looked for, and may lie at the border
CONTRAST = 0.04  # of the range of values by which a part differs from the background, at least
NOISES = 4.0  # spreads of the background, likewise
SMALLEST = 1e-12


class Foreground(NamedTuple):
    """What stands out of a picture: the distance of every pixel from the background's colour, and the part.

    planes: (2, h, w) float32 of the picture at `scale` (its pixels per plane pixel): the distance d, which shows what a
    part looks like; and d / (d + t) with a t between the distances of background and part, which shows its outline
    whatever light falls on the part.
    centre (x, y), radius and area of the largest connected part, in pixels of the picture; area 0 if there is none.
    mask: (h, w) the part. share: of all that stands out, the part's.
    """

    planes: NDArray[np.float32]
    scale: float
    centre: Floats
    radius: float
    area: float
    mask: NDArray[np.bool_]
    share: float = 0.0


def foreground(image: np.ndarray, touches: float = TOUCHES) -> Foreground:
    """What stands out of an image (h, w, C) of any number type against the colour of its border.

    touches: the share of the border that a part may cover.
    """
    height, width = image.shape[:2]
    scale = max(1.0, max(height, width) / SEEN)
    small = reduced(image.astype(np.float32).transpose(2, 0, 1), scale)
    wide = max(1, round(BORDER * min(small.shape[1:])))
    border = np.ones(small.shape[1:], bool)
    border[wide:-wide, wide:-wide] = False
    away = np.sqrt(np.square(small - np.median(small[:, border], axis=1)[:, None, None]).sum(axis=0))
    away = np.asarray(ndimage.gaussian_filter(away, 0.7), np.float32)
    least = max(CONTRAST * float(small.max() - small.min()), NOISES * 1.4826 * float(np.median(away[border])))
    threshold = max(least, _otsu(away))
    mask = ndimage.binary_opening(away > threshold)
    mask = np.asarray(ndimage.binary_fill_holes(mask), bool)
    labelled: Any = ndimage.label(mask)
    parts = labelled[0]
    outline = away / (away + max(math.sqrt(threshold * least), SMALLEST))
    planes = np.stack([away, outline]).astype(np.float32)
    nothing = Foreground(planes, scale, np.zeros(2), 0.0, 0.0, mask)
    if not parts.any():
        return nothing
    areas = np.bincount(parts.ravel())[1:]
    mask = parts == 1 + areas.argmax()
    share = mask.mean()
    edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    if not LEAST_AREA <= share <= LARGEST_AREA or edge.mean() > touches:
        return nothing
    y, x = np.nonzero(mask)
    steps = np.array([width / mask.shape[1], height / mask.shape[0]])
    at = (np.column_stack([x, y]) + 0.5) * steps - 0.5
    centre = at.mean(axis=0)
    radius = float(np.quantile(np.hypot(*(at - centre).T), 0.995))
    alone = float(areas.max() / areas.sum())
    return Foreground(planes, scale, centre, radius, float(share * height * width), mask, alone)


def _otsu(values: NDArray[Any]) -> float:
    """The threshold that separates two classes best (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=128)
    at = (edges[:-1] + edges[1:]) / 2
    below, above = counts.cumsum(), counts.sum() - counts.cumsum()
    sums = (counts * at).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * np.square(sums / below - (sums[-1] - sums) / above)
    return float(at[int(np.nan_to_num(between).argmax())])
