"""Data of the inspection benchmark: normal training images, test images, and masks of their defects.

`form="test"` is what results are stated for: the official split. `form="dev"` is for choosing settings and uses no
real defect: a third of the training normals is held out, and anomalies are synthetic defects on copies of that third.

Sources:

- `bottle`: MVTec AD bottle, below `mvtec/bottle`. Official split.
- `tile`: magnetic tile, below `magnetic-tile`. MT_Free sorted by name: every fifth, from the first, is tested, the
  others train. All defects are tested. The four Uneven images whose masks are empty are tested as images only.
- `x-ray`: chest X-rays, below `chest-xray-224`. NORMAL of "train" trains, the split "test" is tested; no masks.
- `tray`, `tray-mixed`: generated, see `benchmarks.inspection_tray`; the dev form has its defects, with other seeds.
- `washer`, `bracket`, `gear`, `label`: generated parts of one product (`knowngood.data.datasets.parts`), that lie a
  little otherwise in each picture, under another light and camera: 240 train, 80 normal ones and 80 with local or
  logical defects are tested. Forms as of trays.
- `bottle+tile`: both together, with the condition "product".
- one of these with a view, `bottle@lying`: see `benchmarks.inspection_views`.
- anything else: a folder with splits "train" and "test", such as MVTec's layout, or of the magnetic tile's layout; by
  its path, or by its name below the data folder.

Images are brought to one size (antialiased bilinear) and, where they differ, to three channels. A mask counts a pixel
of the new size if at least half its area is marked; a mask that would vanish keeps its most marked pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.inspection_parts import InspectionSet, Mask
from benchmarks.inspection_tray import TRAYS, tray_set
from benchmarks.inspection_views import viewed
from benchmarks.picks import patient
from benchmarks.protocols import Form, check_form
from benchmarks.runner import open_whole
from benchmarks.synthetic_defects import defective
from knowngood.data import ImageSet
from knowngood.data.datasets.part_shapes import PRODUCTS
from knowngood.data.datasets.parts import open_parts
from knowngood.errors import DataError
from knowngood.representations.pixels import Pixels

FOLDERS = {"bottle": "mvtec/bottle", "tile": "magnetic-tile", "x-ray": "chest-xray-224"}
BOTH = "bottle+tile"
SIZES = {"x-ray": 224}
SIZE = 256
PARTS, TEST_SEED = 400, 10_000  # generated parts of a product; no seed of a dev form is so large
FEW = 200  # below so many held-out normals the dev form makes two defects on each


def inspection_set(source: str, *, form: Form = "test", seed: int = 0, size: int | None = None) -> InspectionSet | str:
    """The data of one source, or the reason why they are missing, beginning with "missing".

    Args:
        source: see the module.
        seed: of the dev form: which third is held out (of X-rays a third of the patients), and its defects.
        size: of an image's sides; default 256, for X-rays 224.

    Raises:
        SettingsError: an unknown form.
    """
    check_form(form)
    source, _, view = source.partition("@")
    size = size or SIZES.get(source, SIZE)
    try:
        if view:
            return viewed(_one(source, form, seed, size), view)
        if source == BOTH:
            return _joined([_one(name, form, seed, size) for name in BOTH.split("+")])
        return _one(source, form, seed, size)
    except DataError as error:
        return f"missing: {error}"


def _one(source: str, form: Form, seed: int, size: int) -> InspectionSet:
    if source in TRAYS:
        return tray_set(source, form, seed, size)
    if source in PRODUCTS:
        return _product_set(source, form, seed, size)
    images = open_whole(FOLDERS.get(source, source), download=False)
    train, test = _official(images)
    if form == "test":
        ready = _ready(train, size), _ready(test, size)
        return InspectionSet(source, form, seed, *ready, _masks(test, size), _classes(test))
    return _dev(source, _ready(train, size), _classes(train), seed, patient if source == "x-ray" else str)


def _product_set(product: str, form: Form, seed: int, size: int) -> InspectionSet:
    parts = open_parts(PARTS, size=size, seed=TEST_SEED if form == "test" else seed, products=product)
    classes = np.array([name.split("/")[1] for name in parts.ids])
    array = np.stack([parts.read(i) for i in range(len(parts))])
    whole = ImageSet.from_arrays(array, parts.labels, ids=parts.ids, name=product)
    judged = np.flatnonzero(parts.splits == "test").tolist()
    masks = tuple(parts.mask(i) if parts.labels[i] else np.zeros((size, size), dtype=bool) for i in judged)
    return InspectionSet(product, form, seed, whole[parts.splits == "train"], whole[judged], masks, classes[judged])


def _official(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Normal training images, and all test images."""
    classes = _classes(images)
    if images.splits is None and "MT_Free" in classes:
        free, defects = np.flatnonzero(classes == "MT_Free"), np.flatnonzero(classes != "MT_Free")
        free = free[np.argsort(images.ids[free], kind="stable")]
        judged = np.arange(len(free)) % 5 == 0
        train, test = images[free[~judged]], images[np.concatenate([free[judged], defects])]
    elif images.splits is not None and {"train", "test"} <= set(images.splits.tolist()):
        train, test = images.split("train"), images.split("test")
        train = train[train.labels == 0]
    else:
        raise DataError(f"{images.name} has no splits 'train' and 'test'; expected train/good and test/<defect>")
    if len(train) < 3 or set(test.labels.tolist()) != {0.0, 1.0}:
        judged = sorted(set(test.labels.tolist()))
        raise DataError(
            f"{images.name}: {len(train)} good images to train on, labels {judged} to judge; expected at least 3, "
            "and both 0 and 1"
        )
    return train, test


