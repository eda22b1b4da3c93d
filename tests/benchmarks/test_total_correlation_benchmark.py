"""The benchmark of estimates of TC: known gradients, and its two tables on stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import total_correlation
from benchmarks.total_correlation import Codes
from knowngood.training import Source


@pytest.mark.parametrize("rho", [0.3, 0.8])
def test_the_true_slope_is_that_of_the_tc_of_the_codes(rho: float) -> None:
    def tc(rho: float) -> float:
        return -0.5 * float(torch.log1p(-torch.tensor(rho * 0.91, dtype=torch.float64).square()))

    assert Codes(2, rho).slope == pytest.approx((tc(rho + 1e-6) - tc(rho - 1e-6)) / 2e-6, rel=1e-4)


@pytest.mark.slow
def test_both_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def images(most: int | None = None) -> tuple[Source, Source]:
        group = torch.arange(7).repeat_interleave(40)
        facts: Any = {"c": torch.eye(7)[group], "stratum": group}
        return (Source(torch.rand(280, 1, 28, 28), **facts), Source(torch.rand(280, 1, 28, 28), **facts))

    monkeypatch.setattr(total_correlation, "mnist", images)
    rows = total_correlation.main(quick=True, out=tmp_path)
    assert [row["D"] for row in rows if "estimate" in row] == [2] * 5
    assert [row["objective"] for row in rows if "objective" in row] == list(total_correlation.TRAINED)
    assert "TC, discriminator" in capsys.readouterr().out
    assert (tmp_path / "table.csv").exists()
