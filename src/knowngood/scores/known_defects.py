"""Known defects: what a few labelled ones add to the distance of patches that look like them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from knowngood.scores.adjustment import bounded
from knowngood.scores.base import State

RIDGE = 0.1  # of the mean variance of normal patches, added to their covariance
ROUNDING = 1e-4  # standard deviations of likeness
WEIGHT = 2.0  # standard deviations of normal distances, for one of a normal patch's likeness to a defect


class Learned(NamedTuple):
    """The state, and of each defect whether the others alone raise the distance of one of its patches (D,)."""

    state: State
    recognised: Tensor


def learn(normal: Sequence[Tensor], defects: Sequence[Tensor], spread: float) -> Learned:
    """Learn from whitened patches.

    The likeness of a patch to a defect is the linear discriminant (Fisher 1936) of the mean patch of that defect
    against all normal patches, in standard deviations of normal patches. A patch that is more like any of D defects
    than every normal patch is like any of them gets a distance that is larger by 2 · `spread` for each standard
    deviation. So no normal patch that was learned from, and no other below, changes.

    Args:
        normal: patches (n, F) of normal images, each whitened by a Gaussian without its image.
        defects: D tensors (n, F), n ≥ 1, the patches of each defect.
        spread: standard deviation of the distances of normal patches.

    Returns:
        State `defect_directions` (D, F), `defect_offsets` (D,), `defect_reached` (D,), the largest likeness of a
        normal patch to each, and `defect_weight` (). The states of several defects may be put together.
    """
    features = defects[0].shape[1]
    n, total, moment = 0, torch.zeros(features).to(defects[0]).double(), None
    for some in normal:
        b = bounded(some.float())
        n, total = n + len(b), total + b.double().sum(0)
        moment = (b.T @ b).double() + (0 if moment is None else moment)
    assert moment is not None
    mean = total / n
    covariance = moment / n - torch.outer(mean, mean)
    ridge = RIDGE * covariance.diagonal().mean().clamp_min(1e-12)
    root = torch.linalg.cholesky(covariance + ridge * torch.eye(features).to(covariance))
    means = torch.stack([bounded(some.double()).mean(0) for some in defects]) - mean
    directions = torch.cholesky_solve(means.T, root)
    spreads = (directions * (covariance @ directions)).sum(0).clamp_min(1e-24).sqrt()
    directions = (directions / spreads).T.float().contiguous()
    own = (directions @ mean.float()).contiguous()
    state = {"defect_directions": directions, "defect_offsets": own}
    state["defect_reached"] = torch.stack([likeness(some.float(), state).amax(0) for some in normal]).amax(0) + ROUNDING
    state["defect_weight"] = torch.tensor(WEIGHT * spread).to(directions)
    above = torch.stack([likeness(some.float(), state).amax(0) for some in defects]) > state["defect_reached"].max()
    return Learned(state, above.fill_diagonal_(False).any(1))


def likeness(white: Tensor, state: State) -> Tensor:
    """(..., D): of whitened patches (..., F) to each known defect, in standard deviations of normal patches."""
    directions, offsets = (state[f"defect_{name}"].to(white) for name in ("directions", "offsets"))
    return bounded(white) @ directions.T - offsets


def excess(white: Tensor, state: State) -> Tensor:
    """(...) what is added to the distances of whitened patches (..., F): 0 unless one is more like a known defect."""
    weight, reached = (state[f"defect_{name}"].to(white) for name in ("weight", "reached"))
    return weight * (likeness(white, state).amax(-1) - reached.max()).clamp_min(0)


def without(state: State, row: int) -> State:
    """The state as if it had not learned from one of its defects; without any of them where there is no other."""
    kept = [i for i in range(len(state["defect_directions"])) if i != row]
    if not kept:
        return {name: value for name, value in state.items() if not name.startswith("defect_")}
    rows = ("defect_directions", "defect_offsets", "defect_reached")
    return {name: value[kept] if name in rows else value for name, value in state.items()}