def _dev(name: str, train: ImageSet, classes: np.ndarray, seed: int, group: Callable[[str], str]) -> InspectionSet:
    """A third of the normal images is held out, in complete groups; the anomalies are defects on copies of them."""
    groups = np.array([group(str(image)) for image in train.ids])
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    reached = np.cumsum([np.sum(groups == one) for one in order])
    held_out = np.isin(groups, order[: int(np.searchsorted(reached, len(train) / 3)) + 1])
    good = train[held_out]
    bad, marked = defective(good, seed, copies=2 if len(good) < FEW else 1)
    empty = [np.zeros(mask.shape, dtype=bool) for mask in marked[:1]] * len(good)
    kinds = [f"synthetic {kind}" for kind in bad.conditions["kind"]]
    test = _stacked([good, bad.replace(conditions={})], good.name)
    return InspectionSet(
        name, "dev", seed, train[~held_out], test, (*empty, *marked), np.array([*classes[held_out], *kinds])
    )


def _joined(parts: Sequence[InspectionSet]) -> InspectionSet:
    """Several products in one set; ids begin with the product."""
    train = _stacked([_product(part.train, part.name) for part in parts], BOTH)
    test = _stacked([_product(part.test, part.name) for part in parts], BOTH)
    masks = tuple(mask for part in parts for mask in part.masks)
    classes = np.concatenate([part.classes for part in parts])
    return InspectionSet(BOTH, parts[0].form, parts[0].seed, train, test, masks, classes)


def _product(images: ImageSet, product: str) -> ImageSet:
    ids = np.array([f"{product}/{name}" for name in images.ids])
    return images.replace(ids=ids, conditions={"product": np.full(len(images), product)})


def _stacked(parts: Sequence[ImageSet], name: str) -> ImageSet:
    arrays = [part.pixels.array for part in parts]  # type: ignore[attr-defined]
    channels = max(array.shape[3] for array in arrays)
    array = np.concatenate([np.broadcast_to(each, (*each.shape[:3], channels)) for each in arrays])
    labels, ids = (np.concatenate([getattr(part, what) for part in parts]) for what in ("labels", "ids"))
    columns = {column: np.concatenate([part.conditions[column] for part in parts]) for column in parts[0].conditions}
    return ImageSet.from_arrays(array, labels, columns, ids, name)


def _ready(images: ImageSet, size: int) -> ImageSet:
    """(N, size, size, C) in memory, without conditions."""
    channels = sorted({int(count) for count in images.shapes()[:, 2]})
    if len(channels) > 1 and channels != [1, 3]:
        raise DataError(f"{images.name}: images with {channels} channels; expected one number, or 1 and 3")
    dtype = images.read(0).dtype.name
    square = (size, size)
    pixels = {
        count: Pixels(size=square, channels=count, resize=True, low=0, high=1, dtype=dtype, rule="as they are")
        for count in channels
    }

    def one(i: int) -> np.ndarray:
        image = images.read(i)
        return np.broadcast_to(pixels[image.shape[2]].prepare(image).transpose(1, 2, 0), (*square, channels[-1]))

    with ThreadPoolExecutor(2) as pool:
        array = np.stack(list(pool.map(one, range(len(images)))))
    return ImageSet.from_arrays(array, images.labels, ids=images.ids, name=images.name).replace(variant=images.variant)


def _masks(images: ImageSet, size: int) -> tuple[Mask | None, ...]:
    if images.masks is None:
        return (None,) * len(images)
    found: list[Mask | None] = []
    for i, label in enumerate(images.labels):
        mask = np.zeros((size, size), dtype=bool) if label == 0 else images.mask(i)
        found.append(None if mask is None or (label == 1 and not mask.any()) else resized_mask(mask, size))
    return tuple(found)


def resized_mask(mask: np.ndarray, size: int) -> Mask:
    """(H, W) bool → (size, size): pixels of which half the area or more is marked.

    If there are none, those of which most is marked, so that no mask becomes empty.
    """
    if mask.shape == (size, size):
        return mask
    share = _overlap(mask.shape[0], size) @ mask @ _overlap(mask.shape[1], size).T
    return (share >= min(0.5, share.max()) - 1e-9) & (share > 0)


def _overlap(old: int, new: int) -> np.ndarray:
    """(new, old): which part of each new pixel lies on each old one, along one axis."""
    edges, to = np.arange(new + 1) * old / new, np.arange(old + 1)
    inside = np.minimum(edges[1:, None], to[1:]) - np.maximum(edges[:-1, None], to[:-1])
    return inside.clip(0) * new / old


def _classes(images: ImageSet) -> np.ndarray:
    if "class" not in images.conditions:
        raise DataError(f"{images.name} has no classes, which tell good images from others; expected train/good")
    return np.array([str(value) for value in images.conditions["class"].tolist()])
