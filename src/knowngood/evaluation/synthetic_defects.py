"""Synthetic defects on normal images: to compare settings without seeing a real defect.

`synthesize` draws a defect of one of the kinds in `defect_kinds` until the change can be seen and its size is that of
a defect; the mask is where it can be seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from knowngood.config import nearest
from knowngood.data import ImageSet
from knowngood.errors import DataError, SettingsError
from knowngood.evaluation.defect_kinds import KINDS, LARGEST, SMALLEST, Floats, foreign
from knowngood.representations.pixels import Pixels

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


def defective(
    images: ImageSet,
    seed: int = 0,
    *,
    copies: int = 1,
    kinds: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[ImageSet, list[Mask]]:
    """Synthetic defects on `copies` copies of each image, in memory, and their masks.

    An image's defects follow from the seed, its id and the ids of the set, not from the order of the images. All kinds
    are drawn equally often, but for one (and for those that an image does not show, see `synthesize`). Textures of
    "foreign" come from another image of the set or are made.

    Args:
        images: normal images of one shape and type; with `size` of any size.
        kinds: names of `KINDS`; default all.
        size: (height, width) to which images are brought first: antialiased bilinear, floats become float32.

    Returns:
        N × copies images: those of image 0, then of image 1, …. Labels are 1; conditions are copied, but "class" is
        "synthetic" and "kind" names the kind; ids are "<id>+<number of the copy>"; masks (H, W), one an image.

    Raises:
        DataError: no images, different shapes or types without a way out, or see `synthesize`.
        SettingsError: an unknown kind, no kinds, or fewer than one copy.
    """
    chosen = [_known(kind) for kind in (KINDS if kinds is None else kinds)]
    if copies < 1 or not chosen:
        raise SettingsError(f"copies = {copies}, kinds = {chosen}; expected at least one of each")
    normal = _read(images, size)
    keys = [_key(seed, str(name)) for name in images.ids]
    order = sorted(range(len(images)), key=lambda i: keys[i])
    rank = np.empty(len(images), dtype=np.int64)
    rank[order] = np.arange(len(images))
    made = np.empty((len(images) * copies, *normal.shape[1:]), dtype=normal.dtype)
    masks: list[Mask] = []
    found: list[str] = []
    for i in range(len(images)):
        other = normal[order[(rank[i] + 1) % len(order)]]
        for copy in range(copies):
            rng = np.random.default_rng([keys[i], copy])
            kind = chosen[(int(rank[i]) * copies + copy) % len(chosen)]
            texture = other if len(images) > 1 and rng.random() < 0.5 else None
            made[len(masks)], mask, name = synthesize(normal[i], rng, kind, texture)
            masks.append(mask)
            found.append(name)
    repeated = {column: np.repeat(values, copies) for column, values in images.conditions.items()}
    conditions = {**repeated, "class": np.full(len(masks), "synthetic"), "kind": np.array(found)}
    ids = [f"{name}+{copy}" for name in images.ids for copy in range(copies)]
    return ImageSet.from_arrays(made, np.ones(len(masks)), conditions, ids, f"{images.name}, synthetic defects"), masks


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


def _key(seed: int, name: str) -> int:
    """A number that follows from the seed and a name alone."""
    text = f"{seed}\n{name}".encode("utf-8", "backslashreplace")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _read(images: ImageSet, size: tuple[int, int] | None) -> np.ndarray:
    """(N, H, W, C)."""
    if len(images) == 0:
        raise DataError(f"{images.name}: there are no images to draw defects on")
    found = [images.read(i) for i in range(len(images))]
    if size is not None:
        channels, dtype = found[0].shape[2], found[0].dtype.name
        to = Pixels(size=size, channels=channels, resize=True, low=0, high=1, dtype=dtype, rule="as they are")
        found = [to.prepare(image).transpose(1, 2, 0) for image in found]
    kinds = {(image.shape, image.dtype.name) for image in found}
    if len(kinds) > 1:
        way_out = "" if size else "; pass size=(height, width) to bring them to one size"
        raise DataError(f"{images.name}: images of {len(kinds)} shapes and types: {sorted(kinds)[:3]}{way_out}")
    return np.stack(found)
