"""Synthetic defects on normal images: to compare settings without seeing a real defect.

`synthesize` draws a defect of one of the kinds in `defect_kinds` until the change can be seen and its size is that of
a defect; the mask is where it can be seen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from knowngood.config import nearest
from knowngood.errors import DataError, SettingsError
from knowngood.evaluation.defect_kinds import KINDS, LARGEST, SMALLEST, Floats, foreign

Mask = NDArray[np.bool_]

VISIBLE = 0.03  # of the range of values: a smaller change of a pixel is not part of the defect
CLOSED = 0.02  # of the shorter side: radius of the disc that closes gaps in the mask
LEAST_SIDE = 16
TRIES = 40


def synthesize(
    image: np.ndarray, rng: np.random.Generator, kind: str | None = None, other: np.ndarray | None = None
) -> tuple[np.ndarray, Mask, str]:
    """A copy of a normal image with one defect at a random location, of random size and contrast.

    A pixel is in the mask where a channel changed by 3 % of the range of values or more; gaps between such pixels are
    closed by a disc whose radius is 2 % of the shorter side. The mask covers 0.3 to 15 % of the image. The range is 0
    to 255 for 8 bits (0 to 1 if no value is above 1), else from the smallest to the largest value of this image; it is
    not left. How strong a defect is goes by the contrast that the image itself has.

    Args:
        image: (H, W, C), any number type, both sides at least 16.
        kind: one of `KINDS`; None draws one.
        other: an image (h, w, C) of the same type whose texture "foreign" may take; without it a texture is made.

    Returns:
        The image, same shape and type; the mask (H, W); the kind. Where an image is so plain that 40 draws of a kind
        cannot be seen (a blur of a plain surface), a hole is made instead, and the kind says so.

    Raises:
        DataError: not (H, W, C), too small, without a range of values, or holds values that are not finite.
        SettingsError: an unknown kind.
    """
    low, high = _range(image)
    kind = str(rng.choice(list(KINDS))) if kind is None else _known(kind)
    x = (image.astype(np.float64) - low) / (high - low)
    texture = None if other is None else (other.astype(np.float64) - low) / (high - low)
    for name in (kind, "hole"):
        for _ in range(TRIES):
            made = foreign(x, rng, texture) if name == "foreign" else KINDS[name](x, rng)
            changed = _written(image, x, made.clip(0, 1), low, high)
            mask = visible(image, changed, high - low)
            if max(SMALLEST, 1 / mask.size) <= mask.mean() <= LARGEST:
                return changed, mask, name
    raise DataError("no defect could be seen on this image: it may hold too few different values")


# Values and masks -----------------------------------------------------------------------------------------------------


def _range(image: np.ndarray) -> tuple[float, float]:
    if image.ndim != 3 or min(image.shape[:2]) < LEAST_SIDE or image.shape[2] < 1:
        raise DataError(f"an image has shape {image.shape}; a defect needs (H, W, C), both sides at least {LEAST_SIDE}")
    low, high = float(image.min()), float(image.max())
    if not np.isfinite([low, high]).all():
        raise DataError("the image holds NaN or infinite values")
    if image.dtype == np.uint8:
        low, high = 0.0, 255.0 if high > 1 else 1.0
    if low == high:
        raise DataError(f"all values of an image are {low:g}: without a range of values no defect can be drawn on it")
    return low, high


def _written(image: np.ndarray, x: Floats, made: Floats, low: float, high: float) -> np.ndarray:
    """The changed image in the type of the original; untouched pixels keep their exact value."""
    values = low + made * (high - low)
    changed = values.round() if image.dtype.kind in "iu" else values
    return np.where(made != x, changed.clip(low, high).astype(image.dtype), image)


def visible(image: np.ndarray, changed: np.ndarray, span: float) -> Mask:
    """(H, W) where a channel changed by 3 % of `span` or more, small gaps closed."""
    from scipy.ndimage import binary_closing

    channels = range(image.shape[2])
    change = [np.abs(np.subtract(changed[..., c], image[..., c], dtype=np.float64)) for c in channels]
    differs = np.maximum.reduce(change) >= VISIBLE * span
    if not differs.any():
        return differs
    reach = max(1, round(CLOSED * min(differs.shape)))
    near = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) <= reach + 0.5
    box = tuple(slice(at.min(), at.max() + 1) for at in np.nonzero(differs))  # closing never leaves it
    differs[box] |= binary_closing(np.pad(differs[box], reach), near)[reach:-reach, reach:-reach]
    return differs


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise SettingsError(f"kind = '{kind}'{nearest(kind, list(KINDS))}")
    return kind
