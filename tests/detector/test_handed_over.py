"""What a program hands over in an unexpected form is understood, or refused with what is meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from knowngood import Detector
from knowngood.errors import DataError, SettingsError

SITES = np.array(["A", "B"] * 30)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    moved = np.where(SITES == "B", 6.0, 0.0)[:, None]
    return pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)) + moved, columns=["a", "b"])


@pytest.fixture(scope="module")
def bank(rows: pd.DataFrame) -> Detector:
    return Detector("table", "memory_bank", alpha=0.2).fit(rows, conditions={"site": SITES})


def test_conditions_and_labels_are_those_of_the_rows_with_their_index(rows: pd.DataFrame, bank: Detector) -> None:
    other = pd.Series(SITES, name="site").sample(frac=1, random_state=1)
    expected = bank.score_samples(rows, conditions={"site": SITES})
    for given in (other, other.to_frame(), {"site": other}):
        assert np.array_equal(bank.score_samples(rows, conditions=given), expected)
        fitted = Detector("table", "memory_bank", alpha=0.2).fit(rows, conditions=given)
        assert np.array_equal(fitted.score_samples(rows, conditions={"site": SITES}), expected)
    labels = pd.Series(np.arange(60) < 5, index=range(60)).iloc[::-1]
    fitted = Detector("table", "memory_bank", alpha=0.2, labels="ignore").fit(rows, anomalies=labels)
    assert np.array_equal(np.sort(fitted.split_["fit"]), np.arange(55))
    assert fitted.about_["data"]["known_anomalies"] == 5
    assert fitted.score_samples(rows[:5]).max() < fitted.score_samples(rows[5:]).max()


def test_what_is_fitted_is_shown_in_a_line(bank: Detector) -> None:
    said = "Pipeline(table, memory_bank, neighbours; cross calibration, 60 calibration items)"
    assert repr(bank.pipeline_) == said


def test_an_index_that_just_counts_stands_for_positions(rows: pd.DataFrame, bank: Detector) -> None:
    later = rows.set_index(pd.Index(range(100, 160)))
    expected = bank.score_samples(rows, conditions={"site": SITES})
    assert np.array_equal(bank.score_samples(later, conditions=pd.Series(SITES, name="site")), expected)
    with pytest.raises(DataError, match=r"conditions: the index, from 5, is not that of X, from 100; .*to_numpy"):
        bank.score_samples(later, conditions=pd.Series(SITES, name="site", index=range(5, 65)))


def test_one_array_is_the_one_condition_of_the_model(rows: pd.DataFrame, bank: Detector) -> None:
    expected = bank.score_samples(rows, conditions={"site": SITES})
    for given in (SITES, SITES.tolist()):
        assert np.array_equal(
            bank.score_samples(rows if given is SITES else rows.to_numpy(), conditions=given), expected
        )


def test_conditions_of_a_model_without_any_are_named(rows: pd.DataFrame) -> None:
    plain = Detector("table", "memory_bank", alpha=0.2).fit(rows)
    with pytest.warns(UserWarning, match="the model was fitted without conditions, and ignores 'site'"):
        plain.detect(rows[:2], conditions={"site": "A"})


def test_conditions_that_the_fit_was_given_and_left_out_are_not(
    rows: pd.DataFrame, recwarn: pytest.WarningsRecorder
) -> None:
    given = {"line": ["1"] * 60, "serial": [f"SN-{i}" for i in range(60)]}
    settings = {"roles": {"line": ()}}
    fitted = Detector("table", "memory_bank", alpha=0.2, conditioning=settings).fit(rows, conditions={"line": "1"})
    recwarn.clear()
    fitted.score_samples(rows, conditions={"line": given["line"]})
    assert not [one for one in recwarn if "without conditions" in str(one.message)]
    fitted.score_samples(rows, conditions=pd.DataFrame(given))
    assert [one for one in recwarn if "ignores 'serial'" in str(one.message)]


def test_a_false_discovery_rate_that_can_flag_nothing_is_said(
    bank: Detector, rows: pd.DataFrame, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.warns(UserWarning, match=r"fdr = 0.01 can flag nothing with 60 calibration items, it needs 99: fit"):
        assert not bank.detect(rows, conditions=SITES, fdr=0.01)["is_anomalous"].any()
    recwarn.clear()
    bank.detect(rows, conditions=SITES, fdr=0.05)
    assert not [one for one in recwarn if "fdr" in str(one.message)]


def test_images_that_a_fit_leaves_out_are_named() -> None:
    images = np.random.default_rng(0).random((120, 8, 8))
    images[3, 2, 2] = np.nan
    with pytest.warns(UserWarning, match="1 of 120 images set aside: 003: holds values that are NaN"):
        Detector("pixels", "memory_bank", alpha=0.2).fit(images)


@pytest.mark.parametrize(("y", "mark"), [([1] * 50 + [-1] * 10, -1), ([0] * 50 + [1] * 10, 1), (np.arange(60) > 49, 1)])
def test_y_that_may_mark_anomalies_is_said_to_be_ignored(y: Any, mark: int, rows: pd.DataFrame) -> None:
    with pytest.warns(UserWarning, match=f"y is ignored, .*the 10 items with y = {mark} count as normal"):
        Detector("table", "memory_bank", alpha=0.2).fit(rows, y)


TENSOR = torch.zeros(9, 16, 16, 3)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (TENSOR, r"seems to be channels-last; .*tensor\.permute\(0, 3, 1, 2\)"),
        (list(TENSOR), r"item 0 of the list .* seems to be channels-last; .*tensor\.permute\(2, 0, 1\)"),
        (
            TensorDataset(TENSOR),
            r"X is a TensorDataset of torch; give its images as .*\(image for image, \*_ in dataset\)",
        ),
        (DataLoader(TensorDataset(TENSOR)), "X is a DataLoader of torch; give its images as"),
        (
            pd.DataFrame({"img": ["a/b.png"] * 9}),
            "column 'img' holds 'a/b.png': if these are paths of images, rename it",
        ),
        (
            pd.DataFrame({"t": pd.to_datetime(["2026-01-01"] * 9), "b": 1.0}),
            "column 't' holds '2026-01-01 00:00:00', and a",
        ),
    ],
)
def test_what_is_not_understood_is_refused_with_what_is_meant(images: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Detector(alpha=0.2).fit(images)


def test_labels_of_scikit_learn_are_recognised(rows: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=r"label -1 of '50' .*\(−1 of scikit-learn is 1 here\)"):
        Detector("table", "memory_bank").fit(rows, anomalies=[1] * 50 + [-1] * 10)


@pytest.mark.parametrize(
    ("name", "objective"), [("dcvae", "dcvae"), ("FactorVAE", "factor_vae"), ("β-VAE", "beta_vae")]
)
def test_an_objective_in_place_of_the_model_is_recognised(name: str, objective: str) -> None:
    with pytest.raises(SettingsError, match=f"unknown model '{name}'; it is an objective: .*: '{objective}'"):
        Detector("pixels", name).fit(np.zeros((9, 8, 8)))


def test_a_table_without_rows_is_refused_plainly(rows: pd.DataFrame, bank: Detector) -> None:
    with pytest.raises(DataError, match="the table has no rows; expected 2 or more"):
        Detector("table", "memory_bank").fit(rows[:0])
    with pytest.raises(DataError, match="the table has no rows; expected at least one"):
        bank.score_samples(rows.to_numpy()[:0], conditions={"site": SITES[:0]})
