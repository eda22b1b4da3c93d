"""Regions to ignore in a fitted detector: what lies in them changes nothing, and what does not is judged as ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from feature_cells import CELL, Cells, detector, noise
from knowngood.cli.options import settings_from
from knowngood.config import parse_settings
from knowngood.data.conditions import ConditionSchema
from knowngood.data.imageset import ImageSet
from knowngood.data.regions.ignore import IgnoreRegions
from knowngood.detector.estimator import Detector
from knowngood.detector.ignored import blanked, filled, moved
from knowngood.errors import DataError, SettingsError
from knowngood.models.patch_gaussian import smooth
from knowngood.representations.alignment.warping import Quality, Transform
from knowngood.scores.patches import PatchScore

LEFT = [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]
RIGHT = [[[0.5, 0], [1, 0], [1, 1], [0.5, 1]]]
TOP_LEFT = [[[0, 0], [0.5, 0], [0.5, 0.5], [0, 0.5]]]


def spotted(images: np.ndarray, top: int, left: int) -> np.ndarray:
    changed = images.copy()
    changed[:, top : top + CELL, left : left + CELL] = 255
    return changed


@pytest.fixture(scope="module")
def fitted() -> Detector:
    return detector(ignore=TOP_LEFT).fit(noise(60), backbone=Cells())


# Nothing in a region counts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choices", [{"levels": "on", "pooling": "soft"}, {"levels": "off", "pooling": "top"}])
def test_pixels_in_the_region_change_nothing_in_fit_calibration_or_score(choices: dict[str, str]) -> None:
    rng = np.random.default_rng(5)
    good, new = noise(60), np.concatenate([noise(6, seed=1), spotted(noise(2, seed=2), 16, 16)])

    def with_other_region(images: np.ndarray) -> np.ndarray:
        other = images.copy()
        other[:, :16, :16] = rng.integers(0, 256, (len(images), 16, 16, 3))
        return other

    settings: dict[str, Any] = {"ignore": TOP_LEFT, "features": {**choices, "smoothing": 1.0}, "scoring": "elbo"}
    one = detector(**settings).fit(good, backbone=Cells())
    two = detector(**settings).fit(with_other_region(good), backbone=Cells())
    for images in (new, with_other_region(new)):
        expected, found = one.detect(new), two.detect(images)
        for column in expected.columns.drop("id"):
            assert found[column].tolist() == expected[column].tolist(), column
        for a, b in zip(one.anomaly_maps(new), two.anomaly_maps(images), strict=True):
            np.testing.assert_array_equal(a, b)
        assert two.regions(images, alpha=0.2).equals(one.regions(new, alpha=0.2))
    assert len(one.regions(new, alpha=0.2)) >= 2


class Seeing(Cells):
    """Cells that see the whole image, too."""

    def features(self, images: Tensor) -> list[Tensor]:
        (cells,) = super().features(images)
        return [torch.cat([cells, cells.mean((2, 3), keepdim=True) - cells, images.amax((1, 2, 3), True) * cells], 1)]


def test_a_backbone_that_looks_around_sees_nothing_of_the_region() -> None:
    good, new = noise(60, 48, 48), noise(5, 48, 48, seed=1)  # resized to 32, antialiased
    one = detector(ignore=TOP_LEFT).fit(good, backbone=Seeing())
    two = detector(ignore=TOP_LEFT).fit(spotted(spotted(good, 2, 3), 16, 16), backbone=Seeing())
    other = spotted(spotted(new, 0, 0), 16, 12)
    assert two.detect(other).equals(one.detect(new))
    for a, b in zip(one.anomaly_maps(new), two.anomaly_maps(other), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one.score_samples(spotted(new, 20, 20)) < one.score_samples(new)).all()


def test_of_an_unknown_product_each_is_tried_with_its_own_region() -> None:
    kinds = ["A", "B", "C"]
    ignore = {"A": LEFT, "B": RIGHT}
    fitted = detector(ignore=ignore, unknown="infer").fit(noise(90), conditions={"kind": kinds * 30}, backbone=Seeing())
    pipeline, new = fitted.pipeline_, spotted(noise(4, seed=9), 8, 0)
    rows = []
    for told in ([None] * 4, ["A"] * 4, ["B"] * 4, ["C"] * 4, [None, "B", None, "A"]):
        images = ImageSet.from_arrays(new, conditions={"kind": np.array(told, dtype=object)})
        rows.append(pipeline.raw_scores(images, pipeline.expand(images))[0])
    unknown, a, b, c, some = rows
    np.testing.assert_allclose(unknown, np.stack([a, b, c], axis=1).reshape(-1), rtol=1e-6)
    np.testing.assert_allclose(some, [a[0], b[0], c[0], b[1], a[2], b[2], c[2], a[3]], rtol=1e-6)
    assert (a < b).all()


def test_blank_pixels_are_those_of_the_mask_and_no_others() -> None:
    images = ImageSet.from_arrays(noise(3), conditions={"kind": ["B", "A", "C"]})
    schema = ConditionSchema.fit(images.conditions, 3)
    seen = blanked(images, IgnoreRegions.of({"A": LEFT, "B": RIGHT}, column="kind"), schema, 7)
    expected = noise(3)
    expected[0, :, 16:] = 7
    expected[1, :, :16] = 7
    assert np.array_equal([seen.read(i) for i in range(3)], expected)
    assert np.array_equal(seen[[2, 0]].read(1), expected[0])
    assert np.array_equal(images.read(0), noise(3)[0])
    assert seen.fingerprint() == images.fingerprint()


def test_pixels_outside_of_the_region_do_count(fitted: Detector) -> None:
    good = noise(4, seed=3)
    base = fitted.score_samples(good)
    assert (fitted.score_samples(spotted(good, 0, 0)) == base).all()
    assert (fitted.score_samples(spotted(good, 0, 16)) < base - 1).all()


def test_the_map_is_nan_in_the_region_and_nowhere_else(fitted: Detector) -> None:
    for found in fitted.anomaly_maps(noise(3, seed=4)):
        expected = np.zeros((32, 32), dtype=bool)
        expected[:16, :16] = True
        assert np.array_equal(np.isnan(found), expected)


def test_a_map_is_cut_by_the_pixel_where_places_are_coarser() -> None:
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[3:21, 5:18] = 255
    polygon = {"polygons": [[[5, 3], [18, 3], [18, 21], [5, 21]]], "size": [32, 32]}
    fitted = detector(ignore=polygon).fit(noise(40), backbone=Cells())
    assert np.array_equal(np.isnan(fitted.anomaly_maps(noise(1))[0]), mask > 0)
    patches = fitted.pipeline_.model.patches
    assert patches is not None
    covered = (mask > 0).reshape(4, 8, 4, 8).mean(axis=(1, 3)) >= 0.5
    assert np.array_equal(patches.ignored[0].reshape(4, 4).numpy(), covered)


def test_values_between_counted_places_do_not_see_ignored_ones() -> None:
    values = np.array([[np.nan, np.nan, 3.0], [np.nan, 5.0, 7.0]], dtype=np.float32)
    found = filled(values)
    assert found[~np.isnan(values)].tolist() == [3, 5, 7]
    assert found[0, 1] in (3, 5)
    assert found[1, 0] == 5
    assert filled(found) is found


# By product -----------------------------------------------------------------------------------------------------------


def test_each_product_has_regions_of_its_own(tmp_path: Path) -> None:
    painted = np.zeros((64, 64), dtype=np.uint8)
    painted[:, 32:] = 255
    Image.fromarray(painted).save(tmp_path / "right.png")
    (tmp_path / "regions.json").write_text(json.dumps({"A": LEFT, "B": "right.png"}))
    kind = np.array(["A", "B", "C"] * 40)
    fit = detector(ignore=tmp_path / "regions.json", unknown="infer").fit
    fitted = fit(noise(120), conditions={"camera": np.arange(120) % 2, "kind": kind}, backbone=Cells())
    new, told = noise(3, seed=8), {"kind": ["A", "B", "C"], "camera": [0, 1, 0]}
    usual = fitted.score_samples(new, conditions=told)
    left = fitted.score_samples(spotted(new, 8, 0), conditions=told)
    right = fitted.score_samples(spotted(new, 8, 24), conditions=told)
    assert (left == usual).tolist() == [True, False, False]
    assert (right == usual).tolist() == [False, True, False]
    maps = fitted.anomaly_maps(new, conditions=told)
    assert [np.isnan(one).mean() for one in maps] == [0.5, 0.5, 0]
    assert np.isnan(maps[0][:, :16]).all()
    assert np.isnan(maps[1][:, 16:]).all()
    # Not told which, an image is as good as its best product makes it.
    unknown = {"kind": [None, None, None], "camera": [0, 1, 0]}
    assert fitted.detect(spotted(new, 8, 0), conditions=unknown)["condition"].str.contains("A").all()


def test_a_mask_file_is_not_needed_once_fitted(tmp_path: Path) -> None:
    painted = np.zeros((32, 32), dtype=np.uint8)
    painted[:16, :16] = 255
    Image.fromarray(painted).save(tmp_path / "mask.png")
    fitted = detector(ignore=str(tmp_path / "mask.png")).fit(noise(40), backbone=Cells())
    (tmp_path / "mask.png").unlink()
    fitted.save(tmp_path / "model")
    loaded = Detector.load(tmp_path / "model", backbone=Cells())
    new = noise(4, seed=6)
    assert loaded.detect(new).equals(fitted.detect(new))
    assert loaded.regions(new, alpha=0.3).equals(fitted.regions(new, alpha=0.3))
    for a, b in zip(loaded.anomaly_maps(new), fitted.anomaly_maps(new), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isnan(loaded.anomaly_maps(new)[0]).mean() == 0.25


def test_the_setting_survives_json_and_the_command_line(tmp_path: Path) -> None:
    forms: list[Any] = ["mask.png", LEFT, {"A": LEFT, "B": "b.png"}, {"polygons": LEFT, "size": [2, 3]}]
    for given in forms:
        settings = parse_settings({"ignore": given})
        assert parse_settings(settings.model_dump(mode="json")) == settings
    assert settings_from({"ignore": "a,b.png"}).ignore == Path("a,b.png")
    assert settings_from({"ignore": "none"}).ignore is None


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ignore": np.zeros((3, 3))}, "Save a mask as an image file"),
        ({"ignore": [[1, 2, 3]]}, "is no polygon"),
        ({"ignore": LEFT, "crop": 16}, "leave crop and pad out"),
        ({"ignore": LEFT, "tile": 16}, "tiles know none"),
        ({"ignore": LEFT + RIGHT}, "whole image"),
        ({"ignore": {"A": LEFT}}, "sees no condition with values"),
        ({"ignore": {"polygons": [[[0, 0], [9, 0], [9, 9]]], "size": [4, 4]}}, "outside of the image"),
        ({"ignore": "no_such_mask.png"}, "no_such_mask.png"),
    ],
)
def test_what_cannot_be_ignored_is_refused_before_training(settings: dict[str, Any], words: str) -> None:
    with pytest.raises((DataError, SettingsError), match=words):
        detector(**settings).fit(noise(40), backbone=Cells())


def test_values_that_no_condition_has_are_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="condition 'kind' has no value 'D'"):
        detector(ignore={"D": LEFT}).fit(noise(60), conditions={"kind": ["A", "B"] * 30}, backbone=Cells())


def test_pixel_models_refuse_regions_to_ignore() -> None:
    with pytest.raises(SettingsError, match="needs features"):
        Detector(ignore=LEFT, epochs=1).fit(noise(30))


def test_a_mask_of_other_proportions_is_refused_by_its_size(tmp_path: Path) -> None:
    Image.fromarray(np.eye(40, 20, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match="other proportions"):
        detector(ignore=tmp_path / "mask.png").fit(noise(40), backbone=Cells())


def test_a_region_smaller_than_half_a_place_says_that_it_changes_no_score() -> None:
    small = [[[0, 0], [0.1, 0], [0.1, 0.1], [0, 0.1]]]
    with pytest.warns(UserWarning, match="cover no place"):
        detector(ignore=small).fit(noise(40), backbone=Cells())


# Parts ----------------------------------------------------------------------------------------------------------------


def test_smoothing_is_a_weighted_mean_of_the_counted() -> None:
    draw = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 5, 6, generator=draw, dtype=torch.float64)
    ignored = torch.rand(2, 5, 6, generator=draw) < 0.4
    score = PatchScore(type("Inner", (), {"options": None})(), 0.8)  # type: ignore[arg-type]
    found = score.smoothed(maps, ignored)
    # By definition: each impulse smoothed by itself is a column of the weights.
    impulses = smooth(torch.eye(30, dtype=torch.float64).reshape(30, 5, 6), 0.8).reshape(30, 30).T
    for one, cut, values in zip(found, ignored, maps, strict=True):
        weights = impulses * ~cut.reshape(30)
        expected = (weights @ values.reshape(30)) / weights.sum(1)
        torch.testing.assert_close(one.reshape(30), expected)


def test_a_mask_moves_with_the_image_that_was_aligned() -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:8, 10:16] = True
    shifted = Transform(np.array([[1.0, 0, 3], [0, 1, -2]]), (20, 30), Quality(0, 1))  # 3 right, 2 up
    assert np.array_equal(moved(mask, shifted), np.roll(mask, (-2, 3), (0, 1)))
    still = Transform(np.eye(2, 3), (20, 30), Quality(0, 1))
    assert moved(mask, still) is mask


def test_images_of_other_sizes_have_their_own_masks() -> None:
    fitted = detector(ignore=TOP_LEFT, image_size=32).fit(ImageSet.from_arrays(noise(40)), backbone=Cells())
    found = fitted.anomaly_maps(noise(1, 48, 64))[0]
    assert found.shape == (48, 64)
    assert np.isnan(found[:24, :32]).all()
    assert np.isnan(found).mean() == 0.25
