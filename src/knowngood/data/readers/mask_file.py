"""Anomaly masks as they are saved: which pixels count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from knowngood.config.words import in_pixels
from knowngood.data.findings import Unreadable
from knowngood.data.readers.files import read_with_header
from knowngood.data.readers.limits import Limits
from knowngood.data.readers.raster import open_bounded

FEW = 3  # levels; more are shades
CLASSES = 50  # numbers of classes are smaller
COLOURS = 32  # of a picture painted in colours; more are shades
FULL = (1, 255, 65535)  # largest values of a mask
UNCLEAR = 0.5  # share of the pixels that are not background that may lie in the middle of the range

Mask = NDArray[np.bool_]


def read_mask(path: Path, limits: Limits | None = None) -> Mask:
    """(H, W) bool, the pixels that an image file marks.

    A picture of one colour with transparency is marked where it is opaque. Otherwise all marks that is not 0 (black),
    where there are few levels: 0/1, 0/255, numbers of classes, colours. Of more shades, as of soft edges or JPEG, those
    mark that reach half of the largest; of several channels the largest decides.

    Raises:
        Unreadable: the file cannot be read, or does not say what is marked: shades without two clear ends, or nothing
            is 0.
    """
    header, image = read_with_header(path, limits)
    values = image.max(axis=-1)
    if any("alpha" in note for note in header.notes):
        alpha = _alpha(path)
        if alpha.shape == values.shape:  # not so where an orientation tag turns the picture; then colour decides
            values = alpha if values.min() == values.max() else np.where(alpha > 0, values, 0)
    if not np.isfinite(values).all() or values.min(initial=0) < 0:
        raise _unclear(path, "holds negative values, NaN or infinity")
    largest, levels = values.max(initial=0), np.unique(values)
    if levels[0] > 0 and not (len(levels) == 1 and largest in FULL):
        shown = ", ".join(f"{level:g}" for level in levels[:6])
        raise _unclear(path, f"has no pixel of value 0, its values are {shown}{', …' if len(levels) > 6 else ''}")
    if len(levels) <= FEW or (largest < CLASSES and image.dtype.kind != "f") or _painted(image):
        return values > 0
    marked = values >= largest / 2
    middle = (values > 0.25 * largest) & (values < 0.75 * largest)
    if middle.sum() > UNCLEAR * (marked | middle).sum():
        raise _unclear(path, f"has {len(levels)} shades up to {largest:g}, most of them neither dark nor bright")
    return marked


def looks_like_mask(path: Path, limits: Limits | None = None) -> bool:
    """Whether an image file has black and at most two other levels, as masks have and photographs do not."""
    try:
        levels = np.unique(read_with_header(path, limits)[1])
    except Unreadable:
        return False
    return len(levels) <= FEW and bool(levels[0] == 0)


def read_masks(paths: tuple[Path, ...], limits: Limits | None = None) -> Mask:
    """(H, W) what any of the masks of an image marks. Raises Unreadable as `read_mask`, and if their sizes differ."""
    return joined_masks(paths, [read_mask(path, limits) for path in paths])


def joined_masks(paths: Sequence[Path], masks: Sequence[Mask]) -> Mask:
    """(H, W) what any of the masks marks. Raises Unreadable: their sizes differ."""
    for path, mask in zip(paths, masks, strict=True):
        if mask.shape != masks[0].shape:
            first = f"{paths[0].name} of the same image is {in_pixels(masks[0].shape)}"
            reason = f"is {in_pixels(mask.shape)} px, {first}"
            raise Unreadable(path, "mask-unclear", reason)
    return np.logical_or.reduce(masks)


def _painted(image: np.ndarray) -> bool:
    """Whether a picture (H, W, C) consists of a few colours that are not grey."""
    if image.shape[2] == 1 or (image == image[..., :1]).all():
        return False
    return len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) <= COLOURS


def _alpha(path: Path) -> np.ndarray:
    with path.open("rb") as file, open_bounded(file) as image:
        return np.array(image.convert("RGBA").getchannel("A"))


def _unclear(path: Path, what: str) -> Unreadable:
    return Unreadable(path, "mask-unclear", f"{what}, so it does not say what is marked; save it with 0 and 255")
