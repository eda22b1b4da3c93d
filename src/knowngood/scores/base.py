"""The interface of a score, and the sums that all scores take."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from knowngood.config import Options
from knowngood.models.base import Batches, Condition, Model
from knowngood.models.distributions import wide
from knowngood.scores.marginal import Cells, Floats, Rows, soft

State = dict[str, Tensor]


class ScoreResult(NamedTuple):
    """Scores of B items; higher is more anomalous."""

    values: Tensor  # (B,) float64
    map: Tensor | None  # (B, H, W) float64, the score by pixel; None if not asked for or not defined
    parts: dict[str, Tensor]  # named (B,) float64 values that explain `values`


class Score:
    """How anomalous an item is under a fitted model.

    A score is a pure function of model, state and item: no fresh noise, nothing remembered, and an item's value does
    not depend on the others in its batch (to 1e-5 relative, the rounding of the nets). The caller puts the model in
    eval mode and turns gradients off.

    Class attributes:
        has_map: a map over pixels exists for images.
        is_likelihood: the value is −log of a density of x given c, or bounds it; so it may be averaged over c.
        marginalises: has a rule of its own for unknown conditions, see `marginal`; of a likelihood it is the average.
    """

    has_map = False
    is_likelihood = False
    marginalises = False

    options: Any

    def __init__(self, options: Options) -> None:
        self.options = options

    def check(self, model: Model) -> None:
        """Raise SettingsError if the score is not defined for such a model; asked before anything is trained."""

    def fit(self, model: Model, batches: Batches) -> State:
        """State from the normals the model was fitted on: tensors by name, saved with the model; often none."""
        return {}

    def fit_held_out(self, model: Model, state: State, held_out: Batches, fitted: Batches) -> State:
        """The state after `fit`, completed from normals that the model was not fitted on (`held_out`) and that it was.

        Both are read as far as needed.
        """
        return state

    def fit_marginal(self, model: Model, state: State, held_out: Batches, fitted: Batches, cells: Cells) -> State:
        """The state after `fit_held_out`, completed from the same normals under every condition, for `marginal`."""
        return state

    def marginal(self, state: State, rows: Rows) -> Floats:
        """(N,) the score of items whose conditions are unknown, from their rows under each.

        Of a likelihood −log Σ_c π_c exp(−S_c). It is compared with normals whose conditions were unknown too.
        """
        return soft(rows.values, rows.item, rows.log_weight)

    def score(
        self, model: Model, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        """Score x (B, *shape), scaled, under conditions c (B, W) in strata (B,)."""
        raise NotImplementedError

    def leave_one_out(self, model: Model, state: State, x: Tensor, c: Condition, stratum: Tensor) -> Tensor:
        """(B,) float64 scores of items that the state was fitted on, each as if without it; by default as of others."""
        return self.score(model, state, x, c, stratum).values


def item_sum(t: Tensor) -> Tensor:
    """(B, …) → (B,) float64: all values of an item added up."""
    return _wide_sum(t.flatten(1))


def pixel_sum(t: Tensor) -> Tensor | None:
    """(B, C, H, W) → (B, H, W) float64: channels added up; None for tables (B, F)."""
    return _wide_sum(t) if t.ndim == 4 else None


def _wide_sum(t: Tensor) -> Tensor:
    return wide(t).sum(1) if t.device.type == "mps" else t.sum(1, dtype=torch.float64)
