"""The mismatch with a stated condition against Bayes' rule, of Gaussians and of a table; what changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from knowngood.errors import DataError
from knowngood.scores.mismatch import by_value, mismatch

CODES = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]])  # of two columns, in five conditions


def energies(n: int = 40, k: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (n, k))


@pytest.mark.parametrize("dims", [2, 8, 32])
def test_of_a_linear_gaussian_model_it_is_the_log_odds_of_bayes_rule(dims: int) -> None:
    """x = W z + m_c + ε has the density N(m_c, W Wᵀ + σ² I)."""
    rng = np.random.default_rng(dims)
    loading, means = rng.normal(size=(dims, 2)), rng.normal(size=(3, dims))
    covariance = loading @ loading.T + 0.5 * np.eye(dims)
    prior, stated = np.array([0.5, 0.3, 0.2]), rng.integers(0, 3, 60)
    x = means[rng.integers(0, 3, 60)] + rng.multivariate_normal(np.zeros(dims), covariance, 60)
    density = np.stack([multivariate_normal.logpdf(x, mean, covariance) for mean in means], axis=1)
    joint = np.log(prior) + density
    posterior = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None])
    found = mismatch(-density, stated, np.log(prior))
    own = posterior[np.arange(60), stated]
    clear = (own > 1e-6) & (own < 1 - 1e-6)  # elsewhere 1 − p cancels
    np.testing.assert_allclose(found.log_odds[clear], np.log(1 / own[clear] - 1), rtol=1e-6, atol=1e-7)
    without = np.where(np.eye(3, dtype=bool)[stated], -1, posterior)
    np.testing.assert_array_equal(found.other, without.argmax(axis=1))


def test_of_two_conditions_it_is_the_linear_discriminant() -> None:
    """With one covariance I: log p(x|1) − log p(x|0) = x·(m₁ − m₀) − (|m₁|² − |m₀|²)/2."""
    rng = np.random.default_rng(0)
    x, means = rng.normal(size=(30, 8)), rng.normal(size=(2, 8))
    energy = 0.5 * np.square(x[:, None] - means).sum(2)
    found = mismatch(energy, np.zeros(30, int)).log_odds
    np.testing.assert_allclose(found, x @ (means[1] - means[0]) - (np.square(means) @ np.ones(8) @ [-1, 1]) / 2)


def test_of_a_table_it_is_counted() -> None:
    """p(x|c) of three outcomes under two values of each of two columns; per column the other one is averaged out."""
    table = np.random.default_rng(1).dirichlet(np.ones(3), 4)  # rows: cells (0,0), (0,1), (1,0), (1,1)
    prior = np.array([0.4, 0.1, 0.2, 0.3])
    energy, codes = -np.log(table.T), np.array([0, 0, 1, 1])
    joint = prior[:, None] * table
    found = mismatch(energy, [1, 1, 1], np.log(prior)).log_odds
    np.testing.assert_allclose(found, np.log((joint.sum(0) - joint[1]) / joint[1]))
    column = mismatch(by_value(energy, codes, np.log(prior)), [0, 0, 0]).log_odds
    np.testing.assert_allclose(column, np.log(joint[2:].sum(0) / joint[:2].sum(0)))


def test_what_is_added_to_all_energies_of_an_item_changes_nothing() -> None:
    energy, stated = energies(), np.arange(40) % 5
    moved = energy + np.random.default_rng(1).normal(0, 1000, (40, 1))
    one, other = mismatch(energy, stated), mismatch(moved, stated)
    np.testing.assert_allclose(one.log_odds, other.log_odds, atol=1e-9)
    np.testing.assert_array_equal(one.other, other.other)


def test_conditions_in_another_order_or_that_are_no_choice_change_nothing() -> None:
    energy, stated, order = energies(), np.arange(40) % 5, np.array([3, 0, 4, 1, 2])
    weight = np.log([0.1, 0.2, 0.3, 0.3, 0.1])
    plain = mismatch(energy, stated, weight)
    moved = mismatch(energy[:, order], np.argsort(order)[stated], weight[order])
    np.testing.assert_allclose(moved.log_odds, plain.log_odds)
    np.testing.assert_array_equal(order[moved.other], plain.other)
    wider = np.concatenate([energy, np.full((40, 2), np.inf)], axis=1)
    np.testing.assert_allclose(mismatch(wider, stated, np.append(weight, [0, 0])).log_odds, plain.log_odds)


def test_it_rises_with_the_energy_of_the_stated_condition_alone() -> None:
    energy, stated = energies(), np.zeros(40, int)
    worse = energy + 2 * (np.arange(5) == 0)
    np.testing.assert_allclose(mismatch(worse, stated).log_odds, mismatch(energy, stated).log_odds + 2)


def test_a_temperature_divides_energies_and_small_ones_leave_the_best_alternative() -> None:
    energy, stated = energies(), np.zeros(40, int)
    np.testing.assert_allclose(
        mismatch(energy, stated, temperature=4.0).log_odds, mismatch(energy / 4, stated).log_odds
    )
    cold = 1e-3 * mismatch(energy, stated, temperature=1e-3).log_odds
    np.testing.assert_allclose(cold, energy[:, 0] - energy[:, 1:].min(axis=1), atol=2e-3)


def test_values_of_one_column_are_the_conditions_themselves_and_unused_ones_are_no_choice() -> None:
    energy = energies()
    np.testing.assert_allclose(by_value(energy, np.arange(5)), energy)
    each = by_value(energy, CODES[:, 1])
    np.testing.assert_allclose(each[:, 2], energy[:, 4])
    np.testing.assert_allclose(each[:, 0], -np.logaddexp(-energy[:, 0], -energy[:, 2]))
    assert np.isinf(by_value(energy, CODES[:, 1] + 1)[:, 0]).all()


def test_without_another_condition_nothing_speaks_against_the_stated_one() -> None:
    assert mismatch(energies(k=1), np.zeros(40, int)).log_odds.max() == -np.inf


@pytest.mark.parametrize(
    ("energy", "stated", "what"),
    [
        (np.full((2, 3), np.nan), [0, 0], "NaN"),
        (np.zeros(3), [0, 0, 0], "shape"),
        (np.zeros((2, 3)), [0, 3], "0 to 2"),
        (np.zeros((2, 3)), [0], "2 conditions"),
        (np.full((2, 3), np.inf), [0, 0], "energy inf"),
    ],
)
def test_what_is_no_energy_or_no_condition_is_refused(energy: np.ndarray, stated: list[int], what: str) -> None:
    with pytest.raises(DataError, match=what):
        mismatch(energy, stated)
