"""How many false alarms chance explains, given how many normals calibrated and how many were tested."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from knowngood.calibration import alarm_rank


def expected_false_alarms(
    alpha: float, calibrated: Sequence[int], tested: Sequence[int], *, level: float = 0.95
) -> tuple[int, int]:
    """How many of the tested normals are flagged at rate `alpha`: the central interval that holds with `level`.

    With n calibration normals and k = ⌊α(n+1)⌋ the rate is Beta(k, n+1−k), so m tested normals give a beta-binomial
    count (arXiv:1209.2673). That is exact for one group; the sum over several is approximated by the beta-binomial of
    the same mean and variance.

    Args:
        calibrated: calibration normals of each group that has its own threshold.
        tested: normals tested in each of these groups.
    """
    from scipy.special import betaln, gammaln

    n, m = np.asarray(calibrated, float), np.asarray(tested, float)
    p = np.array([alarm_rank(int(size), alpha) for size in calibrated]) / (n + 1)
    total = m.sum()
    mean = (m * p).sum() / total if total else 0.0
    if not 0 < mean < 1:
        return (0, 0) if mean == 0 else (int(total), int(total))
    binomial = total * mean * (1 - mean)
    excess = (m * p * (1 - p) * (n + 1 + m) / (n + 2)).sum() - binomial
    # Groups with unlike rates may vary less than a binomial; they are then taken for one. A single draw is a Bernoulli
    # whatever its concentration.
    concentration = (total - 1) * binomial / max(excess, 1e-4 * binomial) - 1 if total > 1 else 1.0
    a, b = mean * concentration, (1 - mean) * concentration
    x = np.arange(total + 1)
    log_choose = gammaln(total + 1) - gammaln(x + 1) - gammaln(total - x + 1)
    below = np.cumsum(np.exp(log_choose + betaln(x + a, total - x + b) - betaln(a, b)))
    low, high = np.searchsorted(below, [(1 - level) / 2, (1 + level) / 2])
    return int(low), int(min(high, total))


def expected_band(
    calibrated: Sequence[int], tested: Sequence[int], *, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same as shares of the tested normals, for rates of 1 to 99 %: (alpha, low, high), (99,) each."""
    grid = np.arange(1, 100) / 100
    counts = [expected_false_alarms(alpha, calibrated, tested, level=level) for alpha in grid]
    low, high = np.array(counts).T / sum(tested)
    return grid, low, high
