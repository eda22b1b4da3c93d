"""How far the best code of a factor is ahead of the second best."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmarks.factor_metrics.inputs import Floats, Ints


class Gap(NamedTuple):
    score: float  # mean of `per_factor`
    per_factor: Floats  # (K,) best less second best
    best: Ints  # (K,) which code is best


def gap(scores: Floats) -> Gap:
    """From the score of every code for every factor (D, K). A single code has a second best of 0."""
    padded = np.vstack([scores, np.zeros((1, scores.shape[1]))]) if len(scores) == 1 else scores
    ordered = np.sort(padded, axis=0)
    per_factor = ordered[-1] - ordered[-2]
    return Gap(float(per_factor.mean()), per_factor, scores.argmax(axis=0))
