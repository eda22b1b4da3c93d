"""Modularity: does each code tell of one factor only?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.factor_metrics.information import equal_width_bins, mutual_information
from benchmarks.factor_metrics.inputs import checked_codes, checked_levels
from knowngood.errors import DataError


def modularity(codes: ArrayLike, factors: ArrayLike, *, bins: int = 20) -> float:
    """Modularity, from 0 to 1, higher better: 1 if each code tells of at most one factor. arXiv:1802.05312.

    It does not see whether one code is enough for a factor (a factor in two codes is as good), nor whether all factors
    are there at all. Constant codes are left out; with none other the score is 0. A code of pure noise is not left
    out: what little information it has by chance is spread over the factors and counts against it. Take the collapsed
    codes of a model out first, such as those of a variance below .01.

    Args:
        codes: (N, D) posterior means.
        factors: (N, K), K ≥ 2, numbers or text, values that repeat.
        bins: equal-width bins of each code.

    Raises:
        DataError: shapes do not fit, values are not finite, or a factor is constant or continuous.
    """
    z = checked_codes(codes)
    levels = checked_levels(factors, len(z), least=2)
    return modularity_of(mutual_information(equal_width_bins(z, bins), levels))


def modularity_of(information: ArrayLike) -> float:
    """Modularity from the mutual information of every code and factor (D, K), K ≥ 2; codes without any are left out.

    For a code: 1 − Σ_f (m_f − t_f)² / (θ² (K − 1)), θ the largest m_f and t_f = θ there, 0 elsewhere.
    """
    m = np.asarray(information, dtype=np.float64)
    if m.ndim != 2 or m.shape[1] < 2:
        raise DataError(f"information has shape {m.shape}; expected (codes, factors), at least two factors")
    m = m[m.max(axis=1) > 1e-12]
    if len(m) == 0:
        return 0.0
    largest = m.max(axis=1) ** 2
    deviation = ((m**2).sum(axis=1) - largest) / (largest * (m.shape[1] - 1))
    return float((1 - deviation).mean())
