"""Registration: known transforms are found, what cannot be aligned is left alone, and maps find the way back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from knowngood.data.pose.geometry import Quality, Size, inverse
from knowngood.errors import ArtifactError, DataError
from knowngood.representations.alignment.matching import Mode, compared_size, correlations, match, plane
from knowngood.representations.alignment.registration import Registration, grey
from knowngood.representations.alignment.warping import (
    Transform,
    compose,
    from_centred,
    rotation_of,
    unwarp,
    warp,
)

MAX_SHIFT = 0.1
MODES: tuple[Mode, ...] = ("shift", "rigid", "affine")
SIZE = (96, 120)
NOWHERE = np.eye(2, 3)


def scene(size: Size = SIZE, centred: np.ndarray = NOWHERE, seed: int = 0, finest: float = 9) -> np.ndarray:
    """(H, W) in 0…1: a sum of plane waves, exact at any place, seen through a transform about the middle."""
    rng = np.random.default_rng(seed)
    waves, angles, phases = rng.uniform(finest, 5 * finest, 40), *rng.uniform(0, 2 * np.pi, (2, 40))
    down, right = (np.arange(n) - (n - 1) / 2 for n in size)
    image = np.stack(np.broadcast_arrays(right[None], down[:, None]))  # (2, H, W)
    back = inverse(centred)
    x, y = np.einsum("ij,jhw->ihw", back[:, :2], image) + back[:, 2, None, None]
    value = sum(
        np.cos(2 * np.pi / wave * (np.cos(a) * x + np.sin(a) * y) + phase)
        for wave, a, phase in zip(waves, angles, phases, strict=True)
    )
    return 0.5 + np.asarray(value) / 40


def moved(right: float, down: float, degrees: float = 0, linear: np.ndarray | None = None) -> np.ndarray:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[cos, sin], [-sin, cos]]) if linear is None else linear
    return np.column_stack((turn, (right, down)))


def aligned_by(registration: Registration, image: np.ndarray) -> tuple[np.ndarray, Transform]:
    transform = registration.locate(grey(image))
    return warp(image, transform), transform


def shift_of(transform: Transform) -> list[float]:
    """Displacement of the image to the right and down, in pixels, at its centre."""
    return transform.centred[:, 2].tolist()


def scale_of(transform: Transform) -> float:
    return math.sqrt(abs(np.linalg.det(transform.matrix[:, :2])))


def farthest(found: np.ndarray, true: np.ndarray, size: Size) -> float:
    """Largest error at the corners, in pixels."""
    corners = np.array([[x * size[1] / 2, y * size[0] / 2, 1] for x in (-1, 1) for y in (-1, 1)])
    return float(np.abs(corners @ (found - true).T).max())


def sharpness(image: np.ndarray) -> float:
    return float((np.diff(image, 2, axis=0)[:, 1:-1] + np.diff(image, 2, axis=1)[1:-1]).var())


@pytest.fixture(scope="module")
def fitted() -> dict[Mode, Registration]:
    return {mode: Registration.fit([scene()], mode) for mode in MODES}


# Known transforms -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shift", [(1, 0), (0, -1), (-7, 4), (11, 9)])
def test_whole_shifts_are_found(fitted: dict[Mode, Registration], mode: Mode, shift: tuple[int, int]) -> None:
    image = scene(centred=moved(*shift))
    aligned, transform = aligned_by(fitted[mode], image[..., None])
    assert transform.accepted
    assert transform.reason == ""
    assert shift_of(transform) == pytest.approx(shift, abs=0.05)
    assert rotation_of(transform.matrix) == pytest.approx(0, abs=0.05)
    assert scale_of(transform) == pytest.approx(1, abs=2e-3)
    inside = slice(12, -12)
    np.testing.assert_allclose(aligned[inside, inside, 0], scene()[inside, inside], atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(28, 28), (64, 100), (150, 90), (256, 256)])
def test_parts_of_a_pixel_are_found_at_any_size(size: Size) -> None:
    registration = Registration.fit([scene(size)], "shift")
    rng = np.random.default_rng(1)
    for shift in rng.uniform(-0.08, 0.08, (4, 2)) * size[::-1]:
        transform = registration.locate(scene(size, moved(*shift)))
        assert shift_of(transform) == pytest.approx(shift, abs=0.15)
        assert transform.quality.after > 0.99 > transform.quality.before
        assert (transform.matrix[:, :2] == np.eye(2)).all()


@pytest.mark.parametrize("mode", ["rigid", "affine"])
@pytest.mark.parametrize("degrees", [-14, -7.5, 0.6, 3, 12.4])
def test_rotations_are_found(fitted: dict[Mode, Registration], mode: Mode, degrees: float) -> None:
    true = moved(4.3, -5.6, degrees)
    transform = fitted[mode].locate(scene(centred=true))
    assert rotation_of(transform.matrix) == pytest.approx(degrees, abs=0.1)
    assert farthest(transform.centred, true, SIZE) < 0.15
    if mode == "rigid":
        assert scale_of(transform) == pytest.approx(1, abs=1e-9)


@pytest.mark.slow
def test_small_linear_maps_are_found(fitted: dict[Mode, Registration]) -> None:
    rng = np.random.default_rng(2)
    for _ in range(6):
        true = moved(*rng.uniform(-6, 6, 2), linear=np.eye(2) + rng.uniform(-0.05, 0.05, (2, 2)))
        transform = fitted["affine"].locate(scene(centred=true))
        assert farthest(transform.centred, true, SIZE) < 0.15
        assert scale_of(transform) == pytest.approx(math.sqrt(np.linalg.svd(true[:, :2])[1].prod()), abs=2e-3)


@pytest.mark.parametrize("mode", MODES)
def test_brightness_and_contrast_change_nothing(fitted: dict[Mode, Registration], mode: Mode) -> None:
    image = scene(centred=moved(3.4, -2.7))
    expected = fitted[mode].locate(image)
    for changed in (0.3 * image, image + 40, 1000 * image - 7):
        found = fitted[mode].locate(changed)
        np.testing.assert_allclose(found.matrix, expected.matrix, atol=1e-3)
        assert found.quality == pytest.approx(expected.quality, abs=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_noise_moves_it_little(fitted: dict[Mode, Registration], mode: Mode) -> None:
    true = moved(-5.2, 6.4)
    image = scene(centred=true)
    noise = np.random.default_rng(0).normal(0, image.std(), SIZE)
    transform = fitted[mode].locate(image + noise)
    assert transform.accepted
    assert farthest(transform.centred, true, SIZE) < 0.5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [0.1, 0.9])
def test_a_defect_does_not_pull_the_image_towards_itself(
    fitted: dict[Mode, Registration], mode: Mode, value: float
) -> None:
    true = moved(4.7, -3.6)
    image = scene(centred=true)
    image[20:40, 60:75] = value
    transform = fitted[mode].locate(image)
    assert transform.accepted
    assert farthest(transform.centred, true, SIZE) < 0.3


def test_stripes_tell_nothing_along_themselves() -> None:
    """Where the image does not change, no shift is made up."""
    x = np.arange(64) + np.zeros((64, 1))
    stripes = [np.exp(-((x - 30 - shift) ** 2) / 50) for shift in (0, 3)]
    for mode in MODES:
        transform = Registration.fit(stripes[:1], mode).locate(stripes[1])
        assert shift_of(transform) == pytest.approx((3, 0), abs=0.1)
        assert rotation_of(transform.matrix) == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("side", [8, 12, 30])
def test_an_object_on_an_even_ground_is_followed(mode: Mode, side: int) -> None:
    """Nearly all pixels agree exactly, so the few that tell anything are those that differ most."""
    ground = np.zeros((64, 64))
    ground[20 : 20 + side, 16 : 16 + side // 2] = 1
    ground[20 : 20 + side // 2, 16 : 16 + side] = 1
    transform = Registration.fit([ground], mode).locate(np.roll(ground, (-2, 3), axis=(0, 1)))
    assert transform.accepted
    x, y = transform.matrix @ (16 + side / 3, 20 + side / 3, 1)
    assert (x, y) == pytest.approx((19 + side / 3, 18 + side / 3), abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["shift", "rigid"])
def test_no_transform_near_by_correlates_better(mode: Mode) -> None:
    """By trying them all, on images that no transform makes equal. A step of 0.2 pixels costs some 0.005."""
    reference, image = scene(seed=0), 0.8 * scene(centred=moved(2.3, -1.6, 4), seed=0) + 0.2 * scene(seed=1)
    planes = plane(reference), plane(image)
    assert planes[0] is not None
    assert planes[1] is not None
    found = match(*planes, SIZE, mode)
    best = correlations(*planes, found, SIZE)[1]
    for right in np.arange(-0.6, 0.7, 0.2):
        for down in np.arange(-0.6, 0.7, 0.2):
            for turn in (-0.4, 0, 0.4) if mode == "rigid" else (0,):
                other = compose(found, moved(right, down, turn))
                assert correlations(*planes, other, SIZE)[1] < best + 1.5e-3


# What is left as it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_an_image_in_its_place_stays_untouched(fitted: dict[Mode, Registration], mode: Mode) -> None:
    for image in (scene()[..., None], scene(centred=moved(0.02, -0.01))[..., None]):
        aligned, transform = aligned_by(fitted[mode], image)
        assert aligned is image
        assert transform.accepted
        assert transform.identity
        assert transform.quality.after == transform.quality.before > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_what_is_something_else_is_refused(fitted: dict[Mode, Registration], mode: Mode) -> None:
    rng = np.random.default_rng(0)
    for image in (*(scene(seed=seed) for seed in range(1, 4)), rng.random(SIZE), 1 - scene()):
        aligned, transform = aligned_by(fitted[mode], image[..., None])
        assert not transform.accepted
        assert transform.identity
        assert transform.reason
        assert transform.quality.after < fitted[mode].floor or "limit" in transform.reason
        assert (aligned[..., 0] == image).all()


@pytest.mark.parametrize(
    ("mode", "true", "reason"),
    [
        ("shift", moved(MAX_SHIFT * 120 + 1, 0), "lies 13.0 pixels away; the limit is 12.0"),
        ("affine", moved(0, -MAX_SHIFT * 96 - 1), "lies 10.6 pixels away; the limit is 9.6"),
        ("rigid", moved(1, 2, 17), "turned by 17.0 degrees; the limit is 15"),
        ("affine", moved(0, 0, linear=np.eye(2) * 1.12), "1.12 times as large; the limits are 0.9 and 1.1"),
        ("affine", moved(0, 0, linear=np.diag([1.0, 0.87])), "0.87 times as large; the limits are 0.9 and 1.1"),
    ],
)
def test_beyond_a_limit_the_reason_says_which(
    fitted: dict[Mode, Registration], mode: Mode, true: np.ndarray, reason: str
) -> None:
    transform = fitted[mode].locate(scene(centred=true))
    assert not transform.accepted
    assert transform.identity
    assert reason in transform.reason


@pytest.mark.parametrize(("after", "accepted", "kept"), [(0.91, True, False), (0.895, True, True), (0.88, False, True)])
def test_what_makes_it_less_alike_is_never_done(
    fitted: dict[Mode, Registration], after: float, accepted: bool, kept: bool
) -> None:
    """Within a hundredth the image lies as well as can be told; a larger loss is no alignment."""
    transform = fitted["shift"].judged(moved(3, 2), Quality(0.9, after))
    assert (transform.accepted, transform.identity) == (accepted, kept)
    assert transform.quality.after == (0.9 if accepted and kept else after)
    assert ("no alignment was found" in transform.reason) == (not accepted)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [0, 1, 200])
def test_a_constant_image_is_refused_and_no_error(fitted: dict[Mode, Registration], mode: Mode, value: int) -> None:
    image = np.full((*SIZE, 3), value, dtype=np.uint8)
    aligned, transform = aligned_by(fitted[mode], image)
    assert aligned is image
    assert not transform.accepted
    assert "constant" in transform.reason
    assert np.isnan(transform.quality).all()


# Fit ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_the_mean_of_jittered_images_is_sharper_after(mode: Mode) -> None:
    rng = np.random.default_rng(4)
    places = rng.uniform(-3, 3, (10, 2)) + np.array((2, -1))
    images = [scene(centred=moved(*place, 0 if mode == "shift" else rng.uniform(-4, 4))) for place in places]
    registration = Registration.fit(iter(images), mode)
    assert (registration.images, registration.aligned) == (10, 10)
    found = [aligned_by(registration, image[..., None]) for image in images]
    before, after = np.mean(images, axis=0), np.mean([aligned[..., 0] for aligned, _ in found], axis=0)
    assert sharpness(after[8:-8, 8:-8]) > 2 * sharpness(before[8:-8, 8:-8])
    assert min(transform.quality.after for _, transform in found) > 0.98
    # The reference lies where the images lie on average.
    np.testing.assert_allclose(np.mean([shift_of(transform) for _, transform in found], axis=0), 0, atol=0.1)


@pytest.mark.slow
def test_a_few_images_of_something_else_do_not_join_the_reference() -> None:
    normal = [scene(centred=moved(right, down)) for right, down in np.random.default_rng(0).uniform(-3, 3, (8, 2))]
    registration = Registration.fit([scene(seed=9), *normal, np.ones(SIZE), scene(seed=8)], "shift")
    assert (registration.images, registration.aligned) == (10, 8)
    assert registration.floor == pytest.approx(0.5, abs=0.02)
    assert min(registration.locate(image).quality.after for image in normal) > 0.99


@pytest.mark.slow
def test_the_reference_reaches_its_edges_by_images_that_show_them() -> None:
    """Elsewhere an image's last column, repeated, would blur it."""
    images = [scene(centred=moved(right, 0)) for right in (-6, -5, -4, 0, 4, 5, 6)]
    reference = Registration.fit(images, "shift").state()["reference"].numpy()
    expected = (scene() - scene().mean()) / scene().std()
    assert np.abs(reference - expected)[4:-4].max() < 0.12


