"""Views of an inspection set: the same parts cut slim, turned, off centre, framed, lying anywhere, or brighter.

A view is named behind the set, `bottle@lying`. The ground that a turned or moved picture lies on has the median colour
of the pictures' borders, of the magnetic tiles, which fill their pictures, a dark grey; with noise of σ 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from benchmarks.inspection_parts import InspectionSet
from knowngood.config import nearest
from knowngood.data import ImageSet
from knowngood.errors import SettingsError

VIEWS = ("slim", "turned", "off-centre", "framed", "lying", "brighter")
LARGER = {"turned": 1.42, "off-centre": 1.6, "lying": 1.8}  # sides of the ground over that of the picture
FRAME, FRAME_VALUE = 0.125, 20  # width, a share of the side; and grey value
DARK = 30.0  # of the ground of pictures that their part fills
NOISE = 3.0
BRIGHTER = 1.3  # times as bright
KEPT = 0.4  # of a defect that a slim cut must show
LEAST_PIXELS = 10
SEED = 99

Pair = tuple[np.ndarray, np.ndarray]
View = Callable[[np.ndarray, np.ndarray], Pair]


def viewed(parts: InspectionSet, view: str) -> InspectionSet:
    """The set in a view of `VIEWS`. Masks move with the images; a defect that a slim cut does not show is left out.

    Raises:
        SettingsError: an unknown view.
    """
    if view not in VIEWS:
        raise SettingsError(f"unknown view '{view}'{nearest(view, list(VIEWS))}")
    rng = np.random.default_rng([parts.seed, SEED])
    borders = [_border(parts.train.read(i)) for i in range(len(parts.train))]
    ground = np.full(borders[0].shape, DARK) if parts.name == "tile" else np.median(borders, axis=0)
    change = _change(view, ground, rng)

    def pair(images: ImageSet, i: int, mask: np.ndarray | None) -> Pair:
        image = images.read(i)
        return change(image, np.zeros(image.shape[:2], bool) if mask is None else mask)

    train = [pair(parts.train, i, None)[0] for i in range(len(parts.train))]
    made = [pair(parts.test, i, parts.masks[i]) for i in range(len(parts.test))]
    shown = [_shown(parts.masks[i], mask) for i, (_, mask) in enumerate(made)]
    kept = np.flatnonzero(shown)
    return replace(
        parts,
        name=f"{parts.name}@{view}",
        train=_like(parts.train, np.stack(train)),
        test=_like(parts.test[kept], np.stack([made[i][0] for i in kept])),
        masks=tuple(None if parts.masks[i] is None else made[i][1] for i in kept),
        classes=parts.classes[kept],
    )


def _change(view: str, ground: np.ndarray, rng: np.random.Generator) -> View:
    if view == "slim":
        return _slim
    if view == "framed":
        return _framed
    if view == "brighter":
        return _brighter

    def moved(image: np.ndarray, mask: np.ndarray) -> Pair:
        angle = 0.0 if view == "off-centre" else float(rng.uniform(0, 360))
        off = np.zeros(2) if view == "turned" else rng.uniform(-1, 1, 2)
        return placed(image, mask, angle, off, LARGER[view], ground, rng)

    return moved


def placed(
    image: np.ndarray,
    mask: np.ndarray,
    angle: float,
    off: np.ndarray,
    larger: float,
    ground: np.ndarray,
    rng: np.random.Generator,
) -> Pair:
    """A picture (H, W, C) uint8 and its mask, turned by degrees on a larger square ground.

    off: (down, right) from the middle of the ground, −1 to 1 of what is free there.
    """
    height, width = image.shape[:2]
    side = round(larger * max(height, width))
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    needed = np.array([abs(height * cos) + abs(width * sin), abs(width * cos) + abs(height * sin)])
    down, right = side / 2 + off * ((side - needed) / 2).clip(0)
    back = (cos, sin, width / 2 - cos * right - sin * down, -sin, cos, height / 2 + sin * right - cos * down)

    def turned(plane: np.ndarray, filter: Image.Resampling) -> np.ndarray:
        return np.asarray(Image.fromarray(plane).transform((side, side), Image.Transform.AFFINE, back, filter))

    covers = turned(np.full((height, width), 255, np.uint8), Image.Resampling.BILINEAR)[..., None] / 255
    picture = np.stack([turned(plane, Image.Resampling.BICUBIC) for plane in image.transpose(2, 0, 1)], axis=2)
    noisy = ground + rng.normal(0, NOISE, (side, side, 1))
    whole = (picture * covers + noisy * (1 - covers)).round().clip(0, 255).astype(image.dtype)
    return whole, turned(mask.astype(np.uint8) * 255, Image.Resampling.BILINEAR) > 127


def _slim(image: np.ndarray, mask: np.ndarray) -> Pair:
    """The middle third."""
    third = image.shape[1] // 3
    return image[:, third : 2 * third + 1], mask[:, third : 2 * third + 1]


def _brighter(image: np.ndarray, mask: np.ndarray) -> Pair:
    limit = np.iinfo(image.dtype).max
    return (image * BRIGHTER).round().clip(0, limit).astype(image.dtype), mask


def _framed(image: np.ndarray, mask: np.ndarray) -> Pair:
    wide = round(FRAME * min(image.shape[:2]))
    edges = ((wide, wide), (wide, wide))
    return np.pad(image, (*edges, (0, 0)), constant_values=FRAME_VALUE), np.pad(mask, edges)


def _shown(before: np.ndarray | None, after: np.ndarray) -> bool:
    return before is None or not before.any() or after.sum() >= max(LEAST_PIXELS, KEPT * before.sum())


def _border(image: np.ndarray) -> np.ndarray:
    """(C,) median of the outermost four pixels."""
    inner = np.ones(image.shape[:2], bool)
    inner[4:-4, 4:-4] = False
    return np.median(image[inner], axis=0)


def _like(images: ImageSet, array: np.ndarray) -> ImageSet:
    made = ImageSet.from_arrays(array, images.labels, images.conditions, images.ids, images.name)
    return made.replace(variant=images.variant)
