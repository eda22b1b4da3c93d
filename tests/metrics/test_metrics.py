from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from knowngood.errors import DataError, SettingsError
from knowngood.metrics import auroc_interval, average_precision, fpr_at_tpr, roc_auc, roc_curve

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
    assert auroc_interval(labels, scores)[1] == 1.0


def test_infinite_scores_rank_beyond_all_others() -> None:
    assert roc_auc([0, 0, 1, 1], [-np.inf, 5, 4, np.inf]) == 0.75


@pytest.mark.parametrize("metric", [roc_auc, average_precision, roc_curve, fpr_at_tpr, auroc_interval])
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
        auroc_interval([0, 1], [0.0, 1], level=95)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (10, 10), (20, 5), (400, 30)])
def test_a_perfect_ranking_has_no_interval_of_one_point(n: int, m: int) -> None:
    """The bound is where Hanley and McNeil's variance puts 1 at 1.96 standard deviations."""
    labels, scores = np.repeat([0, 1], [n, m]), np.arange(n + m)
    low, high = auroc_interval(labels, scores)
    shared = ((n + m) / 2 - 1) * ((1 - low) / (2 - low) + low / (1 + low))
    assert 1 - low == pytest.approx(1.959964 * np.sqrt(low * (1 - low) * (1 + shared) / (n * m)), rel=1e-6)
    assert high == 1
    assert auroc_interval(labels, -scores) == pytest.approx((0, 1 - low), abs=1e-12)


def test_a_higher_level_and_fewer_items_are_a_wider_interval() -> None:
    rng = np.random.default_rng(0)
    labels, scores = np.repeat([0.0, 1.0], [30, 20]), rng.integers(0, 8, size=50).astype(float)
    wide, narrow = auroc_interval(labels, scores, level=0.99), auroc_interval(labels, scores, level=0.5)
    assert wide[0] < narrow[0] < roc_auc(labels, scores) < narrow[1] < wide[1]
    more = auroc_interval(np.tile(labels, 9), np.tile(scores, 9), level=0.99)
    assert wide[0] < more[0] < more[1] < wide[1]


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m"), [(10, 10), (20, 5), (5, 40), (50, 50), (300, 30)])
@pytest.mark.parametrize("spread", [1, 2])
def test_the_interval_covers_the_auroc_of_the_population(n: int, m: int, spread: int) -> None:
    """Of normal and anomalous scores N(0, 1) and N(d, spread²): AUROC Φ(d / √(1 + spread²))."""
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], [n, m])
    for auroc in (0.6, 0.95):
        d = norm.ppf(auroc) * np.sqrt(1 + spread**2)
        drawn = np.concatenate([rng.normal(size=(200, n)), rng.normal(d, spread, size=(200, m))], axis=1)
        covered = np.mean([low <= auroc <= high for low, high in (auroc_interval(labels, one) for one in drawn)])
        assert covered >= 0.91


@pytest.mark.slow
def test_with_many_items_the_interval_is_that_of_the_variance_of_the_items() -> None:
    """Of DeLong, from the share of the other class that each item beats; above that of the exponential model."""
    rng = np.random.default_rng(2)
    n, m = 4000, 3000
    normal, anomalous = rng.normal(size=n), rng.normal(1.2, 3, size=m)
    labels, scores = np.repeat([0.0, 1.0], [n, m]), np.concatenate([normal, anomalous])
    beats = anomalous[:, None] > normal
    error = np.sqrt(beats.mean(1).var(ddof=1) / m + beats.mean(0).var(ddof=1) / n)
    low, high = auroc_interval(labels, scores)
    assert low < roc_auc(labels, scores) < high
    assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.01)
