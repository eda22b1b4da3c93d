"""Synthetic defects on sets of normal images: labelled anomalies with exact masks for benchmarks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from knowngood.data import ImageSet
from knowngood.errors import DataError, SettingsError
from knowngood.evaluation.defect_kinds import KINDS
from knowngood.evaluation.synthetic_defects import synthesize


def defective(
    images: ImageSet,
    seed: int = 0,
    *,
    copies: int = 1,
    kinds: Sequence[str] | None = None,
) -> tuple[ImageSet, list[np.ndarray]]:
    """Synthetic defects on `copies` copies of each image, in memory, and their masks.

    An image's defects follow from the seed, its id and the ids of the set, not from the order of the images. All kinds
    are drawn equally often, but for one (and for those that an image does not show, see `synthesize`). Textures of
    "foreign" come from another image of the set or are made.

    Args:
        images: normal images of one shape and type.
        kinds: names of `KINDS`; default all.

    Returns:
        N × copies images: those of image 0, then of image 1, …. Labels are 1; conditions are copied, but "class" is
        "synthetic" and "kind" names the kind; ids are "<id>+<number of the copy>"; masks (H, W), one an image.

    Raises:
        DataError: no images, or see `synthesize`.
        SettingsError: an unknown kind, no kinds, or fewer than one copy.
    """
    chosen = list(KINDS if kinds is None else kinds)
    if copies < 1 or not chosen:
        raise SettingsError(f"copies = {copies}, kinds = {chosen}; expected at least one of each")
    if not len(images):
        raise DataError(f"{images.name}: there are no images to draw defects on")
    normal = np.stack([images.read(i) for i in range(len(images))])
    keys = [_key(seed, str(name)) for name in images.ids]
    order = sorted(range(len(images)), key=lambda i: keys[i])
    rank = np.empty(len(images), dtype=np.int64)
    rank[order] = np.arange(len(images))
    made = np.empty((len(images) * copies, *normal.shape[1:]), dtype=normal.dtype)
    masks: list[np.ndarray] = []
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


def _key(seed: int, name: str) -> int:
    """A number that follows from the seed and a name alone."""
    text = f"{seed}\n{name}".encode("utf-8", "backslashreplace")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
