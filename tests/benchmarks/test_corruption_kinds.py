"""Corruptions: none at strength 0, further the same way as they grow, in range, and by as much as they say."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.ndimage import center_of_mass, gaussian_filter

from benchmarks.corruption_kinds import CHANNELS, KINDS, corrupted
from knowngood.errors import DataError, SettingsError

POINTWISE = ("darker", "brighter", "contrast", "gamma", "colour-cast", "noise", "glare")
MOVING = ("shift", "rotation", "scale")
STRENGTHS = (1, 2, 3, 4, 5)


def picture(seed: int = 0, channels: int = 3, dtype: str = "uint8", side: int = 160) -> np.ndarray:
    """Smooth texture, from dark to bright."""
    grain = np.random.default_rng(seed).normal(size=(side, side, channels))
    smooth = gaussian_filter(grain, (2, 2, 0))
    top = 1 if dtype == "float32" else np.iinfo(dtype).max
    return (top * (0.5 + 0.17 * smooth / smooth.std()).clip(0, 1)).astype(dtype)


def spot(row: float, column: float, width: float = 3.0, side: int = 64) -> np.ndarray:
    """A bright spot on black, as float."""
    y, x = np.mgrid[:side, :side]
    return np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2))[..., None]


def middle_of(image: np.ndarray) -> np.ndarray:
    return np.array(center_of_mass(image[..., 0]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_strength_0_changes_nothing_and_others_keep_shape_dtype_and_range(kind: str, dtype: str) -> None:
    image = picture(dtype=dtype)
    none = corrupted(image, kind, 0)
    assert np.array_equal(none, image)
    assert none is not image
    top = 1 if dtype == "float32" else np.iinfo(dtype).max
    for strength in STRENGTHS:
        found = corrupted(image, kind, strength)
        assert (found.shape, found.dtype) == (image.shape, image.dtype)
        assert 0 <= found.min() <= found.max() <= top
        assert not np.array_equal(found, image)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "jpeg"])
def test_a_faint_corruption_is_a_small_change(kind: str) -> None:
    image = picture(dtype="float32").astype(float)
    np.testing.assert_allclose(corrupted(image, kind, 1e-6), image, atol=1e-5)


@pytest.mark.parametrize("kind", POINTWISE)
def test_no_pixel_comes_back_as_light_noise_and_glare_grow(kind: str) -> None:
    image = picture().astype(int)
    moved = [corrupted(picture(), kind, strength).astype(int) - image for strength in (0, 0.5, *STRENGTHS)]
    for weaker, stronger in pairwise(moved):
        assert (np.abs(stronger) >= np.abs(weaker)).all()
        assert (stronger * weaker >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_further_away_with_every_step(kind: str) -> None:
    for seed in range(2):
        image = picture(seed)
        away = [float(((corrupted(image, kind, s) - image.astype(float)) ** 2).mean()) for s in (0, *STRENGTHS)]
        assert np.all(np.diff(away) > 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_corruption_is_a_function_of_image_strength_and_seed(kind: str) -> None:
    image = picture()
    assert np.array_equal(corrupted(image, kind, 3), corrupted(image.copy(), kind, 3))
    drawn = {corrupted(image, kind, 3, seed).tobytes() for seed in range(8)}
    assert (len(drawn) == 1) == (kind in ("darker", "brighter", "contrast", "blur", "jpeg"))


def test_light_changes_by_as_much_as_it_says() -> None:
    image = picture(dtype="float32").astype(float)
    np.testing.assert_allclose(corrupted(image, "darker", 5), 0.7 * image)
    np.testing.assert_allclose(corrupted(image, "brighter", 5), (1.3 * image).clip(0, 1))
    assert corrupted(image, "contrast", 5).std() == pytest.approx(image.std() / 2)
    assert corrupted(image, "contrast", 5).mean() == pytest.approx(image.mean())
    exponents = {2: image**2, 0.5: image**0.5}
    assert any(np.allclose(corrupted(image, "gamma", 5), wanted) for wanted in exponents.values())
    ratio = (corrupted(image / 2, "colour-cast", 5) / (image / 2 + 1e-12)).mean(axis=(0, 1))
    assert np.abs(ratio - 1).max() == pytest.approx(0.2, abs=0.01)
    assert ratio.mean() == pytest.approx(1, abs=0.01)
    flat = np.full((64, 64, 1), 0.5)
    assert (corrupted(flat, "noise", 5) - flat).std() == pytest.approx(20 / 255, rel=0.05)
    assert 0.5 * 0.85 < (corrupted(flat, "glare", 5) - flat).max() <= 0.5 * 0.9


def test_parts_move_by_as_much_as_they_say() -> None:
    middle = 31.5
    shifted = middle_of(corrupted(spot(middle, middle), "shift", 5)) - middle
    assert np.hypot(*shifted) == pytest.approx(0.05 * 64, rel=1e-2)
    arm = np.array([15.0, 0.0])
    turned = middle_of(corrupted(spot(*(middle + arm)), "rotation", 5)) - middle
    assert np.hypot(*turned) == pytest.approx(15, rel=1e-2)
    assert np.degrees(np.arccos(turned @ arm / np.hypot(*turned) / 15)) == pytest.approx(10, rel=1e-2)
    scaled = middle_of(corrupted(spot(*(middle + arm)), "scale", 5)) - middle
    assert any(scaled[0] == pytest.approx(15 * ratio, rel=1e-2) for ratio in (1.15, 1 / 1.15))


@pytest.mark.parametrize("kind", MOVING)
def test_motion_goes_on_the_same_way(kind: str) -> None:
    start = np.array([46.0, 20.0])
    way = [middle_of(corrupted(spot(*start), kind, strength)) - start for strength in (2, 4)]
    cosine = way[0] @ way[1] / np.hypot(*way[0]) / np.hypot(*way[1])
    assert cosine > 0.99
    assert np.hypot(*way[1]) / np.hypot(*way[0]) == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_images_with_one_channel(kind: str) -> None:
    grey = picture(channels=1)
    if 1 in CHANNELS.get(kind, (1,)):
        assert corrupted(grey, kind, 3).shape == grey.shape
    else:
        with pytest.raises(DataError, match=r"'colour-cast' of an image with 1 channels; expected \(3,\)"):
            corrupted(grey, kind, 3)


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(SettingsError, match="unknown corruption 'blurr'; did you mean 'blur'"):
        corrupted(picture(), "blurr", 1)
    for strength in (-0.1, 5.1, float("nan")):
        with pytest.raises(SettingsError, match="expected a number from 0 to 5"):
            corrupted(picture(), "blur", strength)
