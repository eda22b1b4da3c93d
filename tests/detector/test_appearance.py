"""What is said of a region from its pixels: of drawn defects that are known, and of generated parts."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from knowngood.data import ImageSet
from knowngood.data.datasets.parts import open_parts
from knowngood.detector.explain.appearance import Appearance, Difference, differences, quantities

SIDE = 64


def normals(n: int = 40) -> np.ndarray:
    """(n, 3, 64, 64) grey plates under noise, with a dark hole in the middle."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    plate = np.where((y - 32) ** 2 + (x - 32) ** 2 < 64, 0.1, 0.6)
    return (plate * rng.normal(1, 0.02, (n, 1, 1, 1)) + rng.normal(0, 0.01, (n, 3, SIDE, SIDE))).clip(0, 1)


@cache
def normal() -> Appearance:
    values = np.stack([quantities(one) for one in normals()])
    return Appearance(values.mean(0), values.std(0))


def found(image: np.ndarray, top: int, left: int, side: int) -> dict[str, Difference]:
    region = np.zeros((SIDE, SIDE), bool)
    region[top : top + side, left : left + side] = True
    return {one.kind: one for one in differences(image, region, normal())}


def test_a_darker_spot_is_darker_by_as_much() -> None:
    image = normals(1)[0]
    image[:, 8:16, 8:16] *= 0.5
    said = found(image, 8, 8, 8)
    assert said["darker"].change == pytest.approx(-0.5, abs=0.02)
    assert said["darker"].share == 1
    assert said["darker"].deviation < -4
    assert not {"brighter", "colour"} & said.keys()


def test_a_filled_hole_is_brighter_and_its_edge_is_missing() -> None:
    image = np.full((3, SIDE, SIDE), 0.6)
    said = found(image, 20, 20, 24)
    assert said["brighter"].change == pytest.approx(5, abs=0.3)  # .6 over .1
    assert said["less contrast"].change == pytest.approx(-1, abs=0.1)


def test_a_line_on_a_smooth_plate_is_an_edge() -> None:
    image = normals(1)[0]
    image[:, 10, 4:20] = 0.9
    said = found(image, 4, 4, 16)
    assert said["more contrast"].change > 2
    assert said["brighter"].share == pytest.approx(1 / 16)


@pytest.mark.parametrize(
    ("tint", "hue"),
    [
        *(((1.3, 0.9, 0.9), "redder"), ((0.8, 1.2, 0.8), "greener")),
        *(((0.9, 0.9, 1.4), "bluer"), ((1.1, 1.1, 0.5), "yellower")),
    ],
)
def test_another_colour_has_its_name(tint: tuple[float, ...], hue: str) -> None:
    image = normals(1)[0]
    image[:, 8:20, 8:20] *= np.reshape(tint, (3, 1, 1))
    assert found(image, 8, 8, 12)["colour"].hue == hue


def test_a_surface_of_the_same_colour_in_the_shade_has_no_other_colour() -> None:
    lit = np.ones((3, SIDE, SIDE)) * np.reshape((0.7, 0.4, 0.35), (3, 1, 1))
    shaded = differences(lit * 0.5, np.ones((SIDE, SIDE), bool), Appearance(quantities(lit), normal().spread))
    assert [one.kind for one in shaded] == ["darker"]


def test_of_one_channel_no_colour_is_said() -> None:
    grey = normals()[:, :1]
    values = np.stack([quantities(one) for one in grey])
    assert values.shape[1] == 2
    region = np.ones((SIDE, SIDE), bool)
    assert differences(grey[0], region, Appearance(values.mean(0), values.std(0))) == ()
    assert differences(grey[0], ~region, Appearance(values.mean(0), values.std(0))) == ()


@pytest.fixture(scope="module")
def washers() -> tuple[ImageSet, Appearance]:
    """Washers of generated parts seen by camera A, and how the normal ones look in one pose."""
    images = open_parts(600, size=SIDE, products=["washer"], defects="missing_hole+scratch+crack")
    images = images[images.conditions["camera"] == "A"]
    train = np.flatnonzero(images.splits == "train")
    values = np.stack([quantities(posed(images, i)) for i in train])
    return images, Appearance(values.mean(0), values.std(0))


def posed(images: ImageSet, i: int, mask: bool = False) -> np.ndarray:
    """An image (C, H, W) in 0…1, or its mask, in the pose of all, by what is known of its own."""
    array = images.mask(i)[..., None] if mask else images.read(i) / 255.0
    x, y, angle = (float(images.conditions[name][i]) for name in ("x", "y", "rotation"))
    moved = ndimage.shift(array, (-y * SIDE, -x * SIDE, 0), order=0 if mask else 1, mode="nearest")
    turned = ndimage.rotate(moved, angle, reshape=False, order=0 if mask else 1, mode="nearest")
    return np.moveaxis(turned, -1, 0)


def of_kind(washers: tuple[ImageSet, Appearance], kind: str) -> list[set[str]]:
    """The kinds of differences of each part with this defect, in its mask."""
    images, normal = washers
    some = [i for i, name in enumerate(images.ids) if f"/{kind}/" in name]
    regions = [ndimage.binary_dilation(posed(images, i, mask=True)[0], iterations=2) for i in some]
    return [
        {one.kind for one in differences(posed(images, i), region, normal)}
        for i, region in zip(some, regions, strict=True)
    ]


@pytest.mark.slow
def test_words_for_generated_defects_are_those_that_fit(washers: tuple[ImageSet, Appearance]) -> None:
    holes, cracks, scratches = (of_kind(washers, kind) for kind in ("missing_hole", "crack", "scratch"))
    assert min(map(len, (holes, cracks, scratches))) >= 8
    assert np.mean(["brighter" in kinds for kinds in holes]) >= 0.9  # metal where a dark hole is
    assert not any("darker" in kinds for kinds in holes)
    said = [kinds for kinds in cracks + scratches if kinds]
    assert len(said) >= 0.5 * len(cracks + scratches)
    assert np.mean(["more contrast" in kinds for kinds in said]) >= 0.8
    assert not any("less contrast" in kinds for kinds in said)
    dark = [kinds for kinds in cracks if {"darker", "brighter"} & kinds]
    assert np.mean(["darker" in kinds for kinds in dark]) >= 0.8  # a crack lies in its own shade


@pytest.mark.slow
def test_of_normal_parts_little_is_said(washers: tuple[ImageSet, Appearance]) -> None:
    images, normal = washers
    good, rng = [i for i, name in enumerate(images.ids) if name.startswith("test/good")], np.random.default_rng(0)
    said = []
    for i in good:
        region = np.zeros((SIDE, SIDE), bool)
        top, left = rng.integers(4, SIDE - 16, 2)
        region[top : top + 12, left : left + 12] = True
        said.append(bool(differences(posed(images, i), region, normal)))
    assert np.mean(said) <= 0.1
