"""Pose: a part is found wherever and in whichever direction it lies, and its map finds the way back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from knowngood.config import FeatureOptions
from knowngood.data import ImageSet
from knowngood.data.pose.foreground import foreground
from knowngood.data.pose.part import unposed
from knowngood.errors import ArtifactError, DataError
from knowngood.representations import Features
from knowngood.representations.alignment.pose import Pose, area_for, crop_size
from posed_parts import SIDE, lying, part

pytestmark = pytest.mark.slow  # fitting models, serving and exporting take seconds

AREA = 96 * 96
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def pose() -> Pose:
    fitted = Pose.fit(ImageSet.from_arrays(lying(24)[0]), area=AREA)
    assert fitted is not None
    return fitted


def turn_of(matrix: np.ndarray) -> float:
    return float(np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])))


def test_rotation_and_position_are_found_over_all_directions_head_and_tail_told_apart(pose: Pose) -> None:
    images, turns, centres = lying(40, seed=1)
    found = [pose.locate(image) for image in images]
    off = np.array([turn_of(one.matrix) for one in found]) - turns
    off = (off - off[0] + 180) % 360 - 180
    assert np.ptp(off) < 2.5  # the same direction but for a constant: none is upside down
    middle = np.array([(pose.size[1] - 1) / 2, (pose.size[0] - 1) / 2, 1.0])
    own = []  # the crop's middle in the coordinates of the part
    for one, turn, centre in zip(found, turns, centres, strict=True):
        right, down = one.matrix @ middle - centre
        angle = np.deg2rad(turn)
        own.append((right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)))
    assert np.ptp(np.array(own), axis=0).max() < 2.0
    assert all(one.accepted for one in found)


def test_normalised_pictures_are_alike_and_the_part_fills_them(pose: Pose) -> None:
    images, _, _ = lying(12, seed=2, noise=0)
    pictures = np.stack([pose.normalised(image, pose.locate(image)) for image in images]).astype(float)
    assert pictures.shape == (12, *pose.size, 3)
    assert np.abs(pictures - np.median(pictures, axis=0)).mean() < 3  # of 255
    height, width = pose.size
    assert max(height, width) >= 1.5 * min(height, width)  # the part is long, and so is the crop, along its axis
    part_of = (np.median(pictures, axis=0)[..., 0] > 60).mean()
    assert part_of > 0.35


def test_a_part_is_found_by_its_outline_when_the_light_falls_from_another_side() -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    corners, images = rng.integers(24, 46, (24, 2)), np.full((24, SIDE, SIDE, 3), 30.0)
    for image, (top, left), side in zip(images, corners, rng.uniform(-1, 1, 24), strict=True):
        plate = (y >= top) & (y < top + 50) & (x >= left) & (x < left + 50)
        image[plate] = (140 + 80 * side * (x[plate] - left - 25) / 25)[:, None]  # dark on the left, or on the right
    noisy = (images + rng.normal(0, 2, images.shape)).clip(0, 255).astype(np.uint8)
    pose = Pose.fit(ImageSet.from_arrays(noisy), area=AREA)
    assert pose is not None
    middle = np.array([(pose.size[1] - 1) / 2, (pose.size[0] - 1) / 2, 1.0])
    found = np.array([pose.locate(image).matrix @ middle for image in noisy]) - corners[:, ::-1]
    assert np.ptp(found, axis=0).max() < 2.0


def test_a_part_that_touches_the_border_is_found(pose: Pose) -> None:
    for turn, centre in ((0.0, (23.0, 60.0)), (90.0, (60.0, 23.0))):
        image = part(turn, centre)
        assert not foreground(image).area  # normal parts are learned from pictures that show all of them
        posed, inside = pose.locate(image), pose.locate(part(turn))
        assert posed.accepted
        assert np.abs(posed.matrix[:, 2] - inside.matrix[:, 2] - (np.array(centre) - 60)).max() < 1.5


def test_a_defect_changes_neither_position_nor_direction_much(pose: Pose) -> None:
    for turn, centre in ((20.0, (50.0, 66.0)), (200.0, (70.0, 55.0))):
        good, bad = (pose.locate(part(turn, centre, defect=defect)) for defect in (False, True))
        assert np.abs(good.matrix @ np.array([40, 20, 1.0]) - bad.matrix @ np.array([40, 20, 1.0])).max() < 1.0


def test_maps_go_back_to_where_the_part_lay(pose: Pose) -> None:
    image = part(130.0, (70.0, 50.0), defect=True)
    posed = pose.locate(image)
    marked = np.abs(pose.normalised(image, posed).astype(float) - pose.normalised(part(130.0, (70.0, 50.0)), posed))
    back = unposed(marked[..., 0].astype(np.float32), posed, (SIDE, SIDE))
    real = np.abs(image.astype(float) - part(130.0, (70.0, 50.0)))[..., 0]
    overlap = np.minimum(back, real).sum() / np.maximum(back, real).sum()
    assert overlap > 0.7
    assert back[0, 0] == 0  # outside of the picture


def test_auto_normalises_parts_that_lie_anywhere_and_leaves_those_in_one_position() -> None:
    there = np.stack([part(10.0) for _ in range(12)]) + RNG.integers(0, 4, (12, SIDE, SIDE, 1))
    assert Pose.fit(ImageSet.from_arrays(there.astype(np.uint8)), area=AREA, needed=False) is None
    anywhere = ImageSet.from_arrays(lying(12)[0])
    assert Pose.fit(anywhere, area=AREA, needed=False) is not None
    texture = ImageSet.from_arrays(RNG.integers(0, 256, (12, SIDE, SIDE, 3)).astype(np.uint8))
    assert Pose.fit(texture, area=AREA, needed=False) is None
    with pytest.raises(DataError, match="one part of the same kind on a plain background; 0 of 12"):
        Pose.fit(texture, area=AREA)


def test_auto_leaves_pictures_of_several_parts_whole() -> None:
    first, second = lying(12)[0], lying(12, seed=1)[0][:, :, ::-1]
    pairs = ImageSet.from_arrays(np.concatenate([first, second], axis=2))
    assert Pose.fit(ImageSet.from_arrays(first), area=AREA, needed=False) is not None
    assert 0.4 < foreground(pairs.read(0)).share < 0.6
    assert Pose.fit(pairs, area=AREA, needed=False) is None


def plates(n: int, *, turned: bool) -> np.ndarray:
    """(n, SIDE, SIDE, 1) square plates that differ in stripes, on a dark ground: each of four directions fits."""
    rng = np.random.default_rng(6)
    images = np.full((n, SIDE, SIDE), 20.0)
    for image in images:
        wide = SIDE // 3
        row, column = (int(at) for at in rng.integers(16, SIDE - wide - 16, 2))
        image[row : row + wide, column : column + wide] = 90 + rng.normal(0, 12, wide)
        if turned:
            angle = float(rng.uniform(0, 360))
            image[:] = np.asarray(Image.fromarray(image.astype(np.float32)).rotate(angle, fillcolor=20))
    return (images + rng.normal(0, 2, images.shape)).round().clip(0, 255).astype(np.uint8)[..., None]


def test_upright_parts_that_fit_in_several_directions_are_not_turned() -> None:
    upright = Pose.fit(ImageSet.from_arrays(plates(16, turned=False)), area=AREA)
    assert upright is not None
    assert upright.turns == (0.0, 0.0)
    for image in plates(16, turned=False):
        assert turn_of(upright.locate(image).matrix) == 0


def test_a_square_part_that_lies_in_any_direction_fills_its_crop() -> None:
    images = plates(16, turned=True)
    pose = Pose.fit(ImageSet.from_arrays(images), area=AREA)
    assert pose is not None
    assert pose.turns[1] > 90
    pictures = np.stack([pose.normalised(image, pose.locate(image)) for image in images])
    assert (np.median(pictures, axis=0) > 50).mean() > 0.75  # 1 / 1.12², less a little that no two share


def test_directions_that_no_normal_part_has_are_not_undone() -> None:
    rng = np.random.default_rng(4)
    turns, centres = rng.uniform(-15, 15, 20), rng.uniform(42, SIDE - 42, (20, 2))
    images = np.stack([part(turn, tuple(centre)) for turn, centre in zip(turns, centres, strict=True)])
    pose = Pose.fit(ImageSet.from_arrays(images), area=AREA)
    assert pose is not None
    assert pose.turns[1] < 30
    upright, upside_down = pose.locate(part(8.0, (52.0, 66.0))), pose.locate(part(188.0, (52.0, 66.0)))
    assert upright.quality.after > 0.95
    assert upside_down.quality.after < upright.quality.after - 0.1
    assert abs(turn_of(upside_down.matrix) - turn_of(upright.matrix)) < 45  # it stays upside down in the picture


def test_a_symmetric_part_is_brought_to_one_of_its_equal_directions() -> None:
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)

    def cross(turn: float, cx: float, cy: float) -> np.ndarray:
        radius, angle = np.hypot(x - cx, y - cy), np.arctan2(y - cy, x - cx) - np.deg2rad(turn)
        return np.repeat((30 + 150 * np.clip(22 + 8 * np.cos(4 * angle) - radius, 0, 1))[..., None], 3, 2).astype(
            np.uint8
        )

    rng = np.random.default_rng(3)
    images = np.stack([cross(rng.uniform(0, 360), *rng.uniform(45, 75, 2)) for _ in range(16)])
    pose = Pose.fit(ImageSet.from_arrays(images), area=AREA)
    assert pose is not None
    pictures = np.stack([pose.normalised(image, pose.locate(image)) for image in images]).astype(float)
    assert np.abs(pictures - np.median(pictures, axis=0)).mean() < 6


def test_pictures_without_such_a_part_are_named(pose: Pose) -> None:
    plain = np.full((SIDE, SIDE, 3), 30, np.uint8)
    assert pose.locate(plain).reason == "no part stands out against the background"
    y, x = np.mgrid[:SIDE, :SIDE]
    stripe = np.where((np.abs(x - 60) < 40) & (np.abs(y - 60) < 40) & (x // 6 % 2 == 0), 180, 30)
    other = pose.locate(np.repeat(stripe[..., None], 3, axis=2).astype(np.uint8))
    assert not other.accepted
    assert other.reason == "what stands out does not look like the normal parts"


@pytest.mark.parametrize("size", [(300, 200), (90, 160)])
def test_images_of_any_size_and_type(pose: Pose, size: tuple[int, int]) -> None:
    centre = (size[1] / 2 + 4, size[0] / 2 - 3)
    expected = pose.normalised(part(), pose.locate(part())).astype(float)
    for dtype, factor in ((np.uint8, 1), (np.uint16, 1), (np.float32, 255)):
        image = part(40.0, centre, size=size, dtype=dtype)
        picture = pose.normalised(image, pose.locate(image))
        assert picture.dtype == dtype
        assert np.abs(picture.astype(float) * factor - expected).mean() < 5


def test_saved_and_loaded(pose: Pose) -> None:
    again = Pose.model_validate_json(json.dumps(pose.model_dump(mode="json"))).with_state(pose.state())
    image = lying(1, seed=5)[0][0]
    np.testing.assert_array_equal(again.locate(image).matrix, pose.locate(image).matrix)
    with pytest.raises(ArtifactError, match="mean part"):
        again.with_state({})


def test_foreground_ignores_what_is_small_and_what_fills_or_leaves_the_picture() -> None:
    image = part(0.0, (70.0, 50.0))
    image[4:7, 90:93] = 200
    seen = foreground(image)
    np.testing.assert_allclose(seen.centre, foreground(part(0.0, (70.0, 50.0))).centre, atol=0.1)
    cut = part(0.0, (4.0, 60.0))
    assert foreground(cut).area == 0
    whole = np.full((SIDE, SIDE, 3), 20, np.uint8)
    whole[5:-5, 5:-5] = 200
    assert foreground(whole).area == 0


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(500, 1260, (256, 608)), (100, 100, (288, 288)), (1000, 10, (3008, 32))]
)
def test_crops_keep_the_aspect_and_enlarge_little(height: float, width: float, expected: tuple[int, int]) -> None:
    assert crop_size(height, width, 384 * 384) == expected


def test_a_crop_has_the_pixels_of_its_part_from_384_to_512_squared() -> None:
    areas = [area_for(side**2) for side in (100, 384, 450, 900)]
    assert areas == [384**2, 384**2, 450**2, 512**2]


# In the representation ----------------------------------------------------------------------------------------------


class Means(nn.Module):
    def features(self, images: Tensor) -> list[Tensor]:
        return [nn.functional.avg_pool2d(images, 4)]

    def fingerprint(self) -> str:
        return "means"


def test_features_see_normalised_parts_and_maps_lie_on_the_image() -> None:
    images, _, _ = lying(16)
    options = FeatureOptions.model_validate({"backbone": "own", "image_size": 96, "stride": 4, "average": 1})
    fitted = Features.fit(ImageSet.from_arrays(images), options, Means())
    assert fitted.options.align == "pose"
    good, bad = part(75.0, (66.0, 52.0)), part(75.0, (66.0, 52.0), defect=True)
    values, errors, transforms = fitted.read_and_locate(ImageSet.from_arrays(np.stack([good, bad])))
    assert errors == {}
    tensors = {name: tensor.clone() for name, tensor in fitted.state().items()}
    again = Features.model_validate_json(fitted.model_dump_json()).with_state(tensors).with_backbone(Means())
    np.testing.assert_array_equal(again.read(ImageSet.from_arrays(bad[None]))[0], values[1:])
    difference = np.abs(values[1] - values[0]).sum(axis=0).astype(np.float32)
    whole = fitted.to_image(difference, bad.shape, transforms[1])
    assert whole.shape == (SIDE, SIDE)
    real = np.abs(bad.astype(float) - good)[..., 0]
    y, x = np.unravel_index(int(whole.argmax()), whole.shape)
    assert real[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5].max() > 50


def test_images_that_are_not_finite_are_set_aside() -> None:
    images = lying(12)[0].astype(np.float32) / 255
    options = FeatureOptions.model_validate({"backbone": "own", "align": "pose", "image_size": 96, "stride": 8})
    fitted = Features.fit(ImageSet.from_arrays(images), options, Means())
    images[1, 5, 5] = np.nan
    values, errors, transforms = fitted.read_and_locate(ImageSet.from_arrays(images[:3]))
    assert list(errors) == [1]
    assert "NaN" in errors[1]
    assert len(transforms) == 3
    assert torch.from_numpy(values.astype(np.float32)).isfinite().all()
