"""Images and anomaly maps as pixels of pictures, by NumPy and Pillow alone: a server draws them without a plot.

Images are (H, W) or (H, W, C) of any dtype, C ≥ 1. One or three channels are shown as they are, of four the first
three, otherwise the mean over the channels.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from knowngood.calibration.map_scale import MapScale
from knowngood.errors import DataError

THIN = 512  # pixels of the longer side of an image that is drawn
LEVELS = 64  # colours of a map
# Anomaly maps over images, from their threshold on: orange to dark red, through which the image is seen; below nothing.
HEAT = np.array([[240, 160, 48, 96], [240, 160, 48, 120], [213, 94, 0, 136], [122, 0, 25, 150]]) / 255


def heat(share: np.ndarray) -> np.ndarray:
    """(H, W, 4) colours in 0…1 of a map as `MapScale.share` gives it (H, W): transparent where it is 0."""
    stops = np.linspace(0, 1, len(HEAT))
    colours = np.stack([np.interp(share, stops, channel) for channel in HEAT.T], axis=-1)
    colours[share <= 0, 3] = 0
    return colours


def value_range(images: Iterable[np.ndarray]) -> tuple[float, float]:
    """Values shown as black and white: 0 and 1 if all lie there, else 0 (or the minimum, if below) and the maximum."""
    low, high = 0.0, 0.0
    for image in images:
        values = np.asarray(image, float)
        values = values[np.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if low >= -0.01 and high <= 1.01:
        return 0.0, 1.0
    return low, high if high > low else low + 1.0


def channels_of(image: np.ndarray) -> np.ndarray:
    """(H, W, C) float64. Raises DataError: it is no image."""
    values = np.asarray(image, float)
    if values.ndim not in (2, 3):
        raise DataError(f"an image has shape (H, W) or (H, W, C), not {values.shape}")
    return values[..., None] if values.ndim == 2 else values


def as_rgb(image: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """An image as (H, W, 3) in 0..1, its values between `limits`."""
    values = np.clip((np.nan_to_num(channels_of(image)) - limits[0]) / (limits[1] - limits[0]), 0, 1)
    channels = values.shape[-1]
    if channels in (3, 4):
        return values[..., :3]
    return np.repeat(values.mean(-1, keepdims=True), 3, axis=-1)


def displayed(image: np.ndarray) -> np.ndarray:
    """An image (H, W, C) of any type as (H, W, 3) in 0…1, integers over their range."""
    if image.dtype == np.uint8:
        return as_rgb(image, (0.0, 255.0))
    values = image[np.isfinite(image)] if image.dtype.kind == "f" else image
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if image.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return as_rgb(image, (low, high if high > low else low + 1))


def thinned(image: np.ndarray) -> np.ndarray:
    """Every n-th row and column of an image (H, W, C), so that the longer side has less than 1,024 pixels."""
    step = max(1, max(image.shape[:2]) // THIN)
    return image[::step, ::step]


def as_picture(image: np.ndarray) -> Image.Image:
    """An image (h, w, C) of any type as RGBA."""
    return Image.fromarray(np.round(255 * displayed(thinned(image))).astype(np.uint8)).convert("RGBA")


def map_png(values: np.ndarray, scale: MapScale) -> bytes:
    """A map (a, b) as a PNG with transparency: transparent up to where its colour begins, and where it is NaN."""
    level = np.ceil(scale.share(values) * (LEVELS - 1)).astype(np.uint8)
    colours = np.round(255 * heat(np.linspace(0, 1, LEVELS))).astype(np.uint8)
    picture = Image.frombytes("P", level.shape[::-1], level.tobytes())
    picture.putpalette(colours[:, :3].reshape(-1).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, transparency=colours[:, 3].tobytes())
    return buffer.getvalue()


def reduced(images: np.ndarray, most: int) -> np.ndarray:
    """(..., H, W, C) with at most `most` pixels on the longer side, by means over areas; the same type.

    Of 8 bits the means are rounded along each axis: at most one level off.
    """
    height, width, channels = images.shape[-3:]
    if max(height, width) <= most:
        return images
    size = [max(1, round(side * most / max(height, width))) for side in (width, height)]
    planes = np.moveaxis(images, -1, -3).reshape(-1, height, width)
    planes = planes if images.dtype == np.uint8 else planes.astype(np.float32)
    small = np.stack([np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX)) for plane in planes])
    small = np.moveaxis(small.reshape(*images.shape[:-3], channels, *size[::-1]), -3, -1)
    return (small.round() if images.dtype.kind in "iu" else small).astype(images.dtype)


def reduced_map(values: np.ndarray, most: int) -> np.ndarray:
    """A map (H, W) with at most `most` pixels on the longer side, by the largest value of each area."""
    share = most / max(values.shape)
    return values if share >= 1 else map_of_size(values, [max(1, round(side * share)) for side in values.shape])


def map_of_size(values: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The same with exactly this height and width, neither larger than those of the map."""
    small = np.nan_to_num(values.astype(np.float32), nan=-np.inf)
    for axis, side in enumerate(size):
        n, at = small.shape[axis], np.arange(side)
        bounds = np.stack([at * n // side, -(-(at + 1) * n // side)], 1).reshape(-1)
        longer = np.concatenate([small, np.take(small, [-1], axis)], axis)  # so that the last end is a position
        small = np.maximum.reduceat(longer, bounds, axis).take(2 * at, axis)
    return np.where(np.isneginf(small), np.nan, small)
