"""Likeness to known defects: the discriminant by its formula, and that no normal patch learned from is changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from knowngood.scores.adjustment import bounded
from knowngood.scores.known_defects import excess, learn


def white(n: int, seed: int, axis: int | None = None, shift: float = 6.0) -> Tensor:
    """(n, 5) standard normal patches, moved along an axis."""
    x = torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))
    if axis is not None:
        x[:, axis] += shift
    return x


NORMAL = [white(200, seed) for seed in range(5)]


def test_it_is_the_discriminant_above_what_normal_patches_reach() -> None:
    defect, new = white(9, 7, axis=0), torch.cat([white(50, 8), white(50, 9, axis=0)])
    state = learn(NORMAL, [defect], spread=1.7).state
    b = bounded(torch.cat(NORMAL).double())
    mean, covariance = b.mean(0), torch.cov(b.T, correction=0)
    ridge = 0.1 * covariance.diagonal().mean() * torch.eye(5)
    w = torch.linalg.cholesky(covariance + ridge)
    w = torch.cholesky_solve((bounded(defect.double()).mean(0) - mean)[:, None], w)[:, 0]
    w = w / (w @ covariance @ w).sqrt()
    expected = 2 * 1.7 * (bounded(new.double()) @ w - (b @ w).max()).clamp_min(0)
    assert (expected > 0).any()
    torch.testing.assert_close(excess(new, state).double(), expected, rtol=1e-3, atol=1e-3)


def test_normal_patches_learned_from_are_unchanged_and_one_reaches_the_limit() -> None:
    state = learn(NORMAL, [white(9, 7, axis=0), white(3, 8, axis=1)], spread=1.0).state
    assert all(not excess(some, state).any() for some in NORMAL)
    lower = {**state, "defect_reached": state["defect_reached"] - 2e-3}
    assert sum(int((excess(some, lower) > 0).sum()) for some in NORMAL) >= 1


def test_each_defect_counts_by_itself() -> None:
    one, other = white(4, 7, axis=0), white(4, 8, axis=1)
    both = learn(NORMAL, [one, other], spread=1.0)
    for axis in (0, 1):
        assert (excess(white(50, 9, axis=axis), both.state) > 0).float().mean() > 0.7
    assert not excess(white(50, 9, axis=2), both.state).any()
    assert both.recognised.tolist() == [False, False]
    assert learn(NORMAL, [one, white(4, 9, axis=0), other], spread=1.0).recognised.tolist() == [True, True, False]
    assert learn(NORMAL, [one], spread=1.0).recognised.tolist() == [False]


@pytest.mark.parametrize("sizes", [(1,), (1, 2, 3)])
def test_limit_one_patch_a_defect_and_features_without_variance(sizes: tuple[int, ...]) -> None:
    flat = [some * torch.tensor([1.0, 1, 1, 1, 0]) for some in NORMAL]
    state = learn(flat, [white(n, n, axis=4) for n in sizes], spread=1.0).state
    assert state["defect_directions"].shape == (len(sizes), 5)
    assert torch.isfinite(state["defect_directions"]).all()
    assert (excess(white(20, 5, axis=4), state) > 0).all()


def test_states_put_together_are_as_learned_together() -> None:
    defects, new = [white(4, 7, axis=0), white(4, 8, axis=1)], torch.cat([white(50, 9, axis=0), white(50, 9, axis=1)])
    both, *each = (learn(NORMAL, some, spread=1.0).state for some in (defects, defects[:1], defects[1:]))
    joined = {name: torch.cat([one[name] for one in each]) for name in both if name != "defect_weight"}
    torch.testing.assert_close(excess(new, {**each[0], **joined}), excess(new, both))
