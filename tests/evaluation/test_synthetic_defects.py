"""Synthetic defects: what a mask promises, for every kind and type of image, and that nothing hangs on the order."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter, label

from knowngood.errors import DataError, SettingsError
from knowngood.evaluation.defect_kinds import KINDS, LARGEST, SMALLEST
from knowngood.evaluation.synthetic_defects import VISIBLE, synthesize, visible

TYPES = ["grey", "colour", "float32", "float64", "uint16"]


def textured(seed: int = 0, shape: tuple[int, ...] = (72, 96, 1)) -> np.ndarray:
    """A surface on [0, 1] with grain, stains and two halves of different brightness."""
    rng = np.random.default_rng(seed)
    grain, stains = rng.standard_normal(shape), gaussian_filter(rng.standard_normal(shape), (6, 6, 0))
    x = 0.5 + 0.05 * grain + 0.15 * stains / stains.std()
    x[:, : shape[1] // 2] -= 0.15
    return x.clip(0, 1)


def of_type(name: str) -> tuple[np.ndarray, float, float]:
    """An image and its range."""
    if name.startswith("float"):
        x = (textured() * 7 - 3).astype(name)
        return x, float(x.min()), float(x.max())
    if name == "uint16":
        x = (textured() * 4095).astype(np.uint16)
        return x, float(x.min()), float(x.max())
    return (textured(shape=(72, 96, 3 if name == "colour" else 1)) * 255).astype(np.uint8), 0, 255


@pytest.mark.slow
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_is_where_its_mask_is(kind: str, name: str) -> None:
    image, low, high = of_type(name)
    before = image.copy()
    for seed in range(3):
        changed, mask, made = synthesize(image, np.random.default_rng(seed), kind)
        assert np.array_equal(image, before)
        assert made == kind
        assert (changed.shape, changed.dtype) == (image.shape, image.dtype)
        assert low <= changed.min()
        assert changed.max() <= high
        assert (mask.shape, mask.dtype) == (image.shape[:2], bool)
        assert SMALLEST <= mask.mean() <= LARGEST
        change = np.abs(changed.astype(float) - image).max(axis=2)
        assert change[~mask].max() < VISIBLE * (high - low)
        assert not ((change > 0) & (change < 1e-12)).any()  # what is untouched is so to the last bit
        assert (change[mask] >= VISIBLE * (high - low)).mean() > 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_decides_all(kind: str) -> None:
    image = of_type("colour")[0]
    (one, mask_one, _), (two, mask_two, _) = (synthesize(image, np.random.default_rng(5), kind) for _ in range(2))
    assert np.array_equal(one, two)
    assert np.array_equal(mask_one, mask_two)
    other, _, _ = synthesize(image, np.random.default_rng(6), kind)
    assert not np.array_equal(one, other)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_images_will_do(kind: str) -> None:
    image = (textured(shape=(16, 16, 3)) * 255).astype(np.uint8)
    for seed in range(5):
        assert synthesize(image, np.random.default_rng(seed), kind)[1].any()


@pytest.mark.slow
def test_a_kind_is_drawn_where_none_is_given() -> None:
    image, rng = of_type("grey")[0], np.random.default_rng(0)
    assert {synthesize(image, rng)[2] for _ in range(60)} == set(KINDS)


@pytest.mark.slow
def test_sizes_and_locations_vary() -> None:
    image, rng = of_type("grey")[0], np.random.default_rng(0)
    masks = np.array([synthesize(image, rng, "cutpaste")[1] for _ in range(60)])
    areas = masks.mean(axis=(1, 2))
    assert areas.min() < 0.01
    assert areas.max() > 0.08
    quarters = masks.sum(axis=0).reshape(2, 36, 2, 48).sum(axis=(1, 3))
    assert (quarters > 0).all()


# What single kinds mean -----------------------------------------------------------------------------------------------


def fine() -> np.ndarray:
    return (textured(shape=(256, 256, 1)) * 255).astype(np.uint8)


def made_of(kind: str, seeds: int = 6, image: np.ndarray | None = None, **given):
    image = of_type("grey")[0] if image is None else image
    for seed in range(seeds):
        changed, mask, _ = synthesize(image, np.random.default_rng(seed), kind, **given)
        yield image.astype(float), changed.astype(float), mask


def test_cracks_only_darken() -> None:
    for image, changed, _ in made_of("crack"):
        assert (changed <= image).all()


@pytest.mark.parametrize("kind", ["blur", "warp"])
def test_blur_and_warp_bring_no_new_values(kind: str) -> None:
    for image, changed, _ in made_of(kind):
        assert image.min() <= changed.min()
        assert changed.max() <= image.max()


def test_blur_smooths() -> None:
    for image, changed, mask in made_of("blur", image=fine()):
        inner = mask[:, 1:] & mask[:, :-1]
        rough, smooth = (np.abs(np.diff(x[..., 0], axis=1))[inner].mean() for x in (image, changed))
        assert smooth < 0.7 * rough


@pytest.mark.slow
def test_lines_are_thin_and_holes_are_not() -> None:
    def thickness(kind: str) -> float:
        """Radius of the largest disc inside a mask over the root of its area: .56 of a disc, little of a line."""
        masks = [mask for _, _, mask in made_of(kind, image=fine())]
        return float(np.median([np.max(distance_transform_edt(mask)) / np.sqrt(mask.sum()) for mask in masks]))  # type: ignore

    assert max(thickness("scratch"), thickness("crack")) < 0.2
    assert min(thickness("hole"), thickness("cutpaste")) > 0.35


def test_a_hole_is_one_piece() -> None:
    for _, _, mask in made_of("hole"):
        pieces = np.asarray(label(mask, np.ones((3, 3)))[0])  # type: ignore
        assert pieces.max() == 1


def test_a_foreign_texture_comes_from_the_other_image() -> None:
    red = np.zeros((40, 50, 3), np.uint8)
    red[..., 0] = 255
    for image, changed, mask in made_of("foreign", image=of_type("colour")[0], other=red):
        assert (changed[mask] - image[mask])[:, 0].min() >= 0
        assert (changed[mask] - image[mask])[:, 1:].max() <= 0


# Masks and images that do not do --------------------------------------------------------------------------------------


def test_only_changes_that_can_be_seen_are_marked_and_small_gaps_closed() -> None:
    image = np.zeros((100, 100, 2), np.uint8)
    changed = image.copy()
    changed[10, 10, 1] = 8  # 3 % of 255 is 7.65
    changed[20, 20] = 7
    changed[50, 20:40] = changed[54, 20:40] = 90  # 3 rows between them; the disc's radius is 2
    changed[80, 20:40] = changed[88, 20:40] = 90
    mask = visible(image, changed, 255)
    assert mask[10, 10]
    assert not mask[20, 20]
    assert mask[50:55, 22:38].all()
    assert mask[80, 20:40].all()
    assert mask[88, 20:40].all()
    assert not mask[82:87].any()


def test_what_a_plain_surface_does_not_show_becomes_a_hole() -> None:
    plain = np.full((40, 40, 1), 128, np.uint8)
    for kind in ("blur", "warp"):
        changed, mask, made = synthesize(plain, np.random.default_rng(0), kind)
        assert made == "hole"
        assert mask.any()
        assert not np.array_equal(changed, plain)


def test_images_of_zeros_and_ones_stay_so() -> None:
    image = (textured() > 0.5).astype(np.uint8)
    changed, _, _ = synthesize(image, np.random.default_rng(0), "noise")
    assert set(np.unique(changed)) == {0, 1}


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((40, 40, 1), np.float32), "all values of an image are 0"),
        (np.full((40, 40, 1), np.nan), "NaN or infinite"),
        (np.zeros((40, 40), np.uint8), r"shape \(40, 40\)"),
        (np.zeros((15, 40, 1), np.uint8), "at least 16"),
    ],
)
def test_images_that_do_not_do(image: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        synthesize(image, np.random.default_rng(0))


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"'scratches'.*scratch"):
        synthesize(of_type("grey")[0], np.random.default_rng(0), "scratches")
