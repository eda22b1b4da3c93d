"""The usual place and light: factors in closed form, kinds of image apart, and a detector on features as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from knowngood.representations.alignment.steadied import Steadied
from torch import Tensor, nn

from benchmarks import inspection_light
from benchmarks.inspection_data import InspectionSet
from knowngood import Detector
from knowngood.config import parse_settings
from knowngood.data.conditions import ConditionSchema
from knowngood.data.imageset import ImageSet
from knowngood.errors import ArtifactError, DataError, SettingsError
from knowngood.representations import Features, Pixels
from knowngood.representations.illumination import Light, planes

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
    """(SIDE, SIDE): the scene lies so far to the right and below its place in the middle."""
    top, left = SIDE // 2 - down, SIDE // 2 - right
    return scene[top : top + SIDE, left : left + SIDE]


def parts(n: int, seed: int, of: int = 0, spread: float = 0.02) -> np.ndarray:
    """(n, SIDE, SIDE, 1) float32 of one subject with noise, in light that varies a little."""
    rng = np.random.default_rng(seed)
    clean = shot(subject(of))
    found = clean * rng.normal(1, spread, (n, 1, 1)) + rng.normal(0, 0.01, (n, SIDE, SIDE))
    return found.clip(0, 1)[..., None].astype(np.float32)


def settings(**more: Any) -> Any:
    own = {"name": "own", "average": 1, "stride": 8}
    return parse_settings({"features": own, "scaling": (0, 1), "image_size": SIDE, **more})


def steadied(images: np.ndarray, product: Any = None, **more: Any) -> tuple[Steadied, ImageSet]:
    items = ImageSet.from_arrays(images, conditions=None if product is None else {"product": product})
    chosen = settings(**more)
    schema = ConditionSchema.fit(items.conditions, len(items))
    found = Steadied.fit(items, Pixels.fit(items, chosen), chosen, schema.columns)
    assert found is not None
    return found, items


def nchw(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


# Light ----------------------------------------------------------------------------------------------------------------


def flat_light(usual: np.ndarray, tolerance: float = 0.3, n: int = 5) -> Light:
    return Light.fit(np.stack([usual] * n), tolerance)


@pytest.mark.parametrize("factor", [0.05, 0.7, 1.0, 1.3])
def test_the_factor_of_the_usual_image_in_other_light_is_that_of_the_light(factor: float) -> None:
    usual = shot(subject())
    light = flat_light(usual)
    assert light.layout
    assert (light.low, light.high) == pytest.approx((0.7, 1.3))
    assert light.factor(factor * usual) == pytest.approx(factor, rel=1e-6)


@pytest.mark.parametrize("defect", [0.0, 0.95])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_defect_over_a_third_of_the_image_hardly_counts(defect: float, noise: float) -> None:
    usual = shot(subject())
    image = 0.8 * usual + np.random.default_rng(0).normal(0, noise, usual.shape)
    image[:16] = defect
    assert abs(image.mean() / usual.mean() / 0.8 - 1) > 0.2  # as the ratio of means sees it
    assert flat_light(usual).factor(image) == pytest.approx(0.8, rel=1e-6 if not noise else 0.01)


def test_cells_count_by_their_light_not_by_their_number() -> None:
    usual = np.repeat([[0.1], [0.9]], [30, 18], axis=0) * np.ones(48)
    image = 0.8 * usual
    image[:30] = 0  # most cells, with little of the light
    assert flat_light(usual).factor(image) == pytest.approx(0.8, rel=0.03)


def test_what_is_saturated_has_no_say() -> None:
    usual = shot(subject())
    image = np.minimum(2.2 * usual, 1)
    assert 0.2 < (image == 1).mean() < 0.6
    assert flat_light(usual).factor(image) == pytest.approx(2.2, rel=1e-6)


def test_cells_that_barely_saturate_keep_their_say() -> None:
    usual = shot(subject()) * 0.8
    usual[:30] = 0.78  # most of the image, and steady
    image = 1.3 * usual
    image[30:] *= 1.02
    assert flat_light(usual).factor(np.minimum(image, 1)) == pytest.approx(1 / 0.78, rel=1e-3)
    assert flat_light(usual).factor(np.minimum(1.2 * image, 1)) == pytest.approx(1.2 * 1.3 * 1.02, rel=1e-6)


def test_half_the_images_are_lighter_than_the_usual_one_and_limits_go_beyond_the_extremes() -> None:
    usual, factors = shot(subject()), np.linspace(0.5, 1.5, 101)
    light = Light.fit(factors[:, None, None] * usual * 0.6, 0.2)
    assert light.factor(usual * 0.6) == pytest.approx(1, rel=1e-6)
    assert (light.low, light.high) == pytest.approx((0.8 * 0.51, 1.2 * 1.49), rel=1e-6)


def test_images_that_share_no_layout_are_compared_with_a_constant() -> None:
    textures = np.random.default_rng(0).normal(0.5, 0.1, (40, 24, 24))
    light = Light.fit(textures, 0.3)
    assert not light.layout
    fresh = np.random.default_rng(1).normal(0.5, 0.1, (24, 24))
    assert light.factor(0.7 * fresh) == pytest.approx(0.7 * light.factor(fresh), rel=1e-6)
    assert light.factor(fresh) == pytest.approx(1, abs=0.03)
    marked = fresh.copy()
    marked[:5] = 0
    assert light.factor(marked) == pytest.approx(light.factor(fresh), abs=0.06)
    assert not Light.fit(textures[:1], 0.3).layout


def test_black_images() -> None:
    usual = shot(subject())
    assert flat_light(usual).factor(0 * usual) == 0
    assert flat_light(0 * usual).factor(usual) == 1
    black = flat_light(usual).undone(torch.zeros(1, 4, 4), 0.0)
    assert black.isfinite().all()


def test_light_is_undone_up_to_the_limits_and_1_stays_the_top() -> None:
    light = flat_light(shot(subject()))
    x = torch.tensor([[[0.2, 0.5, 0.9, 1.2]]])
    assert light.undone(x, 0.8).flatten().tolist() == pytest.approx([0.25, 0.625, 1, 1.2])
    assert light.undone(x, 0.1).flatten().tolist() == pytest.approx([2 / 7, 5 / 7, 1, 1.2])
    assert light.undone(x, 5.0).flatten().tolist() == pytest.approx([2 / 13, 5 / 13, 9 / 13, 12 / 13])


def test_planes_are_means_of_the_largest_channel() -> None:
    images = torch.rand(2, 3, 128, 96, generator=torch.Generator().manual_seed(0))
    found = planes(images)
    value = images.amax(1).double().numpy()
    assert found.shape == (2, 64, 64)
    np.testing.assert_allclose(found[:, :, ::2], value.reshape(2, 64, 2, 32, 3)[..., :2].mean((2, 4)), atol=1e-6)
    np.testing.assert_allclose(planes(images[:, :, :8, :8]), value[:, :8, :8], atol=1e-6)


# Kinds ----------------------------------------------------------------------------------------------------------------


def test_nothing_is_fitted_where_nothing_is_set() -> None:
    items = ImageSet.from_arrays(parts(3, 0))
    assert Steadied.fit(items, Pixels.fit(items, settings()), settings()) is None


def test_each_product_has_its_own_light_and_place() -> None:
    images = np.concatenate([parts(12, 0), 0.4 * parts(12, 1, of=5)])
    product = np.repeat(["plate", "rod"], 12)
    found, items = steadied(images, product, align="shift", light_tolerance=0.1)
    assert [reference.name for reference in found.references] == ["product=plate", "product=rod"]
    kinds = found.kinds(items.conditions, len(items))
    assert kinds.tolist() == [0] * 12 + [1] * 12
    assert np.abs(found.steady(nchw(images), kinds).factors - 1).max() < 0.1
    wrong = found.steady(nchw(images), 1 - kinds)
    assert np.abs(wrong.factors - 1).min() > 0.2
    unknown = found.kinds({"product": np.array(["plate", None, "new"], dtype=object)}, 3)
    assert unknown.tolist() == [0, -1, -1]
    assert found.kinds({}, 2).tolist() == [-1, -1]
    left = found.steady(nchw(images[:1]), np.array([-1]))
    assert torch.equal(left.images, nchw(images[:1]))
    assert np.isnan(left.factors).all()
    assert not left.transforms[0].accepted
    assert "is not known" in left.transforms[0].reason


def test_one_reference_serves_all() -> None:
    found, items = steadied(parts(8, 0), light_tolerance=0.3)
    assert found.kinds(items.conditions, 8).tolist() == [0] * 8
    single, _ = steadied(parts(8, 0), ["only"] * 8, light_tolerance=0.3)
    assert single.kinds({"product": np.array(["other"])}, 1).tolist() == [0]


def test_columns_that_the_nets_do_not_see_and_measured_ones_tell_no_kinds_apart() -> None:
    items = ImageSet.from_arrays(
        parts(9, 0), conditions={"line": list("abcabcabc"), "heat": np.linspace(0, 1, 9), "tool": [1.0, 2, 1] * 3}
    )
    schema = ConditionSchema.fit(items.conditions, 9, {"line": ("stratify",)})
    chosen = settings(light_tolerance=0.3)
    found = Steadied.fit(items, Pixels.fit(items, chosen), chosen, schema.columns)
    assert found is not None
    assert [column.name for column in found.columns] == ["tool"]
    assert found.kinds({"tool": np.array(["2", "1"])}, 2).tolist() == [1, 0]


def test_an_image_that_moved_in_the_dark_comes_back() -> None:
    scene = subject()
    good = np.stack([shot(scene)] * 6)[..., None].astype(np.float32)
    found, _ = steadied(good, align="shift", light_tolerance=0.3)
    away = 0.75 * shot(scene, right=3, down=-4)[None, ..., None].astype(np.float32)
    steady = found.steady(nchw(away), np.zeros(1, np.int64))
    assert steady.transforms[0].shift == pytest.approx((3, -4), abs=0.1)
    assert steady.factors == pytest.approx([0.75], abs=0.01)
    np.testing.assert_allclose(steady.images[0, 0, 6:-6, 6:-6], good[0, 6:-6, 6:-6, 0], atol=0.03)


def test_references_survive_as_json_and_tensors() -> None:
    images = np.concatenate([parts(8, 0), parts(8, 1, of=5)])
    product = np.repeat(["plate", "rod"], 8)
    found, items = steadied(images, product, align="affine", light_tolerance=0.2)
    tensors = found.tensors()
    assert set(tensors) == {"0.reference", "0.light", "1.reference", "1.light"}
    back = Steadied.model_validate_json(found.model_dump_json()).with_tensors(tensors)
    kinds = found.kinds(items.conditions, 16)
    before, after = (each.steady(nchw(images) * 0.9, kinds) for each in (found, back))
    assert torch.equal(before.images, after.images)
    np.testing.assert_array_equal(before.factors, after.factors)
    with pytest.raises(ArtifactError, match="light_tolerance"):
        back.with_tensors({name: t for name, t in tensors.items() if name != "1.light"})
    with pytest.raises(ArtifactError, match="the usual light is missing"):
        Steadied.model_validate_json(found.model_dump_json()).references[0].light.factor(images[0])  # type: ignore[union-attr]


def test_what_cannot_be_is_refused_by_its_kind() -> None:
    noise = np.random.default_rng(0).random((8, SIDE, SIDE, 1)).astype(np.float32)
    with pytest.raises(DataError, match=r"product=rod: alignment by shift: only \d of 8"):
        steadied(np.concatenate([parts(8, 0), noise]), np.repeat(["plate", "rod"], 8), align="shift")
    with pytest.raises(SettingsError, match="0 is no light"):
        steadied(parts(8, 0), light_tolerance=0.3, scaling=(0.1, 1))
    with pytest.raises(SettingsError, match="align = 'rigid' goes with features"):
        Detector(align="rigid").fit(parts(30, 0))
    with pytest.raises(SettingsError, match=r"light_tolerance = 0\.3 changes the brightness"):
        detector(light_tolerance=0.3, measure=("brightness",)).fit(parts(60, 0), backbone=Tiny())


# Features -------------------------------------------------------------------------------------------------------------


def test_features_of_each_image_are_its_own_however_it_comes() -> None:
    images = np.concatenate([parts(9, 0), 0.5 * parts(9, 1, of=5)])
    product = np.repeat(["plate", "rod"], 9)
    items = ImageSet.from_arrays(images, conditions={"product": product})
    chosen = settings(align="shift", light_tolerance=0.3)
    columns = ConditionSchema.fit(items.conditions, 18).columns
    features = Features.fit(items, chosen, Tiny(), columns)
    dark = ImageSet.from_arrays(0.8 * np.roll(images, 2, axis=2), conditions={"product": product})
    together, errors = features.read(dark)
    assert not errors
    some, _ = features.read(dark, np.array([12, 3]))
    np.testing.assert_array_equal(some, together[[12, 3]])
    for i in (3, 12):
        alone = features.prepare(dark.read(i), {"product": product[i]})
        np.testing.assert_array_equal(alone, together[i])
    np.testing.assert_allclose(features.light(dark)[[3, 12]], features.light(dark, np.array([3, 12])))
    found = features.transforms(dark, np.array([12, 3, 4]))
    assert np.array([one.shift for one in found]) == pytest.approx(np.array([(2, 0)] * 3), abs=0.3)
    assert (features.light_limits(dark, np.array([3, 12]))[:, 0] < 0.7).all()
    usual, _ = features.read(items)
    middle = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    spread = np.abs(usual - usual.mean(axis=0)).max()
    assert np.abs(together[middle] - usual[middle]).max() < 0.1 * spread
    back = Features.model_validate_json(features.model_dump_json()).with_tensors(features.tensors())
    np.testing.assert_array_equal(back.with_backbone(Tiny()).read(dark)[0], together)


def test_images_that_cannot_be_read_lay_nowhere() -> None:
    images = parts(6, 0)
    features = Features.fit(ImageSet.from_arrays(images), settings(align="shift", light_tolerance=0.3), Tiny())
    images[2, 0, 0] = np.nan
    broken = ImageSet.from_arrays(images)
    _, errors = features.read(broken)
    assert list(errors) == [2]
    light, lay = features.light(broken), features.transforms(broken)
    assert np.isnan(light).tolist() == [i == 2 for i in range(6)]
    assert [one.accepted for one in lay] == [i != 2 for i in range(6)]
    assert lay[2].reason == errors[2]


def test_without_either_nothing_was_moved_and_the_light_is_not_known() -> None:
    items = ImageSet.from_arrays(parts(4, 0))
    features = Features.fit(items, settings(), Tiny())
    assert features.tensors() == {}
    assert all(one.identity and one.accepted for one in features.transforms(items))
    assert np.isnan(features.light(items)).all()
    assert np.isnan(features.light_limits(items)).all()


def test_a_map_comes_back_where_the_image_lay() -> None:
    scene = subject()
    good = np.stack([shot(scene)] * 4)[..., None].astype(np.float32)
    features = Features.fit(ImageSet.from_arrays(good), settings(align="shift"), Tiny())
    moved = ImageSet.from_arrays(shot(scene, right=4, down=4)[None, ..., None].astype(np.float32))
    (transform,) = features.transforms(moved)
    map = np.full((6, 6), -3.0)
    map[2, 3] = 5
    there, here = features.restore(map, (48, 48)), features.restore(map, (48, 48), transform)
    np.testing.assert_allclose(here[4:, 4:], there[:-4, :-4], atol=0.3)
    assert here[:3].max() == here.min() == -3  # what the reference does not show is not odd
    both = features.restore(np.stack([map, map]), (96, 48), transform)
    assert both.shape == (2, 96, 48)
    np.testing.assert_allclose(both[1, ::2], here, atol=1.5)


# The whole ------------------------------------------------------------------------------------------------------------


def detector(**more: Any) -> Detector:
    features = {"name": "own", "average": 1, "stride": 8, "levels": "off", "pooling": "max"}
    quick = {"epochs": 2, "alpha": 0.1, "latent_dim": 2, "net": {"name": "mlp", "hidden": (16,)}, "device": "cpu"}
    return Detector(features=features, scaling=(0, 1), image_size=SIDE, **quick, **more)


@pytest.fixture(scope="module")
def fitted() -> dict[float | None, Detector]:
    return {t: detector(light_tolerance=t).fit(parts(120, 0), backbone=Tiny()) for t in (None, 0.3)}


def test_a_darker_image_scores_as_it_would_only_with_the_light_undone(fitted: dict[float | None, Detector]) -> None:
    fresh = parts(40, 7)
    for tolerance, steady in ((None, False), (0.3, True)):
        before, after = (fitted[tolerance].score_samples(factor * fresh) for factor in (1, 0.75))
        change = np.abs(after - before).mean() / before.std()
        assert change < 0.05 if steady else change > 5
        flagged = (fitted[tolerance].predict(1.25 * fresh) == -1).mean()
        assert flagged < 0.2 if steady else flagged == 1


def test_beyond_the_tolerance_the_rest_shows(fitted: dict[float | None, Detector]) -> None:
    fresh = parts(40, 7)
    assert (fitted[0.3].predict(0.4 * fresh) == -1).all()
    light = fitted[0.3].pipeline_.representation.light(ImageSet.from_arrays(0.4 * fresh))  # type: ignore[union-attr]
    np.testing.assert_allclose(light, 0.4, atol=0.05)


def test_a_dark_spot_still_shows(fitted: dict[float | None, Detector]) -> None:
    spotted = 0.8 * parts(20, 7)
    spotted[:, 16:24, 24:32] *= 0.4
    assert (fitted[0.3].predict(spotted) == -1).all()
    for map in fitted[0.3].anomaly_maps(spotted):
        row, column = np.unravel_index(map.argmax(), map.shape)
        assert 16 <= row < 24
        assert 24 <= column < 32


def test_saved_and_loaded_it_says_the_same(fitted: dict[float | None, Detector], tmp_path: Path) -> None:
    fresh = 0.8 * parts(10, 7)
    fitted[0.3].save(tmp_path / "model")
    loaded = Detector.load(tmp_path / "model", backbone=Tiny())
    np.testing.assert_array_equal(loaded.score_samples(fresh), fitted[0.3].score_samples(fresh))


def test_the_spot_on_a_moved_image_is_marked_where_it_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    scene = subject()
    good = np.stack([shot(scene, *rng.integers(-2, 3, 2)) for _ in range(60)])[..., None]
    good = (good + rng.normal(0, 0.01, good.shape)).clip(0, 1).astype(np.float32)
    kinds = np.array(["plate"] * 60)
    found = detector(align="shift").fit(good, backbone=Tiny(), conditions={"product": kinds})
    scene[40:48, 48:56] = 0.0  # rows 16 to 23, columns 24 to 31 of an image in the middle
    moved = np.stack([shot(scene, 4, -4), shot(scene)])[..., None].astype(np.float32)
    assert (found.predict(moved) == -1).all()
    for map, (top, left) in zip(found.anomaly_maps(moved), [(12, 28), (16, 24)], strict=True):
        rows, columns = np.nonzero(map > 0.8 * map.max())
        assert (rows.mean(), columns.mean()) == pytest.approx((top + 3.5, left + 3.5), abs=3)
    found.save(tmp_path / "model")
    loaded = Detector.load(tmp_path / "model", backbone=Tiny())
    for map, again in zip(found.anomaly_maps(moved), loaded.anomaly_maps(moved), strict=True):
        np.testing.assert_array_equal(map, again)


# The benchmark --------------------------------------------------------------------------------------------------------


def test_the_benchmark_dims_all_by_its_room_and_undoes_the_light() -> None:
    train, good, bad = ((200 * parts(n, seed)).astype(np.uint8) for n, seed in ((100, 0), (30, 1), (10, 2)))
    bad[:, 16:24, 24:32] //= 3
    masks = [np.zeros((SIDE, SIDE), bool) for _ in range(40)]
    for mask in masks[30:]:
        mask[16:24, 24:32] = True
    test = ImageSet.from_arrays(np.concatenate([good, bad]), np.repeat([0, 1], [30, 10]))
    kinds = np.repeat(["good", "synthetic"], [30, 10])
    data = InspectionSet("parts", "dev", 0, ImageSet.from_arrays(train), test, tuple(masks), kinds)
    own = detector().get_params() | {"scaling": (0, 255)}
    plain, undone = (
        inspection_light.measure(data, {**own, "light_tolerance": tolerance}, Tiny()) for tolerance in (None, 0.3)
    )
    assert plain["good"] == 30
    assert set(plain["false_alarms"]) == {"0.70", "0.77", "0.85", "1.00", "1.15", "1.30"}
    assert plain["false_alarms"]["0.70"] == plain["false_alarms"]["1.30"] == 1
    assert max(undone["false_alarms"].values()) <= 0.4
    assert undone["auroc"] == 1
    assert undone["pixel_auroc"] > 0.9
