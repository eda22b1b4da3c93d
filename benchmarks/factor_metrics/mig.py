"""MIG, the mutual information gap."""

from __future__ import annotations

from numpy.typing import ArrayLike

from benchmarks.factor_metrics.gap import Gap, gap
from benchmarks.factor_metrics.information import entropy, equal_width_bins, mutual_information
from benchmarks.factor_metrics.inputs import checked_codes, checked_levels


def mutual_information_gap(codes: ArrayLike, factors: ArrayLike, *, bins: int = 20) -> Gap:
    """MIG: how much more the best code tells of a factor than the second best, as a share of its entropy.

    The mean over factors of (I₁ − I₂) / H(factor), from 0 to 1, higher better. arXiv:1802.04942 ; as is usual
    since arXiv:1811.12359, the posterior means are binned, where the original integrates over q(z|x). Take 10,000
    items: counting overstates the information of small sets (see `mutual_information`).

    It does not see whether one code holds two factors (see `modularity`), and calls a factor that is spread over two
    codes, such as a rotation over its sine and cosine, entangled. Dead codes change nothing.

    Args:
        codes: (N, D) posterior means.
        factors: (N, K) or (N,), numbers or text, values that repeat.
        bins: equal-width bins of each code, from its smallest to its largest value.

    Returns:
        The score, and for each factor its gap and its best code.

    Raises:
        DataError: shapes do not fit, values are not finite, or a factor is constant or continuous.
    """
    z = checked_codes(codes)
    levels = checked_levels(factors, len(z))
    return gap(mutual_information(equal_width_bins(z, bins), levels) / entropy(levels))
