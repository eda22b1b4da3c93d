"""Image factors: brightness, contrast, sharpness and rotation, measured on images.

They differ between normal images for reasons that are no defect: lamps, lenses, position. Values are scaled so that
integers run over 0 to 1 (the type's largest value is 1); floats count as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce

import numpy as np

from knowngood.config import nearest
from knowngood.data.findings import Unreadable
from knowngood.data.imageset import ImageSet
from knowngood.data.pixel_source import BlockPixels
from knowngood.data.values import Floats
from knowngood.errors import SettingsError

LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
VALUES_AT_ONCE = 1 << 20
ROUND = 1e-9  # second moments that agree to this share have no principal axis


def measure(images: ImageSet, names: Sequence[str]) -> dict[str, Floats]:
    """Image factors by name, (N,) float64 each; NaN for an image that cannot be read or holds values not finite.

    - brightness: the mean of V of the HSV colours, the largest channel of each pixel.
    - contrast: the standard deviation of the luminance (ITU-R 601 for three channels, else their mean).
    - sharpness: the mean of |Laplacian of the luminance| (4 neighbours, edges repeated) over the contrast; 0 for a
      constant image. It does not change with the strength or an offset of the illumination.
    - rotation: the angle of the principal axis in degrees, −90 < θ ≤ 90, 0 level and counter-clockwise up, from the
      second moments of |luminance − its median|, so that the object may be brighter or darker than its background. An
      axis has no direction: −89 and 90 are neighbours. 0 for an image without an axis (a disc, a square, a constant).
      Near such, small changes turn it far.
    - red, blue: the channel's share of the sum of all three; NaN for a black image or one of fewer channels.

    Files are read one at a time, arrays by parts.

    Raises:
        SettingsError: a name that is none of `MEASURES` (which may be conditions) and `COLOURS`.
    """
    for name in names:
        if name not in MEASURES and name not in COLOURS:
            raise SettingsError(f"cannot measure '{name}' on images" + nearest(name, list(MEASURES)))
    if not names:
        return {}

    def of_file(i: int) -> Floats:
        try:
            return _of_block(images.read(i)[None], names)
        except Unreadable:
            return np.full((1, len(names)), np.nan)

    if isinstance(images.pixels, BlockPixels):
        at_once = max(1, VALUES_AT_ONCE // int(np.prod(images.pixels.shape)))
        blocks = [_of_block(block, names) for block in images.pixels.chunks(at_once)]
    else:
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            blocks = list(pool.map(of_file, range(len(images))))
    measured = np.concatenate(blocks) if blocks else np.empty((0, len(names)))
    return dict(zip(names, measured.T, strict=True))


# On some images of one shape: (M, H, W, C) float64 → (M,) ------------------------------------------------------------


def brightness(x: Floats) -> Floats:
    largest = reduce(np.maximum, np.moveaxis(x, 3, 0))  # several times faster than x.max(axis=3)
    return largest.mean(axis=(1, 2))


def contrast(x: Floats) -> Floats:
    return _luminance(x).std(axis=(1, 2))


def sharpness(x: Floats) -> Floats:
    grey = _luminance(x)
    padded = np.pad(grey, ((0, 0), (1, 1), (1, 1)), mode="edge")
    down, right = np.diff(padded[:, :, 1:-1], axis=1), np.diff(padded[:, 1:-1], axis=2)  # differences: 0 where equal
    laplacian = down[:, 1:] - down[:, :-1] + right[:, :, 1:] - right[:, :, :-1]
    edges, spread = np.abs(laplacian).mean(axis=(1, 2)), grey.std(axis=(1, 2))
    return np.divide(edges, spread, out=np.zeros_like(edges), where=spread > 0)


def rotation(x: Floats) -> Floats:
    grey = _luminance(x)
    mass = np.abs(grey - np.median(grey, axis=(1, 2), keepdims=True))
    total = mass.sum(axis=(1, 2), keepdims=True)
    mass /= np.where(total > 0, total, 1)
    height, width = grey.shape[1:]
    up, right = (height - 1) / 2 - np.arange(height), np.arange(width) - (width - 1) / 2
    in_rows, in_columns = mass.sum(axis=2), mass.sum(axis=1)
    mean_up, mean_right = in_rows @ up, in_columns @ right
    tall, wide = in_rows @ up**2 - mean_up**2, in_columns @ right**2 - mean_right**2
    slanted = mass @ right  # (M, H)
    slanted = slanted @ up - mean_up * mean_right
    least = ROUND * (tall + wide)
    longer, slanted = (np.where(np.abs(moment) > least, moment, 0.0) for moment in (wide - tall, slanted))
    return np.degrees(np.arctan2(2 * slanted, longer)) / 2


MEASURES: dict[str, Callable[[Floats], Floats]] = {
    "brightness": brightness,
    "contrast": contrast,
    "sharpness": sharpness,
    "rotation": rotation,
}


def red(x: Floats) -> Floats:
    return _share(x, 0)


def blue(x: Floats) -> Floats:
    return _share(x, 2)


COLOURS: dict[str, Callable[[Floats], Floats]] = {"red": red, "blue": blue}


def _share(x: Floats, channel: int) -> Floats:
    if x.shape[3] < 3:
        return np.full(len(x), np.nan)
    sums = np.einsum("nhwc->nc", x[..., :3])
    total = sums.sum(axis=1)
    return np.divide(sums[:, channel], total, out=np.full(len(x), np.nan), where=total > 0)


def _luminance(x: Floats) -> Floats:
    return x @ LUMINANCE if x.shape[3] == 3 else x.mean(axis=3)


def _of_block(block: np.ndarray, names: Sequence[str]) -> Floats:
    """(M, H, W, C), native dtype → (M, K)."""
    x = block.astype(np.float64)
    finite = np.ones(len(x), dtype=bool)
    if block.dtype.kind == "f":
        finite = np.isfinite(x).all(axis=(1, 2, 3))
        x[~finite] = 0
    else:
        x /= np.iinfo(block.dtype).max
    found = np.stack([(MEASURES | COLOURS)[name](x) for name in names], axis=1)
    found[~finite] = np.nan
    return found
