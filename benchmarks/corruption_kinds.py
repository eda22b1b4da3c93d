"""Corruptions of an image, of strength 0 (none) to 5: what light, camera, compression and a loose fixture do to it.

Each is an exact function of the image, the strength and a seed. What it draws (a direction, a sign, a place, the grain)
does not depend on the strength, so that a stronger corruption of an image goes further the same way. Torch-free.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import affine_transform, gaussian_filter

from knowngood.config import nearest
from knowngood.errors import DataError, SettingsError

Floats = NDArray[np.float64]
Corruption = Callable[[Floats, float, np.random.Generator], Floats]
STRONGEST = 5


def corrupted(image: np.ndarray, kind: str, strength: float, seed: int = 0) -> np.ndarray:
    """An image (H, W, C), integer or float on [0, 1], corrupted by a kind of `KINDS`; same shape, dtype and range.

    Raises:
        SettingsError: an unknown kind, or a strength outside 0 to 5.
        DataError: the kind is not defined for so many channels.
    """
    if kind not in KINDS:
        raise SettingsError(f"unknown corruption '{kind}'{nearest(kind, list(KINDS))}")
    if not 0 <= strength <= STRONGEST:
        raise SettingsError(f"strength = {strength!r}; expected a number from 0 to {STRONGEST}")
    if not defined(kind, image.shape[2]):
        raise DataError(f"corruption '{kind}' of an image with {image.shape[2]} channels; expected {CHANNELS[kind]}")
    if not strength:
        return image.copy()
    whole = np.issubdtype(image.dtype, np.integer)
    top = np.iinfo(image.dtype).max if whole else 1.0
    drawn = hashlib.sha256(f"{kind} {seed} {image.shape}".encode() + image.tobytes()).digest()
    changed = KINDS[kind](image / top, strength, np.random.default_rng(list(drawn))).clip(0, 1) * top
    return (np.rint(changed) if whole else changed).astype(image.dtype)


def defined(kind: str, channels: int) -> bool:
    """Whether a kind is defined for images with so many channels."""
    return channels in CHANNELS.get(kind, (channels,))


def _darker(x: Floats, strength: float, rng: np.random.Generator) -> Floats:
    """Down to 70 % of the light."""
    return x * (1 - 0.06 * strength)


def _brighter(x: Floats, strength: float, rng: np.random.Generator) -> Floats:
    """Up to 130 % of the light; what exceeds the range is clipped, as in an overexposed photograph."""
    return x * (1 + 0.06 * strength)


def _contrast(x: Floats, strength: float, rng: np.random.Generator) -> Floats:
    """Down to half the contrast about the mean."""
    return x.mean() + (x - x.mean()) * (1 - 0.1 * strength)


def _gamma(x: Floats, strength: float, rng: np.random.Generator) -> Floats:
    """An exponent up to 2 or down to 1/2."""
    return x ** (2 ** (0.2 * strength * rng.choice([-1, 1])))


def _colour_cast(x: Floats, strength: float, rng: np.random.Generator) -> Floats:
    """Channels up to 20 % stronger and weaker."""
    tint = rng.normal(size=3)
    tint -= tint.mean()
    return x * (1 + 0.04 * strength * tint / np.abs(tint).max())


def _blur(x: Floats, strength: float, rng: np.random.Generator) -> Floats:
    """A Gaussian with a standard deviation of up to 1 % of the shorter side."""
    width = 0.002 * strength * min(x.shape[:2])
    return gaussian_filter(x, (width, width, 0))


def _noise(x: Floats, strength: float, rng: np.random.Generator) -> Floats:
    """Gaussian noise of up to 20 grey values of 256 in every channel."""
    return x + 4 / 255 * strength * rng.standard_normal(x.shape)


def _jpeg(x: Floats, strength: float, rng: np.random.Generator) -> Floats:
    """Compressed at quality 90, 70, 50, 30, 10."""
    file = BytesIO()
    Image.fromarray(np.rint(255 * x).astype(np.uint8).squeeze()).save(file, "JPEG", quality=round(110 - 20 * strength))
    return np.asarray(Image.open(file)).reshape(x.shape) / 255


def _glare(x: Floats, strength: float, rng: np.random.Generator) -> Floats:
    """A soft white spot, up to 90 % opaque, somewhere in the image."""
    sides = x.shape[:2]
    middle, radius = rng.uniform(0.2, 0.8, 2) * sides, rng.uniform(0.08, 0.16) * min(sides)
    off = np.indices(sides) - middle[:, None, None]
    spot = np.exp(-(off**2).sum(axis=0) / (2 * radius**2))[..., None]
    return x + (1 - x) * 0.18 * strength * spot


def _shift(x: Floats, strength: float, rng: np.random.Generator) -> Floats:
    """Moved by up to 5 % of the shorter side."""
    angle = rng.uniform(0, 2 * np.pi)
    return _moved(x, np.eye(2), 0.01 * strength * min(x.shape[:2]) * np.array([np.sin(angle), np.cos(angle)]))


def _rotation(x: Floats, strength: float, rng: np.random.Generator) -> Floats:
    """Turned about the middle by up to 10°, either way."""
    angle = np.deg2rad(2 * strength) * rng.choice([-1, 1])
    return _moved(x, np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]))


def _scale(x: Floats, strength: float, rng: np.random.Generator) -> Floats:
    """Up to 15 % larger or smaller."""
    return _moved(x, np.eye(2) / 1.15 ** (strength / STRONGEST * rng.choice([-1, 1])))


def _moved(x: Floats, back: Floats, by: Floats | float = 0.0) -> Floats:
    """Each pixel from `back` @ (its location − middle) + middle − `by`; cubic splines, mirrored beyond the border."""
    middle = (np.array(x.shape[:2]) - 1) / 2
    offset = middle - back @ middle - by
    given: Any = offset  # one a dimension, which its types do not say
    planes = [affine_transform(x[..., c], back, given, order=3, mode="mirror") for c in range(x.shape[2])]
    return np.stack(planes, axis=2)


KINDS: dict[str, Corruption] = {
    "darker": _darker,
    "brighter": _brighter,
    "contrast": _contrast,
    "gamma": _gamma,
    "colour-cast": _colour_cast,
    "blur": _blur,
    "noise": _noise,
    "jpeg": _jpeg,
    "glare": _glare,
    "shift": _shift,
    "rotation": _rotation,
    "scale": _scale,
}
CHANNELS = {"colour-cast": (3,), "jpeg": (1, 3)}  # of kinds that are not defined for every number of channels
