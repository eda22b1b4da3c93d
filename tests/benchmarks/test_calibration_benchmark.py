"""The benchmark of promised false-alarm rates: what it accepts and what it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.calibration import at_most, exact, main


@pytest.mark.slow
def test_counts_of_the_promised_law_hold_and_others_do_not() -> None:
    rng = np.random.default_rng(0)
    n, tested, alpha = 199, 300, 0.05
    right = stats.betabinom(tested, 10, 190).rvs(2000, random_state=1)
    assert exact("", right.tolist(), n, tested, alpha, rng)["holds"]
    too_many = stats.betabinom(tested, 11, 189).rvs(2000, random_state=1)
    assert not exact("", too_many.tolist(), n, tested, alpha, rng)["holds"]
    same_mean = stats.binom(tested, 0.05).rvs(2000, random_state=1)  # as if the threshold were known
    row = exact("", same_mean.tolist(), n, tested, alpha, rng)
    assert abs(row["mean"] - 0.05) < 0.002
    assert not row["holds"]


def test_a_bound_is_met_within_two_standard_errors() -> None:
    rates = np.random.default_rng(0).normal(0.1, 0.05, 400)
    assert at_most("", (rates - rates.mean() + 0.104).tolist(), 0.1)["holds"]
    assert not at_most("", (rates - rates.mean() + 0.106).tolist(), 0.1)["holds"]


@pytest.mark.slow
def test_the_command_writes_rows_and_a_picture(tmp_path: Path) -> None:
    rows = main(resplits=3, fits=2, parts=("split", "groups"), out=tmp_path)
    assert [row["case"].partition(",")[0] for row in rows[:4]] == ["α = 0.001", "α = 0.01", "α = 0.05", "α = 0.1"]
    assert (tmp_path / "calibration.json").is_file()
    assert (tmp_path / "calibration.png").is_file()