@pytest.mark.slow
def test_the_floor_is_half_of_what_images_have_in_common_with_the_others() -> None:
    """Images s + e_i, e of half the variance of s: of x with the mean of n others, 1 / √(1.5 (1 + 0.5 / n)).

    A little more, as reading between pixels takes noise away. If x were in the mean it would be 0.44.
    """
    rng = np.random.default_rng(0)
    images = [scene() + rng.normal(0, scene().std() * math.sqrt(0.5), SIZE) for _ in range(3)]
    floor = Registration.fit(images, "shift").floor
    assert floor == pytest.approx(0.5 / math.sqrt(1.5 * 1.25), abs=0.04)


@pytest.mark.slow
def test_images_that_have_nothing_in_common_are_refused() -> None:
    with pytest.raises(DataError, match=r"alignment by shift: only \d of 12 normal images .* Leave alignment off"):
        Registration.fit((scene(seed=seed) for seed in range(12)), "shift")


def test_images_that_cannot_be_used_are_named() -> None:
    with pytest.raises(DataError, match="there are none"):
        Registration.fit([])
    with pytest.raises(DataError, match="all 2 images are constant"):
        Registration.fit([np.zeros(SIZE), np.ones(SIZE)])
    with pytest.raises(DataError, match=r"image 1 has shape \(96, 96\), the first one \(96, 120\)"):
        Registration.fit([scene(), scene((96, 96))])
    with pytest.raises(DataError, match="NaN or infinite"):
        Registration.fit([np.where(scene() > 0.6, np.nan, scene())])


