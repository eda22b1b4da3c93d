"""A score's surprise: the continuous partner of the p-value, for ranking across scores and conditions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from knowngood.calibration.conformal import Floats, finite_scores, judged_scores
from knowngood.errors import NotEnoughNormals


def surprise(calibration: ArrayLike, scores: ArrayLike) -> Floats:
    """−log of the tail probability of a score among calibration normals, in nats.

    At a calibration score v the tail is #{calibration ≥ v} / (n + 1). Between two of them −log tail is linear in the
    score. Beyond the largest it goes on along the exponential fitted to the upper tenth of the sample (its mean
    excess), below the smallest it falls towards 0. So it is continuous, strictly increasing and never ties, and it
    does not change when all scores are shifted or scaled together. Unlike a p-value it carries no guarantee.

    Args:
        calibration: (n,) finite scores of normals, n ≥ 1.
        scores: (m,) scores, higher is more anomalous.

    Returns:
        (m,) values ≥ 0; about −log p.
    """
    ordered = np.sort(finite_scores(calibration))
    scores = judged_scores(scores)
    if len(ordered) == 0:
        raise NotEnoughNormals("surprise is measured against calibration normals; there are none", missing=1)
    n = len(ordered)
    values, first = np.unique(ordered, return_index=True)
    nats = -np.log((n - first) / (n + 1.0))

    inside = np.interp(scores, values, nats)
    above = nats[-1] + np.maximum(scores - values[-1], 0) / _mean_excess(ordered)
    below = nats[0] * np.exp(np.minimum(scores - values[0], 0) / _mean_excess(-ordered[::-1]))
    return np.where(scores > values[-1], above, np.where(scores < values[0], below, inside))


def _mean_excess(ordered: Floats) -> float:
    """Maximum-likelihood scale of an exponential upper tail: mean excess of the top tenth (5 to 250 values)."""
    n = len(ordered)
    top = min(max(n // 10, 5), 250, n - 1)
    for start in (n - 1 - top, 0):  # ties may leave the top without spread: then use the whole sample
        excess = float(np.mean(ordered[start + 1 :] - ordered[start])) if n > 1 else 0.0
        if excess > 0:
            return excess
    return max(abs(float(ordered[-1])), 1.0)
