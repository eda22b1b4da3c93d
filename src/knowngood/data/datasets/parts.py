"""Generated parts: pictures of four products with pose, light, camera and defects, each known as a column.

Nothing is stored. Image i of a seed depends on the seed, i and the products and defects asked for, and on no other
image; `number` and `size` change none of its columns. Of every five images three train, one is a normal test image and
one a test image with a defect. The page docs/guide/generated-parts.md shows them.

Made data serve tests and tutorials. A result on them says nothing about real parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knowngood.config import nearest
from knowngood.data.datasets.part_picture import CAMERAS, GOOD, LOCAL, LOGICAL, Scene, picture
from knowngood.data.datasets.part_shapes import PRODUCTS
from knowngood.data.imageset import ImageSet
from knowngood.data.pixel_source import BlockPixels
from knowngood.data.progress import track
from knowngood.errors import SettingsError

CONTEXTUAL = ("wrong_product", "wrong_pose", "wrong_camera")
FAMILIES = {"local": LOCAL, "logical": LOGICAL, "contextual": CONTEXTUAL}
RANGES = {
    "x": (-0.05, 0.05),
    "y": (-0.05, 0.05),
    "rotation": (-10.0, 10.0),
    "light": (105.0, 165.0),
    "strength": (0.85, 1.15),
    "texture": (0.2, 1.0),
    "variation": (0.0, 1.0),
}
POSE = ("x", "y", "rotation")
COUNTED = 2**32 - 1
PERIOD = ("train", "train", "train", "test", "test")


@dataclass(frozen=True)
class PartOptions:
    """Which parts are made. Products and defects are also written with a plus: "washer+gear".

    Attributes:
        number: of images. size: pixels a side, 32 to 1024. seed: of all that is random.
        products: names of `PRODUCTS`. defects: names of kinds or of `FAMILIES`.

    Raises:
        SettingsError: a number out of range, an unknown product or defect, none, or one twice.
    """

    number: int = 400
    size: int = 128
    seed: int = 0
    products: tuple[str, ...] = tuple(PRODUCTS)
    defects: tuple[str, ...] = ("local", "logical")

    def __post_init__(self) -> None:
        for name, low, high in (("number", 1, COUNTED), ("size", 32, 1024), ("seed", 0, COUNTED)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or not low <= value <= high:
                raise SettingsError(f"parts: {name} = {value!r}; expected a whole number, {low} to {high:,}")
        kinds = [kind for family in FAMILIES.values() for kind in family]
        for what, known in (("products", list(PRODUCTS)), ("defects", [*FAMILIES, *kinds])):
            value = getattr(self, what)
            names = tuple(value.split("+") if isinstance(value, str) else value)
            for name in names:
                if name not in known:
                    raise SettingsError(f"parts: {what} has no '{name}'{nearest(name, known)}")
            if not names or len(set(names)) < len(names):
                raise SettingsError(f"parts: {what} = {'+'.join(names)!r}; expected each once, of {', '.join(known)}")
            object.__setattr__(self, what, names)
        if not self.kinds:
            raise SettingsError("parts: the defect wrong_product needs two products or more, such as washer+gear")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of defects, each once."""
        named = dict.fromkeys(kind for name in self.defects for kind in FAMILIES.get(name, (name,)))
        return tuple(kind for kind in named if kind != "wrong_product" or len(self.products) > 1)

    def item(self, index: int) -> Part:
        """Image `index`: its scene, and what its columns say."""
        rng = np.random.default_rng([self.seed, index])
        product, camera, kind, other = rng.random(4)
        values = {name: float(rng.uniform(*limits)) for name, limits in RANGES.items()}
        columns: dict[str, Any] = {"product": _pick(self.products, product), "camera": _pick(CAMERAS, camera), **values}
        defect = _pick(self.kinds, kind) if index % len(PERIOD) == 4 else GOOD
        scene = Scene(self.seed, index, **columns, defect=defect)
        return Part(scene, _said(columns, defect, other, self.products))


@dataclass(frozen=True)
class Part:
    """A scene and the columns that are given for it, which differ if its defect is contextual."""

    scene: Scene
    columns: Mapping[str, Any]


class PartPixels(BlockPixels):
    """Pictures of parts, drawn when read: (size, size, 3) uint8. `rows` are numbers of images."""

    def __init__(self, options: PartOptions) -> None:
        super().__init__(np.arange(options.number), (options.size, options.size, 3))
        self.options = options

    def block(self, rows: np.ndarray) -> np.ndarray:
        drawn = [picture(self.options.item(int(row)).scene, self.options.size)[0] for row in rows]
        return np.stack(drawn) if drawn else np.empty((0, *self.shape), dtype=self.dtype)


@dataclass(frozen=True)
class PartMask:
    """The mask of an image, drawn when called: where the defect changes the picture."""

    options: PartOptions
    index: int

    def __call__(self) -> NDArray[np.bool_]:
        return picture(self.options.item(self.index).scene, self.options.size)[1]


def open_parts(
    number: int = 400,
    *,
    size: int = 128,
    seed: int = 0,
    products: str | Sequence[str] = tuple(PRODUCTS),
    defects: str | Sequence[str] = ("local", "logical"),
) -> ImageSet:
    """The generated parts. Pictures and masks are drawn when read.

    Condition columns: "product", "camera" and the numbers of `RANGES`, which are uniform and independent: x and y of
    the centre in widths of the picture, rotation in degrees clockwise, light (the direction it comes from) in degrees
    counter-clockwise from the right, strength of the light, texture and variation from 0 to 1. Labels: 0, and 1 with a
    defect. A contextual defect changes the columns, not the picture, and has no mask. Ids are
    "<split>/<good or kind>/<number>.png".

    Args:
        number: of images. size: pixels a side, 32 to 1024. seed: of all that is random.
        products: some of washer, bracket, gear, label: "washer+gear", or a list.
        defects: kinds, or families of them: local, logical, contextual.

    Raises:
        SettingsError: an unknown product or defect, or a number out of range.
    """
    chosen = PartOptions(number, size, seed, products, defects)  # type: ignore[arg-type]
    items = [chosen.item(i) for i in track(range(chosen.number), "drawing images", chosen.number)]
    kinds = np.array([item.scene.defect for item in items])
    splits = np.resize(np.array(PERIOD), len(items))
    masked = np.isin(kinds, (*LOCAL, *LOGICAL))
    return ImageSet(
        pixels=PartPixels(chosen),
        ids=np.array([f"{split}/{kind}/{i:06d}.png" for i, split, kind in zip(count(), splits, kinds, strict=False)]),
        labels=(kinds != GOOD).astype(np.float64),
        conditions={name: np.array([item.columns[name] for item in items]) for name in items[0].columns},
        splits=splits,
        masks=tuple(PartMask(chosen, i) if has else None for i, has in enumerate(masked)) if masked.any() else None,
        name="generated-parts",
    )


def _pick(values: Any, share: float) -> str:
    return list(values)[int(share * len(values))]


def _said(columns: dict[str, Any], defect: str, share: float, products: Sequence[str]) -> dict[str, Any]:
    """The columns as given. A wrong one is distributed as a right one: another value, or half a range further on."""
    said = dict(columns)
    for name, values in (("product", products), ("camera", CAMERAS)):
        if defect == f"wrong_{name}":
            said[name] = _pick([value for value in values if value != columns[name]], share)
    if defect == "wrong_pose":
        for name in POSE:
            low, high = RANGES[name]
            said[name] = low + (columns[name] - low + (high - low) / 2) % (high - low)
    return said