def test_alignment_refuses_what_it_was_not_fitted_on(fitted: dict[Mode, Registration]) -> None:
    with pytest.raises(DataError, match="an image to align is 120 × 90 px, alignment was fitted on 120 × 96"):
        aligned_by(fitted["shift"], np.zeros((90, 120, 3)))
    with pytest.raises(DataError, match=r"shape \(96, 120\); expected \(height, width, channels\)"):
        aligned_by(fitted["shift"], scene())
    with pytest.raises(DataError, match="NaN or infinite"):
        aligned_by(fitted["shift"], np.full((*SIZE, 1), np.inf))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_it_comes_back_from_json_and_tensors(mode: Mode) -> None:
    size = (150, 200)
    registration = Registration.fit([scene(size), scene(size, moved(3, 2))], mode)
    text = json.dumps(registration.model_dump(mode="json"))
    bare = Registration.model_validate_json(text)
    again = bare.with_state(registration.state())
    assert torch.equal(again.state()["reference"], registration.state()["reference"])
    assert registration.state()["reference"].shape == compared_size(size) == (96, 128)
    image = scene(size, moved(-4.2, 7.7))[..., None]
    (one, first), (other, second) = aligned_by(registration, image), aligned_by(again, image)
    assert (one == other).all()
    assert (first.matrix == second.matrix).all()
    assert first.quality == second.quality
    with pytest.raises(ArtifactError, match="no reference"):
        aligned_by(bare, image)
    for damaged in ({}, {"reference": torch.zeros(96, 127)}):
        with pytest.raises(ArtifactError, match=r"expected a reference of shape \(96, 128\)"):
            bare.with_state(damaged)


