"""A detector takes new items: its model is that of old and new, and its calibration is of items it did not take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from knowngood import Detector
from knowngood.data import ImageSet, TableSet
from knowngood.detector.update import halves
from knowngood.errors import DataError, NotEnoughNormals, SettingsError
from patch_models import TinyBackbone, holed, parts

ALPHA = 0.1  # needs 9 calibration items


def rows(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (n, 4))


def bank(**settings: object) -> Detector:
    given = {"model": {"name": "memory_bank", "coreset": None}, "alpha": ALPHA, "calibration": {"method": "split"}}
    return Detector(**{**given, **settings}).fit(rows(60, 0))  # type: ignore[arg-type]


def test_a_bank_takes_half_of_the_new_items_and_the_other_half_calibrates(tmp_path: Path) -> None:
    detector, new = bank(), rows(40, 1, 3)
    before, old_scores = detector.model_.bank, set(detector.pipeline_.calibration.scores.tolist())
    detector.update(new)
    assert torch.equal(detector.model_.bank[: len(before)], before)
    assert len(detector.model_.bank) == len(before) + 20
    calibration = detector.pipeline_.calibration
    assert len(calibration) == 20
    assert not old_scores & set(calibration.scores.tolist())
    taken = np.isin(TableSet.from_array(new).digests(), detector.pipeline_.fitted_to)
    assert taken.sum() == 20
    scores = calibration.anomaly_score(calibration.scores, calibration.strata)
    assert np.sort(-detector.score_samples(new[~taken])) == pytest.approx(np.sort(scores))
    assert [one["what"] for one in detector.about_["history"]] == ["fit", "update"]
    assert detector.about_["history"][-1]["items"] == 20
    detector.save(tmp_path / "model")
    again = Detector.load(tmp_path / "model").update(rows(20, 2), calibration_set=rows(9, 3))
    assert len(again.model_.bank) == len(before) + 40
    assert again.pipeline_.fitted_to is not None
    assert len(again.pipeline_.fitted_to) == len(again.model_.bank)


@pytest.mark.slow
def test_false_alarms_of_new_items_are_as_rare_as_promised_after_an_update() -> None:
    """Over many divisions P(p ≤ α) of a new item is at most α, though the items have changed since the fit."""
    flagged = []
    for seed in range(12):
        detector = bank().update(rows(38, 100 + seed, 2))  # 19 calibrate
        flagged.append((detector.predict(rows(200, 200 + seed, 2)) < 0).mean())
    deviation = (ALPHA * (1 - ALPHA) / 20) ** 0.5  # of the rate, over calibration sets
    assert np.mean(flagged) < ALPHA + 3 * deviation / 12**0.5


def test_too_few_to_calibrate_are_refused_with_the_number_and_nothing_changes() -> None:
    detector = bank()
    before = detector.pipeline_
    with pytest.raises(NotEnoughNormals, match="9 to calibrate, so give 18 new ones") as refused:
        detector.update(rows(16, 1))
    assert refused.value.missing == 2
    with pytest.raises(NotEnoughNormals, match="needs at least 9, 1 more"):
        detector.update(rows(20, 1), calibration_set=rows(8, 2))
    assert detector.pipeline_ is before
    assert len(detector.about_["history"]) == 1
    detector.update(rows(18, 1))


def test_items_fitted_to_neither_count_twice_nor_calibrate() -> None:
    detector = bank()
    with pytest.raises(DataError, match="was fitted to all it holds"):
        detector.update(rows(60, 0)[detector.split_["fit"]])
    new = rows(20, 1)
    with pytest.warns(UserWarning, match=r"48 of 68 rows are left out"):
        detector.update(np.concatenate([rows(60, 0)[detector.split_["fit"]], new]))
    assert len(detector.model_.bank) == 58
    with pytest.raises(DataError, match="Calibrate on normal rows that were not used"):
        detector.update(rows(20, 3), calibration_set=rows(20, 3))


def test_groups_stay_together() -> None:
    pipeline, items = bank().pipeline_, TableSet.from_array(rows(60, 1))
    taken, apart = halves(pipeline, items.replace(groups=np.arange(60) // 3), 0)
    assert len(taken) == len(apart) == 30
    assert not set(taken.groups) & set(apart.groups)
    with pytest.raises(NotEnoughNormals, match="8 independent"):
        halves(pipeline, items.replace(groups=np.arange(60) % 16), 0)


def test_what_cannot_be_updated_says_why() -> None:
    with pytest.raises(SettingsError, match="takes new images without the old ones"):
        bank().update(rows(20, 1), old=rows(60, 0))
    detector = bank()
    detector.pipeline_.state["codes"] = torch.zeros(1)  # as a score keeps that compares codes of its own
    with pytest.raises(SettingsError, match="cannot take new items"):
        detector.update(rows(20, 1))


def gaussian(images: np.ndarray, calibration_set: Any = None, **settings: Any) -> Detector:
    features = {"name": "features", "backbone": "own", "image_size": 32, "stride": 4, "average": 1}
    given = {"model": {"name": "patch_gaussian", "context": 0}, "alpha": ALPHA, "calibration": {"method": "split"}}
    detector = Detector(features, **{**given, **settings})  # type: ignore[arg-type]
    return detector.fit(images, backbone=TinyBackbone(), calibration_set=calibration_set)


@pytest.mark.slow
def test_a_gaussian_of_features_is_that_of_all_images_it_took(tmp_path: Path) -> None:
    old, new = parts(30), parts(20, 1)
    gaussian(old).save(tmp_path)
    detector = Detector.load(tmp_path, backbone=TinyBackbone())
    fitted = old[np.isin(ImageSet.from_arrays(old).digests(), detector.pipeline_.fitted_to)]
    detector.update(new)
    took = new[np.isin(ImageSet.from_arrays(new).digests(), detector.pipeline_.fitted_to)]
    whole = gaussian(np.concatenate([fitted, took]), parts(9, 2))
    assert detector.model_.images.tolist() == whole.model_.images.tolist() == [34]
    torch.testing.assert_close(detector.model_.lower, whole.model_.lower, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(detector.model_.coarse.lower, whole.model_.coarse.lower, rtol=1e-3, atol=1e-3)
    assert len(detector.pipeline_.calibration) == len(detector.pipeline_.map_calibration) == 10


@pytest.mark.slow
@pytest.mark.parametrize("data", [{"ignore": [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]}, {"tile": 24}])
def test_ignored_regions_and_tiles_are_updated_as_they_were_fitted(data: dict[str, Any]) -> None:
    detector = gaussian(parts(15), data=data, calibration={"method": "split"})
    before = detector.model_.images.clone()
    detector.update(parts(18, 1))
    fitted = detector.about_["data"]["fit"]
    assert float(detector.model_.images / before) == pytest.approx(fitted / (fitted - 9))  # tiles too


@pytest.fixture(scope="module")
def network() -> Detector:
    training = {"epochs": 2, "batch_size": 32}
    return Detector(model={"name": "vae", "latent_dim": 2}, score="elbo", alpha=ALPHA, training=training).fit(
        rows(80, 0)
    )


@pytest.mark.slow
def test_a_network_goes_on_from_its_weights_with_the_old_items(network: Detector, tmp_path: Path) -> None:
    network.save(tmp_path / "model")
    frozen = Detector.load(tmp_path / "model")
    with pytest.raises(SettingsError, match=r"forget the old ones.*old=…"):
        frozen.update(rows(40, 1))
    with pytest.raises(DataError, match="it would forget them"):
        frozen.update(rows(40, 1), old=rows(80, 5))
    weights = {name: t.clone() for name, t in frozen.model_.state_dict().items()}
    settings = frozen.pipeline_.settings
    still = settings.model_copy(update={"training": settings.training.model_copy(update={"lr": 1e-9})})
    frozen.pipeline_ = replace(frozen.pipeline_, settings=still)
    frozen.update(rows(40, 1), old=rows(80, 0))
    for name, kept in frozen.model_.state_dict().items():  # at a learning rate of nearly 0 the weights stay
        torch.testing.assert_close(kept, weights[name], rtol=1e-4, atol=1e-4)
    trained = Detector.load(tmp_path / "model").update(rows(40, 1), old=rows(80, 0))
    assert any(not torch.allclose(t, weights[name], atol=1e-4) for name, t in trained.model_.state_dict().items())
    assert len(trained.pipeline_.calibration) == 20


def test_new_images_of_one_kind_go_to_its_group(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def images(n: int) -> ImageSet:
        return ImageSet.from_arrays(
            rng.integers(0, 255, (n, 8, 8), np.uint8), conditions={"camera": ["A", "B"] * (n // 2)}
        )

    detector = Detector("hog", {"name": "memory_bank", "coreset": None}, calibration={"method": "split"}, alpha=0.2)
    detector.fit(images(40))
    detector.update(images(40))
    assert detector.pipeline_.calibration.counts.tolist() == [10, 10]
    with pytest.raises(DataError, match="camera"):
        detector.update(images(20).annotate(None, {"camera": ["C"] * 20}))


@pytest.mark.slow
def test_an_update_takes_known_defects_beside_those_before() -> None:
    options = {"name": "features", "backbone": {"name": "own"}, "stride": 4, "average": 1, "image_size": 32}
    model = {"name": "patch_gaussian", "context": 0, "neighbours": 0}
    detector = Detector(options, model, alpha=ALPHA).fit(parts(20), backbone=TinyBackbone())
    images = ImageSet.from_arrays(np.concatenate([parts(30, seed=1), holed(parts(1, seed=2))]), np.arange(31) == 30)
    before = detector.pipeline_
    detector.update(images)
    assert detector.about_["labels"]["used"] == 1
    assert "defect_weight" not in before.state
    assert len(detector.pipeline_.state["defect_directions"]) == 1
    assert len(detector.pipeline_.calibration) == 15
    more = ImageSet.from_arrays(np.concatenate([parts(30, seed=3), holed(parts(2, seed=4), 20)]), np.arange(32) >= 30)
    first = detector.pipeline_.state["defect_directions"]
    detector.update(more)
    assert torch.equal(detector.pipeline_.state["defect_directions"][:1], first)
    assert len(detector.pipeline_.state["defect_reached"]) == 3
    kept = detector.pipeline_.state
    detector.update(parts(30, seed=5))
    assert all(torch.equal(detector.pipeline_.state[name], kept[name]) for name in kept)


@pytest.mark.slow
def test_factors_of_an_objective_are_no_conditions_of_new_items() -> None:
    """A value that only new items have is unknown: what the network learned of the others stays theirs."""
    images, lamp = np.random.default_rng(0).integers(20, 200, (150, 8, 8)).astype(np.uint8), np.array(list("ABC") * 50)
    lamp[100:] = "D"
    objective = {"name": "dan_vae", "nuisance_dim": 1, "factors": ("lamp",)}
    model = {"name": "vae", "net": "mlp", "latent_dim": 3, "objective": objective}
    fitted = Detector("pixels", model, training={"epochs": 1}, device="cpu")
    fitted.fit(images[:100], conditions={"lamp": lamp[:100]})
    old = {"old": images[:100], "old_conditions": {"lamp": lamp[:100]}}
    with pytest.raises(DataError, match="the model has no condition 'lamps'"):
        fitted.update(images[100:], conditions={"lamps": lamp[100:]}, **old)
    with pytest.raises(DataError, match="factors lamp have other values than when the model was fitted"):
        fitted.update(images[100:], conditions={"lamp": lamp[100:]}, **{**old, "old_conditions": {"lamp": ["A"] * 100}})
    fitted.update(images[100:], conditions={"lamp": lamp[100:]}, **old)
    assert fitted.pipeline_.objective_state["head.weight"].shape == (3, 1)


def test_columns_of_added_groups_are_no_conditions_of_new_items() -> None:
    rows = np.random.default_rng(0).normal(size=(150, 3))
    fitted = Detector("table", "memory_bank").fit(rows[:60])
    fitted.calibrate(rows[60:90], as_group={"camera": "B"})
    with pytest.warns(UserWarning, match="groups added to the calibration are gone"):
        fitted.update(rows[90:], conditions={"camera": ["B"] * 60})
    assert len(fitted.model_.bank) == 90


@pytest.mark.slow
def test_columns_of_added_groups_are_none_to_learn_known_defects_or_networks_by(network: Detector) -> None:
    detector = gaussian(parts(40))
    detector.calibrate(parts(20, 1), as_group={"camera": "B"})
    images = np.concatenate([parts(20, 2), holed(parts(2, 3))])
    detector.update(
        ImageSet.from_arrays(images, labels=np.arange(22) >= 20, conditions={"camera": ["B"] * 22}),
    )
    assert detector.about_["labels"]["given"] == 2
    x, kind = rows(160, 0), np.array(["a", "b"] * 80)
    model = {"name": "vae", "objective": "cvae", "net": {"name": "mlp", "hidden": (8,)}, "latent_dim": 2}
    fitted = Detector("table", model, alpha=ALPHA, training={"epochs": 1})
    fitted.fit(x[:80], conditions={"kind": kind[:80]})
    fitted.calibrate(x[80:100], conditions={"kind": kind[80:100]}, as_group={"camera": "B"})
    new = {"kind": kind[100:], "camera": ["B"] * 60}
    fitted.update(x[100:], conditions=new, old=x[:80], old_conditions={"kind": kind[:80]})
    assert fitted.about_["data"]["normals"] == 110


def test_a_column_of_the_model_is_a_condition_though_it_names_an_added_group() -> None:
    x, kind = rows(160, 0), np.array(["a", "b"] * 80)
    fitted = Detector("table", "memory_bank", alpha=0.2).fit(x[:80], conditions={"kind": kind[:80]})
    fitted.calibrate(x[80:100], as_group={"kind": "a"})
    fitted.update(x[100:], conditions={"kind": kind[100:]})
    assert fitted.pipeline_.calibration.counts.tolist() == [15, 15]


@pytest.mark.slow
def test_a_gaussian_of_all_locations_is_refused_before_an_image_is_read() -> None:
    backbone = TinyBackbone()
    features = {"name": "features", "backbone": "own", "image_size": 32, "stride": 4, "average": 1}
    fitted = Detector(features, "shared_gaussian", alpha=ALPHA).fit(parts(20), backbone=backbone)
    backbone.features = None  # type: ignore[assignment]
    with pytest.raises(SettingsError, match=r"model 'shared_gaussian' .* train on old and new ones together"):
        fitted.update(parts(20, 1))


@pytest.mark.slow
def test_what_is_said_of_a_network_is_of_its_last_training() -> None:
    x = np.random.default_rng(0).normal(size=(280, 12))
    x[200:240] = 0.5 * x[200:240] + 1
    net = {"name": "vae", "latent_dim": 2, "net": {"name": "mlp", "hidden": (8,)}}
    fitted = Detector("table", net, "elbo", alpha=ALPHA, training={"epochs": 3, "batch_size": 32})
    fitted.fit(x[:240], anomalies=np.arange(240) >= 200)
    assert "label_penalty" in fitted.detect(x[:2])
    settings = fitted.pipeline_.settings
    longer = settings.model_copy(update={"training": settings.training.model_copy(update={"epochs": 7})})
    fitted.pipeline_ = replace(fitted.pipeline_, settings=longer)
    with pytest.warns(UserWarning, match=r"no labelled anomalies, so the penalty .* is not learned again"):
        fitted.update(x[240:], old=x[:200])
    assert fitted.about_["training"]["epochs"] == 7
    assert "label_penalty" not in fitted.detect(x[:2])
    assert "labels" not in fitted.about_
    assert "penalty" not in fitted.card_
    shifted = Detector("table", net, "elbo", alpha=ALPHA, labels="shift", training={"epochs": 1})
    shifted.fit(x[:240], anomalies=np.arange(240) >= 200)
    with pytest.warns(UserWarning, match="so what was learned from some is not learned again"):
        shifted.update(x[240:], old=x[:200])
    assert shifted.pipeline_.settings.labels.name == "shift"


def test_new_items_between_the_known_bins_of_two_numbers_calibrate_and_are_not_learned_from() -> None:
    x = rows(200, 0)
    numbers = {name: np.random.default_rng(k).uniform(size=200) for k, name in enumerate(("light", "heat"))}

    def of(some: slice) -> dict[str, np.ndarray]:
        return {name: values[some] for name, values in numbers.items()}

    fitted = Detector("table", "memory_bank", alpha=ALPHA).fit(x[:60], conditions=of(slice(60)))
    unseen = fitted.pipeline_.schema.expand(of(slice(60, None)), 140).stratum < 0
    assert 20 < unseen.sum() < 120
    with pytest.warns(UserWarning, match=r"of 70 rows to learn from have a combination .* they are left out"):
        fitted.update(x[60:], conditions=of(slice(60, None)))
    took = np.isin(TableSet.from_array(x[60:]).digests(), fitted.pipeline_.fitted_to)
    assert len(fitted.model_.bank) == 60 + took.sum() < 130
    assert not (took & unseen).any()
    assert len(fitted.pipeline_.calibration) == 70
    only = {name: values[unseen] for name, values in of(slice(60, None)).items()}
    again = Detector("table", "memory_bank", alpha=ALPHA).fit(x[:60], conditions=of(slice(60)))
    with pytest.raises(DataError, match="train on old and new ones together"):
        again.update(x[60:][unseen], conditions=only)
