"""Total correlation of codes as if they were Gaussian: no factors needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.factor_metrics.inputs import checked_codes

SINGULAR = 1e-10  # share of a code's variance that the others leave unexplained, below which it is a copy


def gaussian_total_correlation(codes: ArrayLike) -> float:
    """KL between the Gaussian fitted to the codes and the product of its marginals, in nats: ≥ 0, lower better.

    ½ (Σ_j log Σ_jj − log det Σ), Σ the covariance: arXiv:1811.12359. By Cholesky of the correlations. The same for
    codes that are shifted or scaled a dimension at a time. Infinite if a code is a linear function of others, as a copy
    is, up to rounding. Constant codes are independent of all and left out.

    It sees linear dependence only: codes that are uncorrelated but dependent (one the square of the other) get 0, so it
    is no bound for the true total correlation. It overstates by about D(D−1)/4N: .025 nats for D = 32 and N = 10,000.
    And it says nothing about factors: noise is independent too.

    Args:
        codes: (N, D), N > D: posterior means, or samples of the posteriors. The two differ; say which.

    Raises:
        DataError: shapes do not fit, N ≤ D, or values are not finite.
    """
    z = np.asarray(codes, dtype=np.float64)
    z = checked_codes(z, least=z.shape[1] + 1 if z.ndim == 2 else 2)
    z = z[:, np.ptp(z, axis=0) > 0]
    if z.shape[1] < 2:
        return 0.0
    centred = z - z.mean(axis=0)
    centred /= np.sqrt((centred**2).sum(axis=0))
    try:
        diagonal = np.diagonal(np.linalg.cholesky(centred.T @ centred))
    except np.linalg.LinAlgError:
        return float("inf")
    if diagonal.min() ** 2 < SINGULAR:
        return float("inf")
    return max(0.0, float(-np.log(diagonal).sum()))
