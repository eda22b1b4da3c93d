"""References: illumination factors in closed form, one reference a kind of image, and features of registered images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from knowngood.config import FeatureOptions
from knowngood.data.conditions import ConditionSchema
from knowngood.data.imageset import ImageSet
from knowngood.errors import ArtifactError, DataError, SettingsError
from knowngood.representations import Features, Pixels
from knowngood.representations.alignment.references import References
from knowngood.representations.illumination import Illumination, planes

SIDE = 48


class Tiny(nn.Module):
    """Means and edges over squares of 8 pixels."""

    def features(self, images: Tensor) -> list[Tensor]:
        grey = images.mean(1, keepdim=True)
        edges = [(grey - grey.roll(1, dim)).abs() for dim in (2, 3)]
        return [nn.functional.avg_pool2d(torch.cat([grey, *edges], 1), 8)]

    def fingerprint(self) -> str:
        return "tiny"


def subject(seed: int = 0, side: int = 2 * SIDE) -> np.ndarray:
    """(side, side) smooth blobs, .15 to .65."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((1, 1, side // 8, side // 8)))
    whole = nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")[0, 0].numpy()
    return 0.15 + 0.5 * (whole - whole.min()) / np.ptp(whole)


def shot(scene: np.ndarray, right: int = 0, down: int = 0) -> np.ndarray:
    """(SIDE, SIDE): the scene, moved so far to the right and down."""
    top, left = SIDE // 2 - down, SIDE // 2 - right
    return scene[top : top + SIDE, left : left + SIDE]


def parts(n: int, seed: int, of: int = 0, spread: float = 0.02) -> np.ndarray:
    """(n, SIDE, SIDE, 1) float32 of one subject with noise, with a small variation of the illumination."""
    rng = np.random.default_rng(seed)
    clean = shot(subject(of))
    found = clean * rng.normal(1, spread, (n, 1, 1)) + rng.normal(0, 0.01, (n, SIDE, SIDE))
    return found.clip(0, 1)[..., None].astype(np.float32)


def options(**more: Any) -> FeatureOptions:
    given = {"backbone": "own", "average": 1, "stride": 8, "scaling": (0, 1), "image_size": SIDE, **more}
    return FeatureOptions.model_validate(given)


def references(images: np.ndarray, product: Any = None, **more: Any) -> tuple[References, ImageSet]:
    items = ImageSet.from_arrays(images, conditions=None if product is None else {"product": product})
    chosen = options(**more)
    schema = ConditionSchema.fit(items.conditions, len(items))
    found = References.fit(items, Pixels.fit(items, chosen), chosen, schema.columns)
    assert found is not None
    return found, items


