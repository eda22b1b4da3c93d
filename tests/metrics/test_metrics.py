from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from knowngood.errors import DataError, SettingsError
from knowngood.metrics import average_precision, bootstrap_interval, fpr_at_tpr, roc_auc, roc_curve

labelled_scores = st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), min_size=2, max_size=40)


@pytest.mark.slow
@settings(deadline=None)  # the first call imports scikit-learn
@given(labelled_scores)
def test_auc_counts_pairs(pairs: list[tuple[int, int]]) -> None:
    labels, scores = np.array(pairs, float).T
    assume(0 < labels.sum() < len(labels))
    normal, anomalous = scores[labels == 0], scores[labels == 1]
    wins = [(b > g) + 0.5 * (b == g) for b in anomalous for g in normal]
    assert roc_auc(labels, scores) == pytest.approx(np.mean(wins))


@pytest.mark.slow
@given(labelled_scores, st.sampled_from([0.5, 0.95, 1.0]))
def test_fpr_at_tpr_is_the_least_over_thresholds(pairs: list[tuple[int, int]], tpr: float) -> None:
    labels, scores = np.array(pairs, float).T
    assume(0 < labels.sum() < len(labels))
    normal, anomalous = scores[labels == 0], scores[labels == 1]
    expected = min((normal >= t).mean() for t in scores if (anomalous >= t).mean() >= tpr)
    assert fpr_at_tpr(labels, scores, tpr) == pytest.approx(expected)


def test_known_values() -> None:
    labels, scores = [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]
    assert roc_auc(labels, scores) == 0.75
    assert average_precision(labels, scores) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert fpr_at_tpr(labels, scores) == 0.5
    curve = roc_curve(labels, scores)
    assert curve.fpr.tolist() == [0, 0, 0.5, 0.5, 1]
    assert curve.tpr.tolist() == [0, 0.5, 0.5, 1, 1]
    assert curve.thresholds.tolist() == [np.inf, 0.8, 0.4, 0.35, 0.1]


def test_unknown_labels_are_ignored() -> None:
    labels, scores = [0, np.nan, 1, np.nan], [1.0, np.nan, 2.0, 0.0]
    assert roc_auc(labels, scores) == 1.0
    assert average_precision(labels, scores) == 1.0
    assert bootstrap_interval(labels, scores) == (1.0, 1.0)


def test_infinite_scores_rank_beyond_all_others() -> None:
    assert roc_auc([0, 0, 1, 1], [-np.inf, 5, 4, np.inf]) == 0.75


@pytest.mark.parametrize("metric", [roc_auc, average_precision, roc_curve, fpr_at_tpr, bootstrap_interval])
def test_what_cannot_be_ranked_is_refused(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(DataError, match="3 normal and 0 anomalous"):
        metric([0, 0, 0, np.nan], [1.0, 2, 3, 4])
    with pytest.raises(DataError, match=r"labels \(2,\) and scores \(3,\)"):
        metric([0, 1], [1.0, 2, 3])
    with pytest.raises(DataError, match="label 2; expected 0"):
        metric([0, 1, 2], [1.0, 2, 3])
    with pytest.raises(DataError, match="1 of 2 labelled items have the score NaN"):
        metric([0, 1], [1.0, np.nan])


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingsError, match="tpr = 95"):
        fpr_at_tpr([0, 1], [0.0, 1], 95)
    with pytest.raises(SettingsError, match="level = 95"):
        bootstrap_interval([0, 1], [0.0, 1], level=95)


def test_bootstrap_counts_what_resampling_would() -> None:
    """The quantiles of scikit-learn's AUROC on the resampled items, with ties."""
    rng = np.random.default_rng(0)
    labels, scores = np.repeat([0.0, 1.0], [30, 20]), rng.integers(0, 8, size=50).astype(float)
    again = np.random.default_rng(1)
    normal, anomalous = again.integers(30, size=(25, 30)), again.integers(20, size=(25, 20)) + 30
    expected = [roc_auc(labels[i], scores[i]) for i in np.concatenate([normal, anomalous], axis=1)]
    for level in (0.1, 0.5, 0.9):
        got = bootstrap_interval(labels, scores, level=level, resamples=25, seed=1)
        assert got == pytest.approx(np.quantile(expected, [(1 - level) / 2, (1 + level) / 2]), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 10])  # with 7,000 items the resamples are drawn in several chunks
def test_bootstrap_interval_matches_the_variance_of_the_auc(times: int) -> None:
    """Against DeLong's variance, from the share of the other class that each item beats."""
    rng = np.random.default_rng(2)
    n, m = 400 * times, 300 * times
    normal, anomalous = rng.normal(size=n), rng.normal(1.2, 1, size=m)
    labels, scores = np.repeat([0.0, 1.0], [n, m]), np.concatenate([normal, anomalous])
    beats = anomalous[:, None] > normal
    error = np.sqrt(beats.mean(1).var(ddof=1) / m + beats.mean(0).var(ddof=1) / n)
    low, high = bootstrap_interval(labels, scores)
    assert low < roc_auc(labels, scores) < high
    assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.07)
    assert (low, high) == bootstrap_interval(labels, scores, seed=0)
    assert (low, high) != bootstrap_interval(labels, scores, seed=1)
