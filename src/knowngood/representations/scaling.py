"""Which raw values become 0 and 1: chosen from the training images, with a rule in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from knowngood.data.imageset import ImageSet
from knowngood.data.pixel_source import ArrayPixels
from knowngood.errors import DataError, SettingsError

MIXED = "several types"
BIT_DEPTHS = (1, 4, 8, 10, 12, 14, 16)


class Range(NamedTuple):
    """`low` becomes 0 and `high` becomes 1. `rule` says why, for people."""

    low: float
    high: float
    dtype: str
    rule: str


def choose_range(images: ImageSet, scaling: Literal["auto", "dtype", "data"] | tuple[float, float]) -> Range:
    """The range for `images` (at least one) under a `scaling` setting.

    auto: integers get 0 to 2^bits − 1 with the smallest common bit depth (1, 4, 8, 10, 12, 14, 16) that holds the
    training maximum; 0 to the maximum if that is 16 to 31 (as in scikit-learn's digits) or above 16 bits; minimum to
    maximum if there are negative values. Floats within 0..1 keep that range, other floats get minimum to maximum.
    dtype: the integer type's whole range. data: minimum to maximum. Two numbers: those.

    Raises:
        DataError: mixed dtypes, or a value is NaN or infinite.
        SettingsError: `scaling="dtype"` for floats, or two numbers that do not ascend.
    """
    dtype = next(_blocks(images))[1].dtype
    if isinstance(scaling, tuple):
        low, high = scaling
        if not (np.isfinite([low, high]).all() and low < high):
            raise SettingsError(f"scaling = ({low:g}, {high:g}): expected two finite numbers, the lower first")
        return Range(low, high, dtype.name, f"as set: {_span(low, high)}")
    kinds = sorted({np.dtype(name) for _, name in images.kinds()} or {dtype}, key=lambda one: one.itemsize)
    if scaling == "dtype":
        if all(kind.kind == "u" for kind in kinds):
            dtype = kinds[-1]  # the widest: `Pixels` spreads the others over its range
        if dtype.kind == "f":
            raise SettingsError(
                f"scaling = 'dtype' needs integer images, these are {dtype.name}; use 'auto', 'data' or (low, high)"
            )
        info = np.iinfo(dtype)
        return Range(float(info.min), float(info.max), dtype.name, f"{dtype.name}: {_span(info.min, info.max)}")
    mixed = scaling == "data" and len(kinds) > 1
    dtype: np.dtype[Any] = np.dtype(np.float32) if mixed else dtype
    low, high = _extremes(images, dtype, stop_early=scaling == "auto", mixed=mixed)
    if scaling == "auto" and low >= 0 and dtype.kind == "f" and high <= 1:
        return Range(0.0, 1.0, dtype.name, f"{dtype.name} within 0..1")
    if scaling == "auto" and low >= 0 and dtype.kind != "f":
        top, words = _depth(int(high))
        full = top == np.iinfo(dtype).max
        return Range(0.0, float(top), dtype.name, f"{dtype.name}{'' if full else words}: {_span(0, top)}")
    if low == high:
        high = low + 1  # constant images: no division by zero
    words = MIXED if mixed else dtype.name
    return Range(low, high, dtype.name, f"{words}, range of the training images: {_span(low, high)}")


def _depth(top: int) -> tuple[int, str]:
    if 16 <= top < 32:
        return top, " holding few values"
    for bits in BIT_DEPTHS:
        if top < 2**bits:
            return 2**bits - 1, f" holding {bits} bit{'' if bits == 1 else 's'}"
    return top, " holding more than 16 bits"


def _span(low: float, high: float) -> str:
    return f"{low:.10g}..{high:.10g}"


def _blocks(images: ImageSet) -> Iterator[tuple[int, np.ndarray]]:
    """Position of the first image, and pixels of some images."""
    if isinstance(images.pixels, ArrayPixels):
        start = 0
        for block in images.pixels.chunks(256):
            yield start, block
            start += len(block)
    else:
        for i in range(len(images)):
            yield i, images.read(i)


def _extremes(images: ImageSet, dtype: np.dtype[Any], *, stop_early: bool, mixed: bool) -> tuple[float, float]:
    # Once an unsigned type needs all its bits, no later image can change the rule.
    enough = 2 ** (8 * dtype.itemsize - 2) if dtype.itemsize == 2 else 31
    stop_early = stop_early and dtype.kind == "u" and dtype.itemsize <= 2
    low, high = np.inf, -np.inf
    for start, block in _blocks(images):
        if block.dtype != dtype and not mixed:
            raise DataError(
                f"images of different types: '{images.ids[0]}' is {dtype.name}, '{images.ids[start]}' is "
                f"{block.dtype.name}. Convert them to one, or give the raw range as scaling=(low, high) and one type."
            )
        bottom, top = float(block.min()), float(block.max())
        if not (np.isfinite(bottom) and np.isfinite(top)):
            first = np.argwhere(~np.isfinite(block))[0, 0] if block.ndim == 4 else 0
            raise DataError(f"{images.ids[start + first]}: the image holds NaN or infinite values")
        low, high = min(low, bottom), max(high, top)
        if stop_early and high > enough:
            break
    return low, high
