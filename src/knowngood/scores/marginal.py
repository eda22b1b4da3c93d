"""When an item's condition is unknown: one row for each condition it may have, reduced to one number.

`Cells` are these conditions. All functions take rows sorted by `item` (M,), numbers 0…N−1 that each occur at least
once, as `ConditionSchema.expand` gives them, and return one value an item (N,). NumPy arrays in and out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from knowngood.data.conditions import ConditionSchema
from knowngood.errors import DataError, SettingsError

ROWS = 128  # scored at a time

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Cells:
    """The R conditions that occurred in the fit."""

    c: Tensor  # (R, W)
    stratum: Tensor  # (R,)
    log_weight: Tensor  # (R,) log π, π the share of normal items

    @classmethod
    def of(cls, schema: ConditionSchema, device: torch.device) -> Cells | None:
        """None where there is nothing to infer: with one condition only, or with a column that must be known."""
        if not schema.inferable:
            return None
        every = schema.expand({}, 1, unknown="infer")
        c, stratum, log_weight = (torch.from_numpy(t).to(device) for t in (every.c, every.stratum, every.log_weight))
        return cls(c, stratum, log_weight)

    def __len__(self) -> int:
        return len(self.stratum)

    def under_each(
        self, score: Callable[[Tensor, Tensor | None, Tensor], Tensor], x: Tensor, *, conditional: bool = True
    ) -> Tensor:
        """(B, R) what `score` of x, c and stratum gives x (B, *shape) under every condition; c None if unconditional.

        All rows of an item come one after the other, so that what does not depend on c can be computed once.
        """
        values, r = [], len(self)
        for some in x.split(max(1, ROWS // r)):
            c = self.c.repeat(len(some), 1) if conditional else None
            scored = score(some.repeat_interleave(r, 0), c, self.stratum.repeat(len(some)))
            values.append(scored.unflatten(0, (len(some), r)))
        return torch.cat(values)


class Rows(NamedTuple):
    """What a score gives items whose condition is unknown: a row for each condition that they may have."""

    values: Floats  # (M,)
    parts: Mapping[str, Floats]  # (M,) each
    stratum: Ints  # (M,)
    item: Ints  # (M,) sorted
    log_weight: Floats  # (M,) log π_c

    @property
    def first(self) -> Ints:
        """(N,) the first row of each item."""
        return segment_starts(self.item)


def choose_rule(
    setting: Literal["auto", "soft", "hard"], is_likelihood: bool, score: str, *, marginalises: bool = False
) -> Literal["soft", "hard"]:
    """Which rule `marginalise` asks for: auto is soft for scores that marginalise conditions, hard for all others.

    Likelihoods do, and so does a score that is made of others, each by its own rule (`marginalises`).

    Raises:
        SettingsError: soft was asked for, and the score is no likelihood: a sum over conditions has no meaning then.
    """
    if setting == "soft" and not is_likelihood:
        raise SettingsError(
            f"marginalise = 'soft' averages likelihoods over conditions, and score '{score}' is none; "
            "use marginalise='hard' or score='elbo'"
        )
    if setting == "auto":
        return "soft" if is_likelihood or marginalises else "hard"
    return setting


def soft(values: ArrayLike, item: ArrayLike, log_weight: ArrayLike) -> Floats:
    """−log Σ_c π_c exp(−S_c): the score under the mixture of all conditions the item may have; `log_weight` is log π_c.

    `values` (M,) are −ELBO or another −log density of each row, in nats. It must be calibrated on normals whose
    conditions were unknown too.
    """
    starts = segment_starts(item)
    return -np.logaddexp.reduceat(np.asarray(log_weight, np.float64) - np.asarray(values, np.float64), starts)


def hard(anomaly_scores: ArrayLike, item: ArrayLike) -> Floats:
    """min_c of the anomaly scores (M,): an item is normal if any condition explains it.

    Where they are `Calibration.anomaly_score` the smallest is above the threshold exactly if `hard_p_values` are ≤ α.
    """
    return np.minimum.reduceat(np.asarray(anomaly_scores, np.float64), segment_starts(item))


def hard_p_values(p: ArrayLike, item: ArrayLike) -> Floats:
    """max_c p_c, valid whichever condition c* is the true one: P(max_c p_c ≤ α) ≤ P(p_{c*} ≤ α) ≤ α.

    The smallest would not be valid: with many conditions it is small for every item.
    """
    return np.maximum.reduceat(np.asarray(p, np.float64), segment_starts(item))


def best_rows(values: ArrayLike, item: ArrayLike, log_weight: ArrayLike | None = None) -> Ints:
    """(N,) the row that explains each item best: smallest S_c, or S_c − log π_c if weights are given; first of ties."""
    cost = np.asarray(values, np.float64) - (0.0 if log_weight is None else np.asarray(log_weight, np.float64))
    item = np.asarray(item)
    order = np.lexsort((np.arange(len(cost)), cost, item))
    return order[segment_starts(item)]


def segment_starts(item: ArrayLike) -> Ints:
    """(N,) the first row of each item. Raises DataError: rows are not sorted by item, or an item has no row."""
    rows: NDArray[Any] = np.asarray(item)
    steps = np.diff(rows, prepend=-1)
    if rows.ndim != 1 or ((steps != 0) & (steps != 1)).any() or (len(rows) and rows[0] != 0):
        raise DataError("rows must be sorted by item, with items numbered 0, 1, 2, … and at least one row each")
    return np.flatnonzero(steps)
