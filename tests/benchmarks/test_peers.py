"""The comparison with other libraries: what is missing is said, and ratios are of seconds in turn."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import peers
from benchmarks import peers_costs as costs
from knowngood.errors import SettingsError


def missing() -> list[dict]:
    raise ImportError("no", name="pythae")


def test_what_is_not_installed_is_a_row_that_says_so() -> None:
    assert peers.attempt("training", missing) == [
        {"what": "training", "error": "not installed: pythae; pip install -r benchmarks/peers.txt"}
    ]


def test_a_ratio_is_theirs_over_ours_after_a_first_of_each() -> None:
    ours, theirs = iter([9.0, 1.0, 2.0, 4.0]), iter([9.0, 3.0, 4.0, 4.0])
    row = peers.beside("it", lambda: next(ours), lambda: next(theirs), 3)
    assert (row["ratio"], row["low"], row["high"]) == (2.0, 1.0, 3.0)


@pytest.mark.slow
def test_both_losses_are_of_the_same_elbo() -> None:
    """A net without weights: every pixel is ½ and the posterior is the prior."""
    import torch

    model = peers.our_run("vae", np.zeros((64, 28, 28), np.uint8), {"epochs": 1, "batch_size": 64})
    for tensor in model.parameters():
        tensor.data.zero_()
    data = torch.rand(8, 1, 28, 28)
    assert peers.our_loss(model, data) == pytest.approx(784 * np.log(2), rel=1e-5)


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(SettingsError, match="parts has no 'colour'; known: training, elbo, scoring, latency"):
        peers.main(parts=("colour",))


def test_an_installation_is_all_that_a_package_needs() -> None:
    [alone], [ours] = costs.installation("threadpoolctl"), costs.installation("scikit-learn")
    assert alone["packages"] == 1
    assert ours["packages"] >= 4  # with joblib, numpy, scipy and threadpoolctl
    assert ours["bytes"] > 10 * alone["bytes"] > 0


def test_latencies_are_of_calls_in_turn() -> None:
    calls: list[str] = []
    ours, theirs = costs.latencies("theirs", lambda: calls.append("ours"), lambda: calls.append("theirs"), 3)
    assert calls == ["ours", "theirs"] * 4
    assert (ours["what"], theirs["what"]) == ("one image scored, ours", "one image scored, theirs")
    assert 0 <= ours["p50"] <= ours["p99"]