def nchw(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


# Illumination ---------------------------------------------------------------------------------------------------------


def flat(mean: np.ndarray, tolerance: float = 0.3, n: int = 5) -> Illumination:
    return Illumination.fit(np.stack([mean] * n), tolerance)


@pytest.mark.parametrize("factor", [0.05, 0.7, 1.0, 1.3])
def test_the_factor_of_the_mean_image_times_a_factor_is_that_factor(factor: float) -> None:
    mean = shot(subject())
    illumination = flat(mean)
    assert illumination.layout
    assert (illumination.low, illumination.high) == pytest.approx((0.7, 1.3))
    assert illumination.factor(factor * mean) == pytest.approx(factor, rel=1e-6)


@pytest.mark.parametrize("defect", [0.0, 0.95])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_defect_over_a_third_of_the_image_has_little_influence(defect: float, noise: float) -> None:
    mean = shot(subject())
    image = 0.8 * mean + np.random.default_rng(0).normal(0, noise, mean.shape)
    image[:16] = defect
    assert abs(image.mean() / mean.mean() / 0.8 - 1) > 0.2  # as the ratio of means sees it
    assert flat(mean).factor(image) == pytest.approx(0.8, rel=1e-6 if not noise else 0.01)


def test_cells_are_weighted_by_their_brightness() -> None:
    mean = np.repeat([[0.1], [0.9]], [30, 18], axis=0) * np.ones(48)
    image = 0.8 * mean
    image[:30] = 0  # most cells, with little of the light
    assert flat(mean).factor(image) == pytest.approx(0.8, rel=0.03)


def test_saturated_cells_are_excluded() -> None:
    mean = shot(subject())
    image = np.minimum(2.2 * mean, 1)
    assert 0.2 < (image == 1).mean() < 0.6
    assert flat(mean).factor(image) == pytest.approx(2.2, rel=1e-6)


def test_cells_that_barely_saturate_are_used() -> None:
    mean = shot(subject()) * 0.8
    mean[:30] = 0.78  # most of the image, and constant
    image = 1.3 * mean
    image[30:] *= 1.02
    assert flat(mean).factor(np.minimum(image, 1)) == pytest.approx(1 / 0.78, rel=1e-3)
    assert flat(mean).factor(np.minimum(1.2 * image, 1)) == pytest.approx(1.2 * 1.3 * 1.02, rel=1e-6)


def test_the_median_factor_is_1_and_limits_go_beyond_the_extremes() -> None:
    mean, factors = shot(subject()), np.linspace(0.5, 1.5, 101)
    illumination = Illumination.fit(factors[:, None, None] * mean * 0.6, 0.2)
    assert illumination.factor(mean * 0.6) == pytest.approx(1, rel=1e-6)
    assert (illumination.low, illumination.high) == pytest.approx((0.8 * 0.51, 1.2 * 1.49), rel=1e-6)


def test_images_that_share_no_layout_are_compared_with_a_constant() -> None:
    textures = np.random.default_rng(0).normal(0.5, 0.1, (40, 24, 24))
    illumination = Illumination.fit(textures, 0.3)
    assert not illumination.layout
    fresh = np.random.default_rng(1).normal(0.5, 0.1, (24, 24))
    assert illumination.factor(0.7 * fresh) == pytest.approx(0.7 * illumination.factor(fresh), rel=1e-6)
    assert illumination.factor(fresh) == pytest.approx(1, abs=0.03)
    marked = fresh.copy()
    marked[:5] = 0
    assert illumination.factor(marked) == pytest.approx(illumination.factor(fresh), abs=0.06)
    assert not Illumination.fit(textures[:1], 0.3).layout


def test_black_images() -> None:
    mean = shot(subject())
    assert flat(mean).factor(0 * mean) == 0
    assert flat(0 * mean).factor(mean) == 1
    black = flat(mean).corrected(torch.zeros(1, 4, 4), 0.0)
    assert black.isfinite().all()


def test_factors_are_corrected_within_the_limits_and_1_stays_the_top() -> None:
    illumination = flat(shot(subject()))
    x = torch.tensor([[[0.2, 0.5, 0.9, 1.2]]])
    assert illumination.corrected(x, 0.8).flatten().tolist() == pytest.approx([0.25, 0.625, 1, 1.2])
    assert illumination.corrected(x, 0.1).flatten().tolist() == pytest.approx([2 / 7, 5 / 7, 1, 1.2])
    assert illumination.corrected(x, 5.0).flatten().tolist() == pytest.approx([2 / 13, 5 / 13, 9 / 13, 12 / 13])


def test_a_white_ground_that_saturates_stays_white_and_a_dark_part_is_divided() -> None:
    mean = np.full((64, 64), 0.98)
    mean[20:40, 20:40] = 0.4
    illumination = flat(mean)
    brighter = torch.from_numpy(1.2 * mean).float().clamp_max(1).expand(1, 3, -1, -1)
    assert illumination.factor(planes(brighter)[0]) == pytest.approx(1.2, rel=1e-5)
    np.testing.assert_allclose(illumination.corrected(brighter[0], 1.2)[0], mean, atol=1e-6)
    stained = brighter.clone()
    stained[..., :10, :10] = 0.5  # not saturated: it stays as much darker as it is
    np.testing.assert_allclose(illumination.corrected(stained[0], 1.2)[0, :10, :10], 0.5 / 1.2, rtol=1e-6)
    white = brighter.clone()
    white[..., 25:30, 25:30] = 1  # a white spot on the dark part stays at least as bright as the division says
    np.testing.assert_allclose(illumination.corrected(white[0], 1.2)[0, 25:30, 25:30], 1 / 1.2, rtol=1e-6)


def test_planes_are_means_of_the_largest_channel() -> None:
    images = torch.rand(2, 3, 128, 96, generator=torch.Generator().manual_seed(0))
    found = planes(images)
    value = images.amax(1).double().numpy()
    assert found.shape == (2, 64, 64)
    np.testing.assert_allclose(found[:, :, ::2], value.reshape(2, 64, 2, 32, 3)[..., :2].mean((2, 4)), atol=1e-6)
    np.testing.assert_allclose(planes(images[:, :, :8, :8]), value[:, :8, :8], atol=1e-6)


# Kinds ----------------------------------------------------------------------------------------------------------------


def factors(found: References, images: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """The illumination of each image relative to the mean of its kind."""
    illuminations = [found.by_kind[kind].illumination for kind in kinds]
    return np.array([one.factor(plane) for one, plane in zip(illuminations, planes(nchw(images)), strict=True) if one])


def test_without_options_there_are_no_references() -> None:
    items = ImageSet.from_arrays(parts(3, 0))
    assert References.fit(items, Pixels.fit(items, options()), options()) is None


@pytest.mark.slow
def test_each_product_has_its_own_reference() -> None:
    images = np.concatenate([parts(12, 0), 0.4 * parts(12, 1, of=5)])
    product = np.repeat(["plate", "rod"], 12)
    found, items = references(images, product, align="shift", illumination=0.1)
    assert [reference.name for reference in found.by_kind] == ["product=plate", "product=rod"]
    kinds = found.kinds(items.conditions, len(items))
    assert kinds.tolist() == [0] * 12 + [1] * 12
    assert np.abs(factors(found, images, kinds) - 1).max() < 0.1
    assert np.abs(factors(found, images, 1 - kinds) - 1).min() > 0.2
    unknown = found.kinds({"product": np.array(["plate", None, "new"], dtype=object)}, 3)
    assert unknown.tolist() == [0, -1, -1]
    assert found.kinds({}, 2).tolist() == [-1, -1]
    left, (transform,) = found.register(nchw(images[:1]), np.array([-1]))
    assert torch.equal(left, nchw(images[:1]))
    assert not transform.accepted
    assert "is not known" in transform.reason


def test_one_reference_serves_all() -> None:
    found, items = references(parts(8, 0), illumination=0.3)
    assert found.kinds(items.conditions, 8).tolist() == [0] * 8
    single, _ = references(parts(8, 0), ["only"] * 8, illumination=0.3)
    assert single.kinds({"product": np.array(["other"])}, 1).tolist() == [0]


def test_only_categorical_columns_of_the_role_model_define_kinds() -> None:
    items = ImageSet.from_arrays(
        parts(9, 0), conditions={"line": list("abcabcabc"), "heat": np.linspace(0, 1, 9), "tool": [1.0, 2, 1] * 3}
    )
    schema = ConditionSchema.fit(items.conditions, 9, {"line": ("stratify",)})
    chosen = options(illumination=0.3)
    found = References.fit(items, Pixels.fit(items, chosen), chosen, schema.columns)
    assert found is not None
    assert [column.name for column in found.columns] == ["tool"]
    assert found.kinds({"tool": np.array(["2", "1"])}, 2).tolist() == [1, 0]


@pytest.mark.slow
def test_a_moved_and_darker_image_is_registered_and_corrected() -> None:
    scene = subject()
    normal = np.stack([shot(scene)] * 6)[..., None].astype(np.float32)
    found, _ = references(normal, align="shift", illumination=0.3)
    away = 0.75 * shot(scene, right=3, down=-4)[None, ..., None].astype(np.float32)
    registered, (transform,) = found.register(nchw(away), np.zeros(1, np.int64))
    assert transform.centred[:, 2] == pytest.approx((3, -4), abs=0.1)
    np.testing.assert_allclose(registered[0, 0, 6:-6, 6:-6], normal[0, 6:-6, 6:-6, 0], atol=0.03)


@pytest.mark.slow
def test_references_survive_as_json_and_tensors() -> None:
    images = np.concatenate([parts(8, 0), parts(8, 1, of=5)])
    product = np.repeat(["plate", "rod"], 8)
    found, items = references(images, product, align="affine", illumination=0.2)
    tensors = found.state()
    assert set(tensors) == {"0.reference", "0.illumination", "1.reference", "1.illumination"}
    back = References.model_validate_json(found.model_dump_json()).with_state(tensors)
    kinds = found.kinds(items.conditions, 16)
    before, after = (each.register(nchw(images) * 0.9, kinds) for each in (found, back))
    assert torch.equal(before[0], after[0])
    with pytest.raises(ArtifactError, match="illumination"):
        back.with_state({name: t for name, t in tensors.items() if name != "1.illumination"})
    with pytest.raises(ArtifactError, match="the mean illumination is missing"):
        References.model_validate_json(found.model_dump_json()).by_kind[0].illumination.factor(images[0])  # type: ignore[union-attr]


@pytest.mark.slow
def test_errors_name_the_kind() -> None:
    noise = np.random.default_rng(0).random((8, SIDE, SIDE, 1)).astype(np.float32)
    with pytest.raises(DataError, match=r"product=rod: alignment by shift: only \d of 8"):
        references(np.concatenate([parts(8, 0), noise]), np.repeat(["plate", "rod"], 8), align="shift")
    with pytest.raises(SettingsError, match="0 is black"):
        references(parts(8, 0), illumination=0.3, scaling=(0.1, 1))


# Features -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_features_of_each_image_are_its_own_however_it_comes() -> None:
    images = np.concatenate([parts(9, 0), 0.5 * parts(9, 1, of=5)])
    product = np.repeat(["plate", "rod"], 9)
    items = ImageSet.from_arrays(images, conditions={"product": product})
    chosen = options(align="shift", illumination=0.3)
    columns = ConditionSchema.fit(items.conditions, 18).columns
    features = Features.fit(items, chosen, Tiny(), columns)
    dark = ImageSet.from_arrays(0.8 * np.roll(images, 2, axis=2), conditions={"product": product})
    together, errors = features.read(dark)
    assert not errors
    some, _ = features.read(dark, np.array([12, 3]))
    np.testing.assert_array_equal(some, together[[12, 3]])
    for i in (3, 12):
        alone, _ = features.read(dark, np.array([i]))
        np.testing.assert_array_equal(alone[0], together[i])
    found = features.transforms(dark, np.array([12, 3, 4]))
    assert np.array([one.centred[:, 2] for one in found]) == pytest.approx(np.array([(2, 0)] * 3), abs=0.3)
    mean, _ = features.read(items)
    middle = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    spread = np.abs(mean - mean.mean(axis=0)).max()
    assert np.abs(together[middle] - mean[middle]).max() < 0.1 * spread
    back = Features.model_validate_json(features.model_dump_json()).with_state(features.state())
    np.testing.assert_array_equal(back.with_backbone(Tiny()).read(dark)[0], together)


@pytest.mark.slow
def test_unreadable_images_have_no_transform() -> None:
    images = parts(6, 0)
    features = Features.fit(ImageSet.from_arrays(images), options(align="shift", illumination=0.3), Tiny())
    images[2, 0, 0] = np.nan
    broken = ImageSet.from_arrays(images)
    _, errors = features.read(broken)
    assert list(errors) == [2]
    transforms = features.transforms(broken)
    assert [one.accepted for one in transforms] == [i != 2 for i in range(6)]
    assert transforms[2].reason == errors[2]


def test_without_references_transforms_are_the_identity() -> None:
    items = ImageSet.from_arrays(parts(4, 0))
    features = Features.fit(items, options(), Tiny())
    assert features.state() == {}
    assert all(one.identity and one.accepted for one in features.transforms(items))


def test_a_map_comes_back_to_the_position_of_the_image() -> None:
    scene = subject()
    normal = np.stack([shot(scene)] * 4)[..., None].astype(np.float32)
    features = Features.fit(ImageSet.from_arrays(normal), options(align="shift"), Tiny())
    moved = ImageSet.from_arrays(shot(scene, right=4, down=4)[None, ..., None].astype(np.float32))
    (transform,) = features.transforms(moved)
    map = np.full((6, 6), -3.0)
    map[2, 3] = 5
    there, here = features.to_image(map, (48, 48)), features.to_image(map, (48, 48), transform)
    np.testing.assert_allclose(here[4:, 4:], there[:-4, :-4], atol=0.3)
    assert here[:3].max() == here.min() == -3  # what the reference does not show is not anomalous
    both = features.to_image(np.stack([map, map]), (96, 48), transform)
    assert both.shape == (2, 96, 48)
    np.testing.assert_allclose(both[1, ::2], here, atol=1.5)
