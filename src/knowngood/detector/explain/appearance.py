"""What can be said of a region from its pixels: darker, brighter, of another colour, with edges or without.

Every pixel is compared with the normal images at the same place, in units of how much those vary there. So a part that
may lie a little to the left says nothing, and a word stands for a measured difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

from knowngood.representations.pixels import LUMINANCE

Kind = Literal["darker", "brighter", "colour", "more contrast", "less contrast"]

FAR = 4.0  # standard deviations of normal images from which on a pixel differs
LEAST = 0.06  # of the range of values: a smaller difference is not reported however rare
LEAST_CONTRAST = 0.03
SHARE = 0.02  # of the region, and
FEWEST = 4  # pixels, from which on a difference is reported
WINDOW = 5  # pixels of the side in which local contrast is measured
HUES = {(0, 1): "redder", (0, -1): "greener", (1, 1): "bluer", (1, -1): "yellower"}


class Difference(NamedTuple):
    """How pixels of a region differ from the normal images at the same place.

    share: of the region's pixels that differ so. change: mean of these pixels over that of normal images − 1, so −.4
    for 40 % darker; of a colour the distance of the chroma, 0 to 1. deviation: median of these pixels, in standard
    deviations of normal images. hue: of a colour, the direction: redder, greener, bluer or yellower.
    """

    kind: Kind
    share: float
    change: float
    deviation: float
    hue: str = ""


class Appearance(NamedTuple):
    """Mean and standard deviation of n normal images at each pixel, (K, H, W) each.

    The K = 4 quantities are brightness, red − green, blue − yellow and local contrast; images of other than three
    channels have the first and the last. See `quantities`.
    """

    mean: np.ndarray
    spread: np.ndarray


def quantities(x: np.ndarray) -> np.ndarray:
    """(K, H, W) float64 of a scaled image (C, H, W): brightness, chroma of three channels, local contrast.

    Local contrast is the standard deviation of the brightness in a window of 5 × 5 pixels.
    """
    x = x.astype(np.float64)
    if len(x) == 3:
        brightness = np.tensordot(LUMINANCE, x, 1)
        chroma = [x[0] - x[1], x[2] - (x[0] + x[1]) / 2]
    else:
        brightness, chroma = x.mean(0), []
    mean, square = (ndimage.uniform_filter(one, WINDOW, mode="nearest") for one in (brightness, brightness**2))
    return np.stack([brightness, *chroma, np.sqrt(np.maximum(square - mean**2, 0))])


def differences(x: np.ndarray, region: np.ndarray, normal: Appearance) -> tuple[Difference, ...]:
    """What differs in a region (H, W) bool of a scaled image (C, H, W), the most widespread first."""
    if not region.any():
        return ()
    own, mean, spread = (values[:, region] for values in (quantities(x), normal.mean, normal.spread))
    off = own - mean
    found = [
        _brightness("darker", -off[0], mean[0], spread[0]),
        _brightness("brighter", off[0], mean[0], spread[0]),
        _colour(own, mean, spread) if len(own) == 4 else None,
        _contrast("more contrast", off[-1], mean[-1], spread[-1]),
        _contrast("less contrast", -off[-1], mean[-1], spread[-1]),
    ]
    return tuple(sorted((one for one in found if one is not None), key=lambda one: -one.share))


def _brightness(kind: Kind, off: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> Difference | None:
    return _of(kind, off, spread, LEAST, lambda far: off[far].mean() / max(mean[far].mean(), LEAST))


def _contrast(kind: Kind, off: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> Difference | None:
    return _of(kind, off, spread, LEAST_CONTRAST, lambda far: off[far].mean() / max(mean[far].mean(), 1e-3))


def _colour(own: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> Difference | None:
    """Chroma beyond what the same surface has where it is darker or brighter."""
    expected = mean[1:3] * own[0] / np.maximum(mean[0], LEAST)
    off = own[1:3] - expected
    size = np.sqrt((off**2).sum(0))
    found = _of("colour", size, np.sqrt((spread[1:3] ** 2).sum(0)), LEAST, lambda far: size[far].mean())
    if found is None:
        return None
    direction = off[:, size > np.maximum(FAR * np.sqrt((spread[1:3] ** 2).sum(0)), LEAST)].mean(1)
    axis = int(np.abs(direction).argmax())
    return found._replace(hue=HUES[axis, 1 if direction[axis] > 0 else -1])


def _of(
    kind: Kind, off: np.ndarray, spread: np.ndarray, least: float, change: Callable[[np.ndarray], float]
) -> Difference | None:
    """Of pixels (n,) that differ by `off`, upwards; None if too few do."""
    far = off > np.maximum(FAR * spread, least)
    if far.sum() < max(FEWEST, SHARE * len(far)):
        return None
    sign = -1 if kind in ("darker", "less contrast") else 1
    deviation = float(np.median(off[far] / np.maximum(spread[far], least / FAR)))
    return Difference(kind, float(far.mean()), sign * float(change(far)), sign * deviation)
