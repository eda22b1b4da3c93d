"""Data of `python -m benchmarks drift`: normal images with known factors, some of which are declared harmless.

A factor takes values of its range where images train, calibrate or are normal in every way. In "drifted" every factor
that is declared harmless lies outside its range, below or above at random. In "factor" and "defect" it does so too;
in "factor" the factor `moved` is outside its range as well, in "defect" the image has a local defect.

- factors: the generated factor set at 16 px, with the shape as condition. x is harmless, y is moved; a defect is one of
  `synthetic_defects`, as on MNIST.
- parts: generated parts by camera A, with the product as condition. The strength of the light is harmless, the
  rotation is moved, defects are the local ones of the set.
- mnist, fashion-mnist (the class is the condition), bottle, tile, x-ray: photographs, changed by brightness (a factor),
  contrast (a factor on the distances from the mean of the image) and rotation (degrees). But for x-ray, values v are
  first mapped to 40 + v / 2.2, so that nothing leaves the range. x-ray are the images of `benchmarks.light`, darkened
  for training as there. Defects on bottle and tile are those of the data set, on x-ray pneumonia.

test: MNIST, Fashion-MNIST, bottle and tile train on training images and are tested on the official test images.
dev: no image of theirs that the test form tests on; normal images of the training split are held out instead, and
defects on bottle and tile are synthetic. Generated images are drawn anew. For x-ray see `benchmarks.light`; pneumonia
of the training split at positions p % 5 = 4 is tested, in dev that with p % 5 < 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy import ndimage

from benchmarks import light
from benchmarks.generated_factors import factor_rows
from benchmarks.inspection_data import inspection_set
from benchmarks.protocols import Form
from benchmarks.runner import open_whole
from knowngood.data import ImageSet
from knowngood.data.datasets.factors import SHAPES, render
from knowngood.data.datasets.part_picture import LOCAL, picture
from knowngood.data.datasets.part_shapes import PRODUCTS
from knowngood.data.datasets.parts import RANGES, PartOptions
from knowngood.errors import DataError
from knowngood.evaluation.synthetic_defects import synthesize

Values = dict[str, np.ndarray]
Interval = tuple[float, float]
Drawn = tuple[np.ndarray, np.ndarray | None]  # pixels (n, S, S, C) uint8, conditions (n,)
Draw = Callable[[Values, int, np.random.Generator, str], Drawn]

PEDESTAL, GAIN = 40, 2.2
LUMINANCE = np.array([0.299, 0.587, 0.114])
PARTS = ("train", "calibrate", "normal", "drifted", "factor", "defect")


@dataclass(frozen=True)
class World:
    """Where images come from, and what moves.

    Attributes:
        harmless, moved: names of factors.
        inside: the range of each factor; none of one value. outside: below and above it, of those that leave it.
        small: pixels a side for models of pixels. photograph: features of photographs apply.
        conditional: its images have a known condition. whole: factors are whole numbers, upper ends included.
    """

    name: str
    harmless: tuple[str, ...]
    moved: str
    inside: dict[str, Interval]
    outside: dict[str, tuple[Interval, Interval]]
    small: int
    photograph: bool = False
    conditional: bool = False
    whole: bool = False


LIT = {"brightness": (0.8, 1.2), "contrast": (0.8, 1.2), "rotation": (-10.0, 10.0)}
UNLIT = {
    "brightness": ((0.5, 0.7), (1.3, 1.5)),
    "contrast": ((0.5, 0.7), (1.3, 1.5)),
    "rotation": ((-30.0, -15.0), (15.0, 30.0)),
}
DARK = {"brightness": (0.7, 1.0), "rotation": (-10.0, 10.0)}
WORLDS = {
    world.name: world
    for world in (
        World(
            "factors",
            ("x",),
            "y",
            {"scale": (0, 5), "rotation": (0, 9), "x": (8, 23), "y": (8, 23)},
            {"x": ((0, 4), (27, 31)), "y": ((0, 4), (27, 31))},
            16,
            conditional=True,
            whole=True,
        ),
        World(
            "parts",
            ("strength",),
            "rotation",
            RANGES,
            {"strength": ((0.5, 0.7), (1.3, 1.5)), "rotation": ((-30, -15), (15, 30))},
            32,
            photograph=True,
            conditional=True,
        ),
        World("mnist", ("brightness", "contrast"), "rotation", LIT, UNLIT, 28, conditional=True),
        World("fashion-mnist", ("rotation",), "brightness", LIT, UNLIT, 28, conditional=True),
        World("bottle", ("brightness",), "contrast", {**LIT, "rotation": (0, 0)}, UNLIT, 32, photograph=True),
        World("tile", ("brightness", "rotation"), "contrast", LIT, UNLIT, 32, photograph=True),
        World("x-ray", ("brightness",), "rotation", DARK, {**UNLIT, "brightness": ((0.45, 0.6), (1.1, 1.3))}, 28),
    )
}


def images_of(
    world: World, form: Form, seed: int, counts: dict[str, int], size: int, grey: bool
) -> dict[str, ImageSet]:
    """The image sets of `PARTS` by name, (n, size, size, C) uint8, with the factors and the condition as columns.

    Raises:
        DataError: the data set is not here.
    """
    rng = np.random.default_rng([seed, form == "test", sum(map(ord, world.name)), size])
    draw = _drawn(world, form, seed, size, grey)
    found = {}
    for part in PARTS:
        moved = (*world.harmless * (part in PARTS[3:]), *(world.moved,) * (part == "factor"))
        values = factor_values(world, counts[part], rng, moved)
        pixels, condition = draw(values, counts[part], rng, part)
        columns = values if condition is None else {**values, "condition": condition}
        found[part] = ImageSet.from_arrays(pixels, conditions=columns, name=f"{world.name}, {part}")
    return found


def factor_values(world: World, n: int, rng: np.random.Generator, outside: tuple[str, ...]) -> Values:
    """(n,) values of each factor that varies; those named lie outside their range."""
    found = {}
    for name, inside in world.inside.items():
        if inside[0] == inside[1]:
            continue
        low, high = np.array(inside)[:, None].repeat(n, 1)
        if name in outside:
            low, high = np.array(world.outside[name])[rng.integers(0, 2, n)].T
        found[name] = rng.integers(low, high + 1).astype(float) if world.whole else rng.uniform(low, high)
    return found


def changed(images: np.ndarray, values: Values) -> np.ndarray:
    """Images (n, S, S, C) uint8 turned (counter-clockwise, edges mirrored), with other contrast, then brightness."""
    found = images.astype(np.float64)
    if "rotation" in values:
        turned = [
            ndimage.rotate(image, angle, axes=(1, 0), reshape=False, order=1, mode="reflect")
            for image, angle in zip(found, values["rotation"], strict=True)
        ]
        found = np.stack(turned) if turned else found
    mean = found.mean(axis=(1, 2, 3), keepdims=True)
    contrast, brightness = (values.get(name, np.ones(len(found))) for name in ("contrast", "brightness"))
    found = (mean + (found - mean) * contrast[:, None, None, None]) * brightness[:, None, None, None]
    return np.rint(found).clip(0, 255).astype(np.uint8)


def _drawn(world: World, form: Form, seed: int, size: int, grey: bool) -> Draw:
    """What draws images of a world, from the values of their factors, their number, and the part they are for."""
    if world.name == "factors":
        return partial(_sprites, size)
    if world.name == "parts":
        return partial(_parts, PartOptions(1, max(size, 32), 2 * seed + (form == "test")), grey)
    return partial(_photographs, _bases(world.name, form, seed, size, grey))


def _sprites(size: int, values: Values, n: int, rng: np.random.Generator, part: str) -> Drawn:
    shape = rng.integers(0, len(SHAPES), n)
    codes = np.stack([shape, *(values[name].astype(np.int64) for name in ("scale", "rotation", "x", "y"))], axis=1)
    pixels = render(factor_rows(codes), size)
    return _damaged(pixels, rng) if part == "defect" else pixels, np.array(SHAPES)[shape]


def _parts(options: PartOptions, grey: bool, values: Values, n: int, rng: np.random.Generator, part: str) -> Drawn:
    product = np.array(list(PRODUCTS))[rng.integers(0, len(PRODUCTS), n)]
    pictures = []
    for i in range(n):
        scene = replace(options.item(0).scene, index=int(rng.integers(2**31)), product=str(product[i]), camera="A")
        scene = replace(scene, **{name: float(column[i]) for name, column in values.items()})
        scene = replace(scene, defect=str(rng.choice(LOCAL))) if part == "defect" else scene
        pictures.append(picture(scene, options.size)[0])
    return _grey(np.stack(pictures), grey), product


def _photographs(bases: dict[str, Drawn], values: Values, n: int, rng: np.random.Generator, part: str) -> Drawn:
    own = part if part in bases else "normal"
    pixels, condition = bases[own]
    rounds = [rng.permutation(len(pixels)) for _ in range(-(-n // len(pixels)))]
    chosen = np.concatenate(rounds)[:n]
    found = changed(pixels[chosen], values)
    found = _damaged(found, rng) if part == "defect" and own == "normal" else found
    return found, None if condition is None else condition[chosen]


def _bases(name: str, form: Form, seed: int, size: int, grey: bool) -> dict[str, Drawn]:
    """Unchanged images that train, calibrate, are normal, and, where there are real ones, have a defect."""
    if name == "x-ray":
        parts = light.parts_of(open_whole("pneumoniamnist"), form)
        fold = np.arange(len(parts.anomalies)) % 5
        ill = parts.anomalies[fold == 4] if form == "test" else parts.anomalies
        named = {"train": parts.train, "calibrate": parts.calibrate, "normal": parts.judged, "defect": ill}
        return {part: (pixels[..., None], None) for part, pixels in named.items()}
    if name in ("bottle", "tile"):
        data = inspection_set(name, form=form, seed=seed, size=size)
        if isinstance(data, str):
            raise DataError(data)
        train, test = (_grey(_stacked(images), grey) for images in (data.train, data.test))
        third = np.random.default_rng(seed).permutation(len(train)) % 10 < 3
        split = {"train": train[~third], "calibrate": train[third]}
        split |= {"normal": test[data.labels == 0], "defect": test[data.labels == 1]}
        return {part: (_raised(pixels), None) for part, pixels in split.items()}
    images = open_whole(name)
    assert images.splits is not None
    train, test = images.split("train"), images.split("test")
    fold = np.arange(len(train)) % 5
    parts = {"train": train[fold < 3], "calibrate": train[fold == 3], "normal": test}
    if form == "dev":
        parts["normal"] = train[fold == 4]
    few = {part: some[np.random.default_rng(seed).permutation(len(some))[:3000]] for part, some in parts.items()}
    return {part: (_raised(_stacked(some)), some.conditions["class"].astype(str)) for part, some in few.items()}


def _stacked(images: ImageSet) -> np.ndarray:
    return np.stack([images.read(i) for i in range(len(images))])


def _raised(pixels: np.ndarray) -> np.ndarray:
    return np.rint(PEDESTAL + pixels / GAIN).astype(np.uint8)


def _grey(pixels: np.ndarray, grey: bool) -> np.ndarray:
    return np.rint(pixels @ LUMINANCE).astype(np.uint8)[..., None] if grey and pixels.shape[3] == 3 else pixels


def _damaged(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.stack([synthesize(image, rng)[0] for image in pixels])
