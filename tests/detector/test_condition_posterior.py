"""p(c|x): a temperature that undoes odds which are too sure, and what it says where no error was seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from knowngood import Detector
from knowngood.detector.condition_posterior import fitted_temperature


def posterior(log_p: np.ndarray, log_share: np.ndarray, t: float) -> np.ndarray:
    """p(c|x) ∝ π_c · p(x|c)^(1/T)."""
    joint = log_p / t + log_share
    p = np.exp(joint - joint.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.0, 3.0, 20.0])
def test_odds_that_are_too_sure_by_a_factor_are_brought_back(factor: float) -> None:
    rng = np.random.default_rng(0)
    log_p, log_share = 2 * rng.normal(size=(4000, 5)), np.log([0.1, 0.3, 0.2, 0.2, 0.2])
    truth = np.array([rng.choice(5, p=p) for p in posterior(log_p, log_share, 1.0)])
    assert fitted_temperature(factor * log_p, log_share, truth) == pytest.approx(factor, rel=0.08)


@pytest.mark.parametrize("n", [30, 100, 1000])
def test_without_an_error_about_one_of_n_is_taken_to_be_wrong(n: int) -> None:
    truth = np.arange(n) % 3
    log_p = -500.0 * (np.arange(3) != truth[:, None]) - 100.0 * (np.arange(3) == (truth[:, None] + 2) % 3)
    p = posterior(log_p, np.log(np.full(3, 1 / 3)), fitted_temperature(log_p, np.log(np.full(3, 1 / 3)), truth))
    assert 1 - p[0, 0] == pytest.approx(1 / (n + 1), rel=0.3)


@pytest.mark.slow
def test_of_digits_the_likeliest_is_right_as_often_as_is_said(tmp_path) -> None:
    digits: Any = load_digits()
    images, digit = digits.data[digits.target < 6], digits.target[digits.target < 6]
    images = (images.reshape(-1, 8, 8) * 15).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:750], order[750:]
    detector = Detector.from_preset("known-kinds", training={"epochs": 8})
    detector.fit(images[train], conditions={"class": digit[train].astype(str)})
    assert detector.pipeline_.state["condition_temperature"] > 1
    found = detector.condition_probabilities(images[test]).set_index("id")
    p = found.max(axis=1).to_numpy()
    right = found.columns[found.to_numpy().argmax(axis=1)] == [f"class={k}" for k in digit[test]]
    assert right.mean() > 0.95
    assert p.mean() == pytest.approx(right.mean(), abs=0.03)
    assert p[~right].max() < 0.9999
    loaded = Detector.load(detector.save(tmp_path / "model"))
    assert (
        loaded.condition_probabilities(images[test[:20]])
        .set_index("id")
        .equals(detector.condition_probabilities(images[test[:20]]).set_index("id"))
    )