@pytest.mark.slow
def test_the_same_images_give_the_same_registration() -> None:
    images = [scene(centred=moved(i, -i)) for i in range(3)]
    one, other = Registration.fit(images, "affine"), Registration.fit(iter(images), "affine")
    assert one.model_dump() == other.model_dump()
    assert torch.equal(one.state()["reference"], other.state()["reference"])


# Warping --------------------------------------------------------------------------------------------------------------


def placed(centred: np.ndarray, size: Size) -> Transform:
    return Transform(from_centred(centred, size), size, Quality(0, 1))


def test_a_transform_tells_shift_rotation_and_scale_about_the_middle() -> None:
    turned = placed(moved(3, -2, 30), (11, 21))
    assert shift_of(turned) == pytest.approx((3, -2))
    assert rotation_of(turned.matrix) == pytest.approx(30)
    assert scale_of(turned) == pytest.approx(1)
    # Turned counter-clockwise, what was right of the middle (10, 5) is above and right of it.
    x, y = turned.matrix @ (14, 5, 1)
    assert (x, y) == pytest.approx((10 + 3 + 4 * math.cos(math.pi / 6), 5 - 2 - 4 * 0.5))
    assert scale_of(placed(moved(0, 0, linear=np.diag([1.2, 0.9])), (4, 4))) == pytest.approx(math.sqrt(1.2 * 0.9))


