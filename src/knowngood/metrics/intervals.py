"""Confidence interval of an AUROC, over the choice of test items."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from knowngood.errors import SettingsError
from knowngood.metrics.ranking import labelled


def auroc_interval(labels: ArrayLike, scores: ArrayLike, *, level: float = 0.95) -> tuple[float, float]:
    """Score interval of the AUROC: Newcombe 2006, doi:10.1002/sim.2324, method 5, widened to the variance of the items.

    The values θ that a test by the variance of Hanley and McNeil 1982, at θ, does not reject. That variance is of
    exponential scores; where the one of DeLong 1988, of the items themselves, is larger, it grows by the same factor.
    Items that are ranked perfectly have no interval of one point: of ten normal and ten anomalous ones it is (.80, 1).
    It covers the choice of test items, not that of training items or seed.

    Args:
        labels, scores: (N,) as in `metrics.roc_auc`.
        level: probability of the interval, in (0, 1).

    Returns:
        (low, high).

    Raises:
        SettingsError: `level` is no probability. DataError: as `metrics.roc_auc`.
    """
    if not 0 < level < 1:
        raise SettingsError(f"level = {level!r}; expected a probability above 0 and below 1, such as .95")
    y, s = labelled(labels, scores)
    above, below = _shares_beaten(s[y == 1], s[y == 0]), 1 - _shares_beaten(s[y == 0], s[y == 1])
    n, m, found = len(below), len(above), float(above.mean())
    z, modelled = NormalDist().inv_cdf((1 + level) / 2), _variance(found, n, m)
    if min(n, m) > 1 and modelled > 0:
        z *= math.sqrt(max(1.0, (above.var(ddof=1) / m + below.var(ddof=1) / n) / modelled))
    return _lowest(found, n, m, z), 1 - _lowest(1 - found, n, m, z)


def _shares_beaten(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each of one class the share of the other with a lower score; ties count half."""
    ranks = rankdata(np.concatenate([own, others]))[: len(own)]
    return (ranks - rankdata(own)) / len(others)


def _variance(auroc: float, n: int, m: int) -> float:
    """Hanley and McNeil's of the AUROC of n and m items, with the mean of n − 1 and m − 1 in place of both."""
    shared = ((n + m) / 2 - 1) * ((1 - auroc) / (2 - auroc) + auroc / (1 + auroc))
    return auroc * (1 - auroc) * (1 + shared) / (n * m)


def _lowest(found: float, n: int, m: int, z: float) -> float:
    """The smallest AUROC from which `found`, of n and m items, lies at most z standard deviations away."""
    low, high = 0.0, found
    for _ in range(60):  # halves of an interval of 1: to the last bit
        middle = (low + high) / 2
        if found - middle > z * math.sqrt(_variance(middle, n, m)):
            low = middle
        else:
            high = middle
    return low
