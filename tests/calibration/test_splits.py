"""Splits of the normal items are stratified partitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowngood.calibration import folds, one_of_each, p_values, split_normals
from knowngood.errors import DataError, SettingsError


@pytest.mark.slow
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any),
    st.sampled_from([(0.1, 0.2), (0.0, 0.5), (0.3, 0.3), (0.45, 0.5), (0.25, 0.0)]),
    st.integers(0, 5),
)
def test_split_is_a_stratified_partition(sizes: list[int], shares: tuple[float, float], seed: int) -> None:
    strata = np.repeat(np.arange(len(sizes)), sizes)
    strata = np.random.default_rng(0).permutation(strata)
    parts = split_normals(len(strata), strata, select=shares[0], calibrate=shares[1], seed=seed)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(strata)))
    fractions = {"fit": 1 - sum(shares), "select": shares[0], "calibrate": shares[1]}
    for stratum, size in enumerate(sizes):
        got = {name: int((strata[part] == stratum).sum()) for name, part in parts.items()}
        assert size == 0 or got["fit"] >= 1
        if size * fractions["fit"] >= 1:  # else the first rule, something to fit on, comes first
            assert all(abs(got[name] - size * fractions[name]) < 1 for name in parts)


def test_split_totals_come_out_right_over_many_small_strata() -> None:
    """3 items a class: rounding each class by itself would leave nothing to select on."""
    parts = split_normals(300, np.arange(300) % 100, select=0.1, calibrate=0.2)
    assert {name: len(part) for name, part in parts.items()} == {"fit": 210, "select": 30, "calibrate": 60}


def test_split_is_deterministic_in_the_seed() -> None:
    first, again, other = (split_normals(50, seed=seed)["calibrate"] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_split_refuses_what_cannot_be_split() -> None:
    with pytest.raises(DataError, match="no normal items"):
        split_normals(0)
    with pytest.raises(SettingsError, match=r"select = 0.5 and calibrate = 0.5"):
        split_normals(5, select=0.5, calibrate=0.5)
    with pytest.raises(DataError, match=r"expected shape \(5,\), got \(4,\)"):
        split_normals(5, np.zeros(4))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(2, 12), st.integers(0, 5))
def test_folds_are_a_partition_with_sizes_that_differ_by_at_most_one(strata: list[int], k: int, seed: int) -> None:
    n, codes = len(strata), np.array(strata)
    parts = folds(n, strata, k, seed)
    assert len(parts) == min(k, n)
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert all((np.diff(part) > 0).all() for part in parts)
    assert np.ptp([len(part) for part in parts]) <= 1
    for stratum in set(strata):
        assert np.ptp([int((codes[part] == stratum).sum()) for part in parts]) <= 1


@given(st.integers(1, 40), st.integers(2, 9), st.integers(0, 5))
def test_folds_of_one_stratum_need_no_codes(n: int, k: int, seed: int) -> None:
    plain, coded = folds(n, None, k, seed), folds(n, np.zeros(n, int), k, seed)
    assert [part.tolist() for part in plain] == [part.tolist() for part in coded]


def test_folds_are_deterministic_in_the_seed() -> None:
    first, again, other = (folds(50, k=5, seed=seed)[0] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.slow
def test_every_item_reaches_every_fold() -> None:
    """Over seeds the fold of an item is uniform: 2,000 draws of 5 folds, within five standard errors."""
    counts = np.zeros((7, 5))
    for seed in range(2000):
        for fold, part in enumerate(folds(7, [0, 0, 0, 1, 1, 1, 1], 5, seed)):
            counts[part, fold] += 1
    pairs = np.array([[1, 1, 1, 0, 0], [1, 1, 0, 1, 1]])  # which folds the dealing gives each stratum of 3 and 4
    expected = np.repeat(2000 * pairs / pairs.sum(axis=1, keepdims=True), [3, 4], axis=0)
    assert (np.abs(counts - expected) <= 5 * np.sqrt(expected)).all()


def test_folds_refuse_what_cannot_be_shared_out() -> None:
    with pytest.raises(DataError, match="no normal items"):
        folds(0)
    with pytest.raises(SettingsError, match=r"k = 1 folds; expected at least 2"):
        folds(5, k=1)
    with pytest.raises(DataError, match=r"expected shape \(5,\), got \(4,\)"):
        folds(5, np.zeros(4))


def test_without_groups_the_positions_are_what_they_were() -> None:
    strata, alone = np.arange(12) % 2, np.arange(12)
    for groups in (None, alone, alone[::-1], alone * 7 + 3):
        parts = split_normals(12, strata, groups=groups, seed=3)
        assert parts["select"].tolist() == [6]
        assert parts["calibrate"].tolist() == [0, 3, 9]
    some = [part.tolist() for part in folds(7, [0, 0, 0, 1, 1, 1, 1], 3, seed=1, groups=np.arange(7))]
    assert some == [[0, 3, 5], [1, 4], [2, 6]]


@pytest.mark.slow
@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.integers(2, 6), st.integers(0, 5))
def test_a_group_stays_in_one_part_and_in_one_fold(groups: list[int], k: int, seed: int) -> None:
    n, codes, strata = len(groups), np.array(groups), np.arange(len(groups)) % 3
    for parts in (
        list(split_normals(n, strata, groups=codes, seed=seed).values()),
        folds(n, strata, k, seed, groups=codes),
    ):
        assert sorted(np.concatenate(parts).tolist()) == list(range(n))
        assert sum(len(set(codes[part])) for part in parts) == len(set(groups))


def test_one_item_of_each_group_counts_in_each_stratum() -> None:
    groups, strata = np.array([5, 5, 5, 2, 2, 9]), np.array([0, 0, 1, 0, 0, 1])
    kept = one_of_each(groups, strata, seed=1)
    pairs = {(int(groups[i]), int(strata[i])) for i in kept}
    assert len(kept) == 4
    assert pairs == {(5, 0), (5, 1), (2, 0), (9, 1)}
    assert one_of_each(np.arange(6)).tolist() == list(range(6))


@pytest.mark.slow
def test_with_groups_p_values_hold_between_groups() -> None:
    """6 groups of 8 alike items, α = .2: one item of each gives the rate 1/7, all items 2/7 as 9/49 ≤ α."""
    rng, alpha, draws = np.random.default_rng(0), 0.2, 1000
    groups, own, every = np.repeat(np.arange(6), 8), 0, 0
    for draw in range(draws):
        effect = rng.normal(size=7)
        scores, new = effect[groups] + 1e-6 * rng.normal(size=48), effect[6:]
        own += p_values(scores[one_of_each(groups, seed=draw)], new)[0] <= alpha
        every += p_values(scores, new)[0] <= alpha
    assert abs(own / draws - 1 / 7) < 4 * (6 / 49 / draws) ** 0.5
    assert every / draws > alpha