def test_the_way_back_undoes_and_composition_goes_inner_first() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2, 3))
    np.testing.assert_allclose(compose(a, inverse(a)), NOWHERE, atol=1e-12)
    point = np.array([2.0, -1.0])
    inner = b[:, :2] @ point + b[:, 2]
    np.testing.assert_allclose(compose(a, b) @ (*point, 1), a[:, :2] @ inner + a[:, 2])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float16", "float32", "float64"])
def test_whole_shifts_move_pixels_and_repeat_the_edge(dtype: str) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 120, (9, 13, 2)).astype(dtype)
    warped = warp(image, placed(moved(3, -2), (9, 13)))
    rows, columns = np.clip(np.arange(9) - 2, 0, 8), np.clip(np.arange(13) + 3, 0, 12)
    assert warped.dtype == image.dtype
    np.testing.assert_allclose(warped, image[rows[:, None], columns], atol=1e-3 if image.dtype.kind == "f" else 0)


def test_warping_keeps_the_range_and_rounds_integers() -> None:
    image = np.random.default_rng(0).integers(0, 2, (20, 20, 1)).astype(np.uint8) * 255
    transform = placed(moved(0.5, 0, 0), (20, 20))
    between = (image[:, :-1].astype(float) + image[:, 1:]) / 2
    assert np.abs(warp(image, transform)[:, :-1] - between).max() <= 0.5
    with pytest.raises(DataError, match=r"shape \(20, 19, 1\); expected \(20, 20, 'channels'\)"):
        warp(image[:, 1:], transform)


