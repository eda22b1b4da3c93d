"""Image factors against closed forms."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knowngood.data import ImageSet, open_images
from knowngood.data.image_factors import MEASURES, measure
from knowngood.data.pixel_source import BlockPixels
from knowngood.errors import SettingsError


def measured(array: np.ndarray, name: str) -> np.ndarray:
    found = measure(ImageSet.from_arrays(array), [name])
    assert list(found) == [name]
    assert found[name].dtype == np.float64
    return found[name]


def pictures(n: int = 5, size: tuple[int, ...] = (9, 12), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (n, *size))


def bars(angles: list[float], side: int = 41, long: float = 16, wide: float = 4) -> np.ndarray:
    """A bar in the middle, `angles` degrees counter-clockwise of level, with edges of a pixel."""
    up, right = np.mgrid[side // 2 : -(side // 2) - 1 : -1, -(side // 2) : side // 2 + 1]
    turn = np.radians(np.array(angles))[:, None, None]
    along = np.abs(right * np.cos(turn) + up * np.sin(turn))
    across = np.abs(up * np.cos(turn) - right * np.sin(turn))
    return np.clip(long - along + 0.5, 0, 1) * np.clip(wide - across + 0.5, 0, 1)


# Illumination ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_constant_images_have_brightness_by_the_types_range_and_nothing_else(dtype: str, channels: int) -> None:
    top = np.iinfo(dtype).max
    levels = np.array([0, top // 5, top], dtype=dtype)
    array = np.broadcast_to(levels[:, None, None, None], (3, 6, 7, channels))
    assert measured(array, "brightness") == pytest.approx(levels / top, rel=1e-12)
    assert measured(array, "contrast") == pytest.approx([0, 0, 0], abs=1e-12)
    for name in ("sharpness", "rotation"):
        assert measured(array, name).tolist() == [0, 0, 0]


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_less_illumination_lowers_brightness_and_contrast_by_its_factor_and_leaves_the_others(channels: int) -> None:
    full = pictures(size=(9, 12, channels))
    dark, expected = 0.7 * full, {"brightness": 0.7, "contrast": 0.7, "sharpness": 1.0, "rotation": 1.0}
    for name, factor in expected.items():
        np.testing.assert_allclose(measured(dark, name), factor * measured(full, name), rtol=1e-9)


def test_less_illumination_on_eight_bits_is_the_same_up_to_rounding() -> None:
    full = (pictures(size=(32, 32)) * 255).round().astype(np.uint8)
    dark = (0.7 * full).round().astype(np.uint8)
    for name, factor in {"brightness": 0.7, "contrast": 0.7, "sharpness": 1.0}.items():
        np.testing.assert_allclose(measured(dark, name), factor * measured(full, name), rtol=0.005)


def test_brightness_is_the_mean_v_of_hsv() -> None:
    colours = pictures(n=20, size=(1, 3, 3))
    expected = [np.mean([colorsys.rgb_to_hsv(*pixel)[2] for pixel in image[0]]) for image in colours]
    assert measured(colours, "brightness") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.2])
def test_brightness_and_contrast_of_a_ramp_under_gamma_have_their_closed_form(gamma: float) -> None:
    """v^γ of v uniform on 0..1: mean 1/(γ+1), second moment 1/(2γ+1)."""
    ramp = ((np.arange(4000) + 0.5) / 4000).reshape(1, 50, 80) ** gamma
    mean = 1 / (gamma + 1)
    assert measured(ramp, "brightness")[0] == pytest.approx(mean, abs=1e-4)
    assert measured(ramp, "contrast")[0] == pytest.approx((1 / (2 * gamma + 1) - mean**2) ** 0.5, abs=1e-4)


def test_contrast_is_that_of_the_luminance() -> None:
    red_and_green = np.zeros((1, 2, 3, 3))
    red_and_green[:, 0, :, 0] = red_and_green[:, 1, :, 1] = 1  # equal in V, not in luminance
    assert measured(red_and_green, "contrast")[0] == pytest.approx((0.587 - 0.299) / 2)
    assert measured(red_and_green, "brightness")[0] == 1


# Sharpness ------------------------------------------------------------------------------------------------------------


def test_sharpness_worked_by_hand() -> None:
    """Columns 0, 1, 1, 0: at the edges of the bar |Laplacian| is 1 in all four; contrast ½."""
    assert measured(np.tile([0.0, 1.0, 1.0, 0.0], (1, 4, 1)), "sharpness")[0] == pytest.approx(2)
    # One white pixel of nine: 4 there and 1 at its four neighbours; variance 1/9 − 1/81.
    dot = np.zeros((1, 3, 3))
    dot[0, 1, 1] = 1
    assert measured(dot, "sharpness")[0] == pytest.approx(8 / 9 / (8 / 81) ** 0.5)


def test_sharpness_does_not_change_with_illumination_offset_or_sign_and_falls_with_blur() -> None:
    sharp = pictures(size=(24, 24))
    for other in (0.3 * sharp, sharp + 5, 2 - sharp):
        np.testing.assert_allclose(measured(other, "sharpness"), measured(sharp, "sharpness"), rtol=1e-9)
    blurred = sum(np.roll(sharp, (i, j), (1, 2)) for i in range(3) for j in range(3)) / 9
    assert (measured(blurred, "sharpness") < 0.5 * measured(sharp, "sharpness")).all()


# Rotation -------------------------------------------------------------------------------------------------------------


def test_rotation_is_the_angle_of_a_bar() -> None:
    angles = [-89, -60, -45, -10, 0, 10, 30, 45, 80, 90]
    found = measured(bars([float(a) for a in angles]), "rotation")
    assert found == pytest.approx(angles, abs=0.1)
    # A dark bar on a bright background, off-centre, in colour: the same axis.
    dark = np.roll(1 - 0.8 * bars([30.0, 80.0]), (2, -1), (1, 2))
    assert measured(np.stack([dark] * 3, axis=3), "rotation") == pytest.approx([30, 80], abs=0.1)


def test_half_a_turn_is_no_turn_and_the_range_is_half_open() -> None:
    assert measured(bars([30.0 + 180, 90.0, -90.0, 270.0]), "rotation") == pytest.approx([30, 90, 90, 90], abs=0.1)
    random = measured(pictures(200), "rotation")
    assert (random > -90).all()
    assert (random <= 90).all()


def test_images_without_an_axis_have_rotation_zero() -> None:
    up, right = np.mgrid[-10:11, -10:11]
    disc = up**2 + right**2 < 50
    square = np.maximum(np.abs(up), np.abs(right)) < 6
    cross = np.minimum(np.abs(up), np.abs(right)) < 3
    assert measured(np.stack([disc, square, cross, 0 * up]) * 0.3, "rotation").tolist() == [0, 0, 0, 0]


# Sources of images ----------------------------------------------------------------------------------------------------


def test_arrays_in_blocks_are_measured_as_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    array = pictures(11, (5, 6, 3))
    alone = [measure(ImageSet.from_arrays(image[None]), list(MEASURES)) for image in array]
    monkeypatch.setattr("knowngood.data.image_factors.VALUES_AT_ONCE", 4 * 5 * 6 * 3)
    together = measure(ImageSet.from_arrays(array)[np.arange(10, -1, -1)], list(MEASURES))
    for name in MEASURES:
        np.testing.assert_allclose(together[name][::-1], [one[name][0] for one in alone], rtol=1e-12)


def test_files_of_mixed_sizes_and_damaged_ones(tmp_path: Path) -> None:
    grey = (pictures(1, (7, 5))[0] * 255).astype(np.uint8)
    colour = (pictures(1, (4, 9, 3))[0] * 255).astype(np.uint8)
    deep = (pictures(1, (6, 6))[0] * 65535).astype(np.uint16)
    for name, image in {"a": grey, "b": colour, "c": deep}.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    found = measure(open_images(tmp_path), list(MEASURES))
    for name in MEASURES:
        expected = [measured(image[None], name)[0] for image in (grey, colour, deep)]
        assert found[name][:3] == pytest.approx(expected, rel=1e-12)
        assert np.isnan(found[name][3])


def test_images_drawn_on_demand_are_measured() -> None:
    class Drawn(BlockPixels):
        def block(self, rows: np.ndarray) -> np.ndarray:
            return (pictures(20, (9, 8, 1))[rows] * 255).astype(np.uint8)

    images = ImageSet.from_arrays(np.zeros((20, 9, 8))).replace(pixels=Drawn(np.arange(20), (9, 8, 1)))
    drawn = np.stack([images.read(i) for i in range(len(images))])
    for name in MEASURES:
        np.testing.assert_allclose(measure(images, [name])[name], measured(drawn, name), rtol=1e-12)


@pytest.mark.filterwarnings("error")
def test_values_that_are_not_finite_are_unknown_and_touch_no_other_image() -> None:
    array = pictures(4)
    clean = {name: measured(array, name) for name in MEASURES}
    array[1, 2, 3], array[2, 0, 0] = np.nan, np.inf
    for name in MEASURES:
        found = measured(array, name)
        assert np.isnan(found).tolist() == [False, True, True, False]
        assert found[[0, 3]].tolist() == clean[name][[0, 3]].tolist()


def test_tiny_images_and_empty_sets() -> None:
    found = measure(ImageSet.from_arrays(np.full((2, 1, 1), 0.5)), list(MEASURES))
    assert [found[name].tolist() for name in MEASURES] == [[0.5, 0.5], [0, 0], [0, 0], [0, 0]]
    assert all(len(v) == 0 for v in measure(ImageSet.from_arrays(pictures())[:0], list(MEASURES)).values())
    assert measure(ImageSet.from_arrays(pictures()), []) == {}


def test_an_unknown_image_factor_names_the_nearest_one() -> None:
    with pytest.raises(SettingsError, match=r"cannot measure 'brightnes' on images; did you mean 'brightness'\?"):
        measure(ImageSet.from_arrays(pictures()), ["brightnes"])
