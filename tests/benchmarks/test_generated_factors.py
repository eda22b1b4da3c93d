from __future__ import annotations

import numpy as np
import pytest

from benchmarks.generated_factors import codes_of, sample_groups, sample_pairs, sample_rows
from knowngood.data import open_dataset
from knowngood.data.datasets.factors import factor_codes, open_factors
from knowngood.errors import DataError, SettingsError

FACTORS = ("shape", "scale", "rotation", "x", "y")
GRID = (3, 6, 40, 32, 32)


@pytest.mark.slow
def test_the_levels_are_read_back_from_the_columns():
    images = open_factors(300, seed=3)
    assert np.array_equal(codes_of(images), factor_codes(images.pixels.rows))
    with pytest.raises(DataError, match="digits has no column 'scale'"):
        codes_of(open_dataset("digits"))
    with pytest.raises(DataError, match=r"scale = 0\.55 is not on the grid"):
        codes_of(images.annotate(conditions={"scale": np.full(300, 0.55)}))
    with pytest.raises(DataError, match="class = disc is not on the grid"):
        codes_of(images.annotate(conditions={"class": ["disc"] * 300}))


def test_groups_share_one_factor_and_nothing_else():
    rows, fixed = sample_groups(200, 32, np.random.default_rng(0))
    codes = factor_codes(rows)
    assert rows.shape == (200, 32)
    assert set(fixed) == set(range(5))
    constant = (codes == codes[:, :1]).all(axis=1)
    assert np.array_equal(constant, np.arange(5) == fixed[:, None])
    values = codes[np.arange(200), 0, fixed]
    assert len(set(values[fixed == 3])) > 10  # the shared value is random too


def test_pairs_share_one_factor_each_with_its_own_value():
    rows, fixed = sample_pairs(100, 24, np.random.default_rng(0))
    codes = factor_codes(rows)
    assert rows.shape == (100, 24, 2)
    same = (codes[:, :, 0] == codes[:, :, 1]).all(axis=1)
    assert np.array_equal(same, np.arange(5) == fixed[:, None])
    x = codes[fixed == 3, :, 0, 3]
    assert all(len(set(group)) > 5 for group in x)


def test_sampling_keeps_to_the_levels_and_factors_asked_for():
    rng = np.random.default_rng(0)
    rows, fixed = sample_groups(60, 8, rng, among=("shape", "scale", "x"), levels={"shape": [1], "scale": [0, 5]})
    assert {FACTORS[k] for k in fixed} == {"scale", "x"}
    codes = factor_codes(rows)
    assert set(codes[..., 0].ravel()) == {1}
    assert set(codes[..., 1].ravel()) == {0, 5}
    with pytest.raises(SettingsError, match="1 factors that vary"):
        sample_pairs(5, 2, rng, among=("shape", "x"), levels={"shape": [1]})
    with pytest.raises(SettingsError, match="no factor 'size'"):
        sample_groups(5, 2, rng, among=("size",))
    with pytest.raises(SettingsError, match="no factor 'colour'"):
        sample_rows(5, rng, {"colour": [0]})
    with pytest.raises(SettingsError, match=r"levels of y are .*; expected some of 0 to 31"):
        sample_rows(5, rng, {"y": [32]})


def test_random_images_are_uniform_and_come_from_the_generator():
    rows = sample_rows(6000, np.random.default_rng(4))
    assert np.array_equal(rows, sample_rows(6000, np.random.default_rng(4)))
    codes = factor_codes(rows)
    for k, count in enumerate(GRID):
        seen = np.bincount(codes[:, k], minlength=count)
        expected = 6000 / count
        assert ((seen - expected) ** 2 / expected).sum() < count - 1 + 5 * np.sqrt(2 * (count - 1))
    assert abs(np.corrcoef(codes.T) - np.eye(5)).max() < 0.06