def test_a_map_goes_back_to_where_the_image_has_it() -> None:
    map = np.zeros((9, 13), dtype=np.float32)
    map[4, 6], map[0, 0] = 2, 1
    back = unwarp(map, placed(moved(3, -2), (9, 13)), (9, 13, 3))
    assert back.shape == (9, 13)
    assert back.dtype == np.float32
    assert back[2, 9] == pytest.approx(2, abs=1e-4)  # three to the right, two up
    expected = np.zeros((9, 13))
    expected[:7, 3:] = map[2:, :10]
    np.testing.assert_allclose(back, expected, atol=1e-4)
    full = unwarp(np.ones((9, 13)), placed(moved(3, -2), (9, 13)), (9, 13))
    assert (full == np.pad(np.ones((7, 10)), ((0, 2), (3, 0)))).all()  # 0 where the image shows something more


def test_warp_and_back_is_the_image_inside() -> None:
    image = scene()
    transform = placed(moved(4.5, -3.2, 8), SIZE)
    back = unwarp(warp(image[..., None], transform)[..., 0], transform, SIZE)
    inside = slice(20, -20)
    np.testing.assert_allclose(back[inside, inside], image[inside, inside], atol=0.03)
    assert np.abs(warp(image[..., None], transform)[..., 0] - image)[inside, inside].max() > 0.2


def test_maps_of_another_resolution_cover_the_same_image() -> None:
    """A ramp is exact under bilinear reading, so a coarse map says the same as a fine one."""
    size, transform = (60, 80), placed(moved(5, 3, 6), (60, 80))
    ramps = []
    for shape in ((60, 80), (30, 20), (120, 160)):
        y, x = ((2 * np.arange(n) + 1) / n for n in shape)
        ramps.append(unwarp(y[:, None] + 2 * x, transform, size)[10:-10, 12:-12])
    np.testing.assert_allclose(ramps[1], ramps[0], atol=1e-4)
    np.testing.assert_allclose(ramps[2], ramps[0], atol=1e-4)
    with pytest.raises(DataError, match="a map to unwarp has shape"):
        unwarp(np.zeros((3, 4, 5)), transform, size)


def test_grey_is_luminance_of_three_channels_and_the_mean_of_others() -> None:
    colour = np.array([[[100, 200, 50]]], dtype=np.uint8)
    assert grey(colour) == pytest.approx(np.array([[0.299 * 100 + 0.587 * 200 + 0.114 * 50]]), rel=1e-6)
    assert grey(colour[..., :2]) == pytest.approx(np.array([[150.0]]))
    assert grey(colour).dtype == np.float32
    assert grey(colour.astype(np.int32)).dtype == np.float64


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((28, 28), (28, 28)),
        ((256, 256), (128, 128)),
        ((300, 400), (96, 128)),
        ((1000, 20), (1000, 20)),
        ((1280, 64), (640, 32)),
    ],
)
def test_images_are_compared_small_but_not_too_narrow(size: Size, expected: Size) -> None:
    assert compared_size(size) == expected


@pytest.mark.slow
@pytest.mark.data
def test_bottles_lie_better_after(data_root: Path) -> None:
    folder = data_root / "mvtec" / "bottle" / "train" / "good"
    images = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))[:8]]
    registration = Registration.fit((grey(image) / 255 for image in images), "affine")
    found = [aligned_by(registration, image)[1] for image in images]
    assert all(transform.accepted for transform in found)
    before, after = np.array([transform.quality for transform in found]).T
    assert after.min() > 0.99
    assert 1 - after.mean() < 0.6 * (1 - before.mean())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 40), (40, 1)])
def test_a_side_of_one_pixel_is_refused(mode: Mode, size: Size) -> None:
    images = np.random.default_rng(0).normal(size=size) + np.random.default_rng(1).normal(0, 0.1, (10, *size))
    with pytest.raises(DataError, match=f"at least 2 pixels a side; these are {size[1]} × {size[0]}.*align = 'none'"):
        Registration.fit(images, mode)
