"""Mixtures: what is drawn, and that a known group helps where groups differ and costs little where they do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.mixtures import Group, drawn, markdown, measure, summary
from patch_models import features


def group(seed: int, apart: float, n: int = 40) -> Group:
    """Feature grids; anomalous ones lie a little off at every location."""
    test = features(60, seed=seed + 50) + apart
    labels = (np.arange(60) % 2).astype(float)
    test[1::2] += 1.5
    return Group((features(n, seed=seed) + apart).half(), test.half(), labels)


def test_a_set_that_occurs_twice_gives_different_images_and_the_seed_draws_them() -> None:
    sets = {
        "a": Group(torch.arange(10), torch.arange(0), np.zeros(0)),
        "b": Group(torch.arange(9), torch.arange(0), np.zeros(0)),
    }
    first, other, second = (one.train.tolist() for one in drawn(["a", "b", "a"], sets, 5, 0))
    assert sorted(first + second) == list(range(10))
    assert len(other) == 5
    assert drawn(["a", "b", "a"], sets, 5, 1)[0].train.tolist() != first


@pytest.mark.slow
@pytest.mark.parametrize(("apart", "gain"), [(0.0, -0.02), (8.0, 0.02)])
def test_conditions_pay_where_groups_differ_and_cost_little_where_they_do_not(apart: float, gain: float) -> None:
    found = {method: measure([group(0, 0.0), group(1, apart)], method) for method in ("conditioned", "pooled", "alone")}
    assert found["conditioned"]["mean"] > found["pooled"]["mean"] + gain
    assert found["conditioned"]["mean"] > found["alone"]["mean"] - 0.02
    records = [{"mixture": "a+b", "images": 40, "method": name, **values} for name, values in found.items()]
    line = markdown(summary(records)).splitlines()[-1]
    assert line.startswith(f"| a+b | 40 | {found['conditioned']['mean']:.3f} (")
