"""Confidence interval of an AUROC, over the choice of test items."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from knowngood.errors import SettingsError
from knowngood.metrics.ranking import labelled

_AT_ONCE = 2**22  # counts held in memory together


def bootstrap_interval(
    labels: ArrayLike, scores: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the AUROC, normal and anomalous items resampled separately.

    It covers the choice of test items, not that of training items or seed.

    Args:
        labels, scores: (N,) as in `metrics.roc_auc`.
        level: probability of the interval, in (0, 1).
        seed: the same seed gives the same interval.

    Returns:
        (low, high).

    Raises:
        SettingsError: `level` is no probability. DataError: as `metrics.roc_auc`.
    """
    if not 0 < level < 1:
        raise SettingsError(f"level = {level!r}; expected a probability above 0 and below 1, such as .95")
    aucs = _resampled_aucs(labels, scores, resamples, np.random.default_rng(seed))
    low, high = np.quantile(aucs, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled_aucs(labels: ArrayLike, scores: ArrayLike, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(resamples,) AUROCs of stratified resamples, counted by distinct score: nothing is sorted twice."""
    y, s = labelled(labels, scores)
    distinct, rank = np.unique(s, return_inverse=True)
    normal, anomalous = rank[y == 0], rank[y == 1]
    chunk = max(1, _AT_ONCE // max(len(distinct), len(y)))
    parts = []
    for start in range(0, resamples, chunk):
        rounds = min(chunk, resamples - start)
        below = _resampled_counts(normal, len(distinct), rounds, rng)
        above = _resampled_counts(anomalous, len(distinct), rounds, rng)
        wins = above * (below.cumsum(1) - 0.5 * below)  # a tie counts half
        parts.append(wins.sum(1) / (len(normal) * len(anomalous)))
    return np.concatenate(parts)


def _resampled_counts(ranks: np.ndarray, width: int, rounds: int, rng: np.random.Generator) -> np.ndarray:
    """(rounds, width): how often each distinct score is drawn."""
    drawn = ranks[rng.integers(len(ranks), size=(rounds, len(ranks)))]
    flat = drawn + width * np.arange(rounds)[:, None]
    return np.bincount(flat.ravel(), minlength=rounds * width).reshape(rounds, width)
