"""scikit-learn's own checks of an outlier detector."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from knowngood import Detector
from knowngood.config import Settings, parse_settings
from knowngood.errors import DataError, OutputError, SettingsError

QUICK = Detector(model={"name": "vae", "net": {"name": "mlp", "hidden": (16,)}}, training={"epochs": 3}, device="cpu")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:alpha = 0.05 cannot be guaranteed")
@parametrize_with_checks([QUICK])
def test_estimator_contract(estimator, check):
    check(estimator)


def test_parameters_are_the_settings():
    assert set(Detector().get_params(deep=False)) == set(Settings.model_fields)
    assert parse_settings(Detector().get_params(deep=False)) == Settings()


def test_parameters_are_described():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_parameter_that_changed_since_the_fit_changes_no_verdict():
    rows = np.random.default_rng(0).normal(size=(160, 3))
    detector = Detector("table", "memory_bank", alpha=0.1).fit(rows[:100])
    before, flagged = detector.detect(rows[100:]), detector.predict(rows[100:]) == -1
    detector.set_params(alpha=0.5)
    assert detector.detect(rows[100:]).equals(before)
    assert (before["is_anomalous"] == flagged).all()


def test_labels_in_y_are_ignored_with_a_warning():
    rows = np.random.default_rng(0).normal(size=(60, 3))
    detector = Detector("table", "memory_bank")
    with pytest.warns(UserWarning, match=r"the 4 items with y = -1 count as normal.*anomalies=\(y == -1\)"):
        detector.fit(rows, np.repeat([1, -1], [56, 4]))
    with pytest.warns(UserWarning, match=r"it is text, such as 'A'.*conditions=\{\"kind\": y\}"):
        detector.fit(rows, np.repeat(["A", "B"], 30))
    assert detector.about_["data"]["normals"] == 60
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.fit(rows, np.ones(60))


def test_an_iterator_is_fitted_to_and_predicted():
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), np.uint8)
    fitted = Detector("pixels", "memory_bank", alpha=0.1)
    assert np.array_equal(fitted.fit_predict(iter(images)), fitted.predict(images))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_is_none_is_refused_by_name(seed):
    with pytest.raises(SettingsError, match=f"setting 'random_state' = {seed}: input should be"):
        Detector("table", "memory_bank", random_state=seed).fit(np.zeros((20, 2)))


def test_a_tensor_of_half_precision_is_a_table():
    rows = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    fitted = Detector("table", "memory_bank", alpha=0.1).fit(rows)
    assert np.array_equal(fitted.predict(rows), fitted.predict(rows.float().numpy()))


def test_options_are_set_by_their_names_and_searched_over():
    detector = Detector("table", {"name": "vae", "objective": {"name": "dcvae", "beta": 3}}, training={"lr": 0.01})
    detector.set_params(training__epochs=2, model__objective__tc="gaussian", calibration__fraction=0.3, alpha=0.2)
    settings = parse_settings(detector.get_params())
    objective = settings.model_dump()["model"]["objective"]
    assert (objective["beta"], objective["tc"]) == (3, "gaussian")
    assert (settings.training.epochs, settings.training.lr) == (2, 0.01)
    assert (settings.calibration.fraction, settings.alpha) == (0.3, 0.2)
    with pytest.raises(SettingsError, match=r"model = {'latent_dim': 3} says no name; give 'name' too, one of vae"):
        Detector("table").set_params(model__latent_dim=3).fit(np.zeros((20, 2)))
    with pytest.raises(ValueError, match="Invalid parameter 'trainin'"):
        detector.set_params(trainin__epochs=3)
    rows = np.random.default_rng(0).normal(size=(60, 2))
    bank = Detector("table", "memory_bank", {"name": "neighbours", "k": 9}, alpha=0.2)
    search = GridSearchCV(
        bank, {"score__k": [3, 1]}, cv=2, scoring=lambda fitted, x, y=None: fitted.score_samples(x).mean()
    )
    assert search.fit(rows).best_params_ == {"score__k": 1}
    assert bank.get_params()["score"]["k"] == 9


@pytest.mark.parametrize("below", ["file", "file/run"])
def test_a_run_dir_that_no_folder_can_be_is_refused_before_anything_is_read(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file cannot be written: .*; a file stands where a folder is needed"):
        QUICK.fit(iter(()), run_dir=tmp_path / below)


@pytest.mark.parametrize("ask", ["detect", "predict", "score_samples"])
def test_what_to_do_with_unknown_conditions_is_one_of_two(ask):
    rows = np.random.default_rng(0).normal(size=(60, 2))
    fitted = Detector("table", "memory_bank", alpha=0.2).fit(rows)
    with pytest.raises(SettingsError, match="unknown='maybe': expected 'error' or 'infer'"):
        getattr(fitted, ask)(rows, unknown="maybe")


@pytest.mark.slow
def test_a_condition_that_is_a_column_of_the_table_too_is_no_feature():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.normal(size=(60, 2)), columns=["a", "b"]).assign(camera=["A", "B"] * 30)
    rest = rows.drop(columns="camera")
    expected = Detector("table", "memory_bank", alpha=0.2).fit(rest, conditions=rows["camera"])
    fitted = Detector("table", "memory_bank", alpha=0.2).fit(rows, conditions=rows["camera"])
    assert list(fitted.feature_names_in_) == ["a", "b"]
    scores = expected.score_samples(rest, conditions=rows["camera"])
    for given in (rows["camera"], rows[["camera"]], {"camera": rows["camera"].to_numpy()}, "camera", None):
        assert np.array_equal(fitted.score_samples(rows, conditions=given), scores)
    assert np.array_equal(fitted.score_samples(rows[:1], conditions={"camera": "A"}), scores[:1])
    with pytest.raises(DataError, match="'camera' is a column of the table and is given in conditions, with other"):
        fitted.score_samples(rows, conditions={"camera": "A"})


def test_a_column_of_numbers_may_be_a_feature_and_a_condition():
    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)), columns=["a", "b"])
    fitted = Detector("table", "memory_bank", alpha=0.2).fit(rows, conditions=rows["b"])
    assert list(fitted.feature_names_in_) == ["a", "b"]
    assert len(fitted.score_samples(rows, conditions=rows["b"])) == 60


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (pd.DataFrame(np.zeros((9, 2)), columns=["a", "a"]), "column 'a' comes twice"),
        (pd.DataFrame({"a": [1.0] * 9, "b": "x"}), "column 'b' holds 'x', and a table holds numbers"),
        (pd.DataFrame(index=range(9)), r"the table has no columns; expected numbers \(N, F\)"),
        (pd.DataFrame({"a": [1.0] * 9, "b": "x"})[:0], "no rows; expected 2 or more"),
        (pd.DataFrame(np.zeros((9, 2)), columns=["a", 3]), "Feature names"),
        (np.zeros(9), r"X has shape \(9,\); expected images \(N, H, W\) or a table of numbers"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(rows, said):
    with pytest.raises(DataError, match=said):
        Detector("table", "memory_bank").fit(rows)
