"""Inspection on features end to end: ignored regions, products, tiles, regions, and a backbone of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from knowngood import Detector
from knowngood.cli import main
from knowngood.data import ImageSet
from knowngood.errors import ArtifactError, DataError, KnowngoodError, SettingsError
from patch_models import TinyBackbone, holed, parts
from posed_parts import SIDE as POSED_SIDE
from posed_parts import lying, part

pytestmark = pytest.mark.slow  # fitting models, serving and exporting take seconds

SIDE = 32
HALF = 2e-3  # features are kept in float16, and convolutions of other batches round the other way
FEATURES = {"name": "features", "backbone": "own", "image_size": SIDE, "stride": 4, "average": 1}
TWO_FOLDS: Any = {"calibration": {"folds": 2}}  # of five by default: where no rate of false alarms is asked for
LEFT_HALF = [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]
ON_PIXELS = {"representation": "pixels", "model": "vae"}
TWO = {"product": ["disc"] * 40 + ["bars"] * 40}


def made(**settings: Any) -> Detector:
    given = {"representation": FEATURES, "model": "patch_gaussian", "alpha": 0.2, "device": "cpu", **TWO_FOLDS}
    return Detector(**{**given, **settings})


def fitted_to(images: np.ndarray, conditions: Any = None, **settings: Any) -> Detector:
    return made(**settings).fit(images, conditions=conditions, backbone=TinyBackbone())


def large(n: int, seed: int = 0) -> np.ndarray:
    """(n, 64, 64): four parts each."""
    rows = [np.concatenate([parts(n, 10 * seed + k), parts(n, 10 * seed + k + 1)], axis=2) for k in (0, 2)]
    return np.concatenate(rows, axis=1)


def reloaded(detector: Detector, folder: Path) -> Detector:
    detector.save(folder)
    return Detector.load(folder, backbone=TinyBackbone())


@pytest.fixture(scope="module")
def plain() -> Detector:
    return fitted_to(parts(60), calibration="auto")


@pytest.fixture(scope="module")
def half() -> Detector:
    return fitted_to(parts(60), data={"ignore": LEFT_HALF})


@pytest.fixture(scope="module")
def tiled() -> Detector:
    return fitted_to(large(60), data={"tile": SIDE, "tile_overlap": 0.25})


@pytest.fixture(scope="module")
def both() -> Detector:
    images = np.concatenate([parts(40), parts(40, 1, "bars")])
    return fitted_to(images, TWO, data={"ignore": {"disc": LEFT_HALF}})


def test_a_defect_is_found_and_located_and_has_a_region(plain: Detector) -> None:
    bad = holed(parts(8, 5))
    assert plain.predict(bad).tolist() == [-1] * 8
    for image in plain.anomaly_maps(bad):
        assert image.shape == (SIDE, SIDE)
        row, column = np.unravel_index(image.argmax(), image.shape)
        assert 8 <= row < 22
        assert 4 <= column < 18
    table = plain.regions(bad)
    assert set(table["id"]) == {str(i) for i in range(8)}
    worst = table[table["region"] == 1]
    assert ((worst["top"] < 18) & (worst["bottom"] > 12) & (worst["left"] < 14) & (worst["right"] > 8)).all()
    assert table["p_value"].between(0, 0.2).all()


def test_few_normal_images_have_a_region(plain: Detector) -> None:
    normal = parts(300, 9)
    assert plain.regions(normal)["id"].nunique() / 300 < 0.2 + 4 * (0.2 * 0.8 / 60) ** 0.5  # of the calibration's draw


def test_scores_do_not_depend_on_what_is_scored_along(plain: Detector) -> None:
    bad = np.concatenate([holed(parts(2, 5)), parts(3, 6)])
    alone = np.concatenate([plain.score_samples(bad[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(plain.score_samples(bad), alone, rtol=1e-5)


def test_the_map_is_nan_where_pixels_are_ignored_and_nowhere_else(half: Detector) -> None:
    for image in half.anomaly_maps(parts(3, 5)):
        assert np.isnan(image[:, :16]).all()
        assert not np.isnan(image[:, 16:]).any()


def test_ignored_pixels_change_nothing_in_fit_calibration_or_score(half: Detector) -> None:
    def scribbled(images: np.ndarray) -> np.ndarray:
        out = images.copy()
        out[:, :, :16] = np.random.default_rng(0).integers(0, 256, out[:, :, :16].shape)
        return out

    bad = holed(parts(4, 5), left=20)
    other = fitted_to(scribbled(parts(60)), data={"ignore": LEFT_HALF})
    for ours, theirs in ((half, half), (half, other)):
        ours_table, theirs_table = ours.detect(bad), theirs.detect(scribbled(bad))
        np.testing.assert_array_equal(ours_table["anomaly_score"], theirs_table["anomaly_score"])
        np.testing.assert_array_equal(ours_table["p_value"], theirs_table["p_value"])
    assert not np.array_equal(half.score_samples(bad), half.score_samples(parts(4, 5)))  # the others do count


class Unnamed:
    """Feature maps without a fingerprint."""

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images]


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        (torch.nn.Identity(), "backbone of type Identity has no method features; expected an object with two methods"),
        (Unnamed(), "backbone of type Unnamed has no method fingerprint; expected an object with two methods"),
        (Unnamed, "backbone is the class Unnamed; expected an object with two methods"),
    ],
)
def test_an_object_that_is_no_backbone_is_refused_by_what_it_lacks(backbone: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=said):
        Detector(FEATURES).fit(np.zeros((9, SIDE, SIDE), np.uint8), backbone=backbone)
    with pytest.raises(SettingsError, match=said):
        Detector.load(tmp_path, backbone=backbone)


def test_each_product_has_ignored_regions_and_gaussians_of_its_own(both: Detector) -> None:
    new = np.concatenate([parts(2, 7), parts(2, 7, "bars")])
    right = {"product": ["disc"] * 2 + ["bars"] * 2}
    maps = both.anomaly_maps(new, conditions=right)
    assert [float(np.isnan(image).mean()) for image in maps] == [0.5, 0.5, 0, 0]
    swapped = {"product": right["product"][::-1]}
    scores = [both.detect(new, conditions=given)["anomaly_score"].to_numpy(float) for given in (right, swapped)]
    assert (scores[1] > scores[0]).all()


def test_a_tiled_picture_is_one_picture(tiled: Detector) -> None:
    """Score, p-value and map are of the whole picture; it calibrates as one."""
    new = large(3, 5)
    new[1, 10:20, 40:50] = 255
    table, maps = tiled.detect(new), tiled.anomaly_maps(new)
    assert len(table) == 3
    assert table["anomaly_score"].to_numpy(float).argmax() == 1
    assert [one.shape for one in maps] == [(64, 64)] * 3
    row, column = np.unravel_index(maps[1].argmax(), (64, 64))
    assert 8 <= row < 22
    assert 38 <= column < 52
    assert len(tiled.pipeline_.calibration) == 60  # pictures  # type: ignore[arg-type]
    assert "64 × 64 px are cut into 3 × 3 tiles of 32 px (overlap 8 px)" in tiled.about_["recipe"]
    why = tiled.explain(new, others=True)[0]
    assert why.nearest
    assert why.model_input.shape == (64, 64, 1)


@pytest.mark.parametrize("name", ["plain", "half", "both", "tiled"])
def test_a_saved_model_gives_the_same_bits(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    detector: Detector = request.getfixturevalue(name)
    images = large(3, 5) if name == "tiled" else holed(parts(3, 5))
    given = {"conditions": {"product": ["disc", "bars", "disc"]}} if name == "both" else {}
    again = reloaded(detector, tmp_path / "model")
    np.testing.assert_array_equal(detector.score_samples(images, **given), again.score_samples(images, **given))
    for ours, theirs in zip(detector.anomaly_maps(images, **given), again.anomaly_maps(images, **given), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert detector.regions(images, **given).equals(again.regions(images, **given))


def test_another_backbone_is_refused_by_its_fingerprint(plain: Detector, tmp_path: Path) -> None:
    plain.save(tmp_path / "model")
    with pytest.raises(
        KnowngoodError, match=r"fitted on features of the backbone 'tiny 0'; this one is 'tiny 1'"
    ) as at:
        Detector.load(tmp_path / "model", backbone=TinyBackbone(1))
    assert "config.json" not in str(at.value)  # the file is fine


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data": {"tile": 16}, "representation": "pixels", "model": "vae"}, "needs representation 'features'"),
        (
            {"data": {"ignore": LEFT_HALF}, "representation": "pixels", "model": "vae"},
            "needs representation 'features'",
        ),
        ({"labels": "hinge"}, "hinge"),
        ({"data": {"ignore": {"cone": LEFT_HALF}}}, "cone"),
    ],
)
def test_what_cannot_be_is_refused_before_training(settings: dict[str, Any], words: str) -> None:
    with pytest.raises((SettingsError, DataError), match=words):
        fitted_to(np.concatenate([parts(40), parts(40, 1, "bars")]), TWO, **settings)


def test_a_picture_of_another_size_is_refused_by_its_size(tiled: Detector) -> None:
    with pytest.raises(DataError, match=r"16 × 16 px.*about 64 × 64"):
        tiled.score_samples(parts(2)[:, :16, :16])


def test_large_pictures_are_cut_without_being_told_so() -> None:
    features = {key: value for key, value in FEATURES.items() if key != "image_size"} | {"stride": 48}
    data = {"tile_above": 63, "ignore": LEFT_HALF}
    detector = fitted_to(large(20), representation=features, data=data)
    assert detector.pipeline_.settings.data.tile == 64
    assert detector.pipeline_.settings.calibration.method == "cross"
    for one in detector.anomaly_maps(large(2)):
        assert np.isnan(one[:, :32]).all()
        assert not np.isnan(one[:, 32:]).any()
    for kept in ({"data": {"tile_above": 64}}, {"data": {"tile": "none"} | data}, {"representation": FEATURES}):
        small = fitted_to(large(9), **{"representation": features, "data": data, **kept})
        assert small.pipeline_.settings.data.tile == "none"


def test_conditions_of_tiled_pictures_can_be_checked() -> None:
    images = np.concatenate([large(40), 255 - large(40)])
    conditions = {"product": ["light"] * 40 + ["dark"] * 40}
    detector = fitted_to(images, conditions, data={"tile": SIDE}, conditioning={"check": "auto"})
    assert detector.pipeline_.checked == ("product",)
    table = detector.detect(large(3, 7), conditions={"product": ["light", "dark", "light"]})
    assert table["p_condition"].to_numpy(float).argmin() == 1


def test_a_surface_without_positions_has_one_gaussian(tmp_path: Path) -> None:
    sheet = np.random.default_rng(0).normal(120, 20, (24, 64, 64)).clip(0, 255).astype(np.uint8)
    options = {"model": "auto", "data": {"tile": SIDE}, "calibration": {"method": "split"}}
    detector = fitted_to(sheet[:20], **options)
    assert detector.pipeline_.settings.model.name == "shared_gaussian"  # type: ignore[union-attr]
    assert "one Gaussian, as locations look alike," in detector.about_["recipe"]
    new = sheet[20:].copy()
    new[2, 40:46, 8:14] = 255
    assert detector.score_samples(new).argmin() == 2
    assert detector.explain(new, others=True)[0].components
    np.testing.assert_array_equal(detector.score_samples(new), reloaded(detector, tmp_path).score_samples(new))
    assert fitted_to(large(20), **options).pipeline_.settings.model.name == "patch_gaussian"  # type: ignore[union-attr]


def test_parts_that_lie_anywhere_are_judged_in_one_pose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the command's path: fit, table, maps over the image as it lies, saved and loaded."""
    images, _, _ = lying(24)
    model = {"name": "patch_gaussian", "context": 0, "global_grid": 0, "neighbours": 200}
    options = {"name": "features", "backbone": {"name": "own"}, "stride": 8, "image_size": 96}
    fitted = Detector(options, model, alpha=0.1, **TWO_FOLDS).fit(images, backbone=TinyBackbone())
    assert "each is found, turned and cropped" in fitted.about_["recipe"]
    assert fitted.pipeline_.settings.representation.align == "pose"  # type: ignore[union-attr]
    good, bad = lying(6, seed=9)[0], [part(t, (60 + t / 90, 58), defect=True) for t in (10.0, 100.0, 250.0)]
    plain = np.full((1, POSED_SIDE, POSED_SIDE, 3), 30, np.uint8)
    new = ImageSet.from_arrays(np.concatenate([good, np.stack(bad), plain]))
    table = fitted.detect(new)
    score = table["anomaly_score"].to_numpy(float)
    assert score[6:9].min() > score[:6].max()
    assert table["pose"][:9].min() > 0.9
    assert table["pose"][9] < 0
    assert score[9] > score[:6].max()
    assert fitted.explain(new[np.array([7])])[0].posed
    assert fitted.anomaly_maps(new)[7].shape == (POSED_SIDE, POSED_SIDE)
    loaded = Detector.load(fitted.save(tmp_path / "model"), backbone=TinyBackbone())
    pd.testing.assert_frame_equal(loaded.detect(new), table, check_exact=True)
    (tmp_path / "new").mkdir()
    for i, image in enumerate(good[:2]):
        Image.fromarray(image).save(tmp_path / "new" / f"{i}.png")
    (tmp_path / "new" / "2.png").write_bytes(b"no image")
    monkeypatch.setattr("knowngood.detector.scoring.MOST_EXPANDED", 2)  # the last one is a batch of its own
    assert fitted.detect(tmp_path / "new")["pose"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize("each", [2, 4])
def test_regions_by_condition_are_those_of_the_condition_however_few_images_there_are(each: int) -> None:
    right_half = [[[x + 0.5, y] for x, y in polygon] for polygon in LEFT_HALF]
    kinds, model = np.repeat(["a", "b"], each), {"name": "patch_gaussian", "few": "pool"}
    detector = made(model=model, data={"ignore": {"a": LEFT_HALF, "b": right_half}}, calibration="auto")
    if each < 4:
        with pytest.raises(DataError, match="too few where regions to ignore depend on condition 'kind'"):
            detector.fit(parts(2 * each), conditions={"kind": kinds}, backbone=TinyBackbone())
        return
    detector.fit(parts(2 * each), conditions={"kind": kinds}, backbone=TinyBackbone())
    for kind, image in zip("ab", detector.anomaly_maps(parts(2, 3), conditions={"kind": ["a", "b"]}), strict=True):
        hidden = np.isnan(image)
        assert hidden[:, : SIDE // 2].all() == (kind == "a")
        assert hidden[:, SIDE // 2 :].all() == (kind == "b")


def test_a_model_of_several_contexts_scores_the_same_to_the_bit_when_loaded(tmp_path: Path) -> None:
    detector = fitted_to(parts(160), calibration={"method": "split"}, model={"name": "patch_gaussian", "neighbours": 0})
    assert detector.model_.basis.shape[1] == 4
    new, others = parts(30, 7), ImageSet.from_arrays(parts(30, 9))
    for folder in ("fitted", "updated"):
        if folder == "updated":
            detector.update(parts(40, 8), calibration_set=others)
        again = reloaded(detector, tmp_path / folder)
        pd.testing.assert_frame_equal(again.detect(new), detector.detect(new), check_exact=True)


def test_a_saved_model_without_its_own_backbone_is_refused_when_it_is_loaded(
    half: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half.save(tmp_path / "model")
    with pytest.raises(ArtifactError, match=r"model: this model needs your own backbone .*load\(FOLDER, backbone=…\)"):
        Detector.load(tmp_path / "model")
    Image.fromarray(parts(1)[0]).save(tmp_path / "part.png")
    with pytest.raises(SystemExit) as left:
        main(["score", str(tmp_path / "model"), str(tmp_path / "part.png"), "-o", str(tmp_path / "rows.csv")])
    assert left.value.code == 3
    assert "fit with an ONNX file or a folder of Hugging Face" in " ".join(capsys.readouterr().err.split())
    half.detect(parts(4, 3)).to_csv(tmp_path / "rows.csv", index=False)
    for words in (["info"], ["monitor", str(tmp_path / "rows.csv")]):  # these score nothing
        with pytest.raises(SystemExit) as left:
            main([words[0], str(tmp_path / "model"), *words[1:]])
        assert not left.value.code
