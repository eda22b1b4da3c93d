"""Whether a batch fits the calibration: how often one that does is called a misfit, and that one that does not is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from knowngood.calibration import misfit, misfit_words, p_values
from knowngood.calibration.batch import LEVEL


def drawn(rng: np.random.Generator, n: int, m: int, shift: float = 0.0) -> np.ndarray:
    """p-values (m,) of normal scores against n of their kind, that lie `shift` standard deviations higher."""
    return p_values(rng.normal(size=n), rng.normal(size=m) + shift)


@pytest.mark.slow
@pytest.mark.parametrize("n", [9, 19, 60, 300])
@pytest.mark.parametrize("m", [1, 5, 40, 400])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
def test_a_batch_like_the_calibration_set_is_hardly_ever_called_a_misfit(n: int, m: int, alpha: float) -> None:
    rng = np.random.default_rng([n, m])
    assert sum(misfit(drawn(rng, n, m), n, alpha) is not None for _ in range(200)) <= 2


@pytest.mark.slow
def test_over_all_orders_the_probability_of_a_misfit_is_at_most_the_level() -> None:
    """Of n + m exchangeable scores every choice of the m is as likely; all are counted, none drawn."""
    for n, m in ((19, 3), (9, 4)):
        ranks, called = np.arange(n + m), 0
        choices = list(itertools.combinations(range(n + m), m))
        for some in choices:
            batch = np.isin(ranks, some)
            called += misfit(p_values(ranks[~batch], ranks[batch]), n, 0.05) is not None
        assert called <= LEVEL * len(choices)


@pytest.mark.slow
def test_groups_share_the_level_and_ties_only_lower_it() -> None:
    rng, called = np.random.default_rng(5), 0
    for _ in range(100):
        parts = [p_values(rng.integers(0, 9, 30), rng.integers(0, 9, 12)) for _ in range(8)]
        called += misfit(np.concatenate(parts), 30, 0.1, np.repeat(np.arange(8), 12)) is not None
    assert called <= 1


@pytest.mark.parametrize("n", [19, 60, 300])
def test_a_shifted_batch_is_called_a_misfit(n: int) -> None:
    rng = np.random.default_rng(1)
    found = [misfit(drawn(rng, n, 20, 3.0), n, 0.05) for _ in range(50)]
    assert sum(one is not None for one in found) >= 49
    assert all(one.flagged > 5 * one.expected and one.rank > 0.9 for one in found if one is not None)


def test_everything_flagged_in_many_small_groups_is_a_misfit_that_no_group_is_alone() -> None:
    p, group = np.full(20, 1 / 20), np.arange(20)
    found = misfit(p, 19, 0.05, group)
    assert found is not None
    assert (found.items, found.flagged, found.groups) == (20, 20, ())
    assert found.expected == pytest.approx(1)


def test_the_group_that_stands_out_is_named() -> None:
    rng = np.random.default_rng(2)
    p = np.concatenate([drawn(rng, 100, 60), drawn(rng, 100, 30, 3.0)])
    found = misfit(p, 100, 0.05, np.repeat([4, 7], [60, 30]))
    assert found is not None
    assert found.groups == (7,)


def test_where_nothing_can_be_flagged_the_ranks_say_it() -> None:
    rng = np.random.default_rng(3)
    found = misfit(drawn(rng, 60, 30, 2.0), 60, 0.001)
    assert found is not None
    assert found.flagged == found.expected == 0


def test_a_difference_that_is_certain_but_small_is_none() -> None:
    p = (np.arange(1, 20001) - 0.5) / 20000 * 0.97  # 5.2 % flagged of 20,000
    assert misfit(p, 100_000, 0.05) is None
    assert misfit([], 10, 0.05) is None


def test_far_in_its_tail_the_normal_law_of_the_ranks_is_larger_than_the_exact_one() -> None:
    for n, m in ((5, 5), (9, 8), (19, 6), (30, 12)):
        for extreme in range(3):  # the batch on top, but for a few calibration scores
            calibration = np.arange(n, dtype=float)
            batch = n + np.arange(m) - extreme - 0.5
            exact = stats.mannwhitneyu(batch, calibration, alternative="greater", method="exact")
            z = (exact.statistic - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12)
            if exact.pvalue <= LEVEL / 4:
                assert stats.norm.sf(z) >= exact.pvalue


def test_a_batch_of_which_nothing_is_flagged_is_described_by_its_ranks() -> None:
    found = misfit(np.full(25, 0.02), 60, 0.001)
    assert found is not None
    assert found.flagged == 0
    assert "score higher than" in misfit_words(found, "images", "images", 0.001)
