"""The β-VAE score: which factor two items share, told from the difference of their codes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.factor_metrics.inputs import checked_groups, standardised
from knowngood.errors import DataError


def beta_vae_score(pairs: ArrayLike, fixed: ArrayLike) -> float:
    """The β-VAE score (Higgins et al., ICLR 2017), at most 1, higher better; chance is 1/K for K factors.

    The two items of a pair share the value of one factor, all else is random. A linear classifier (logistic regression
    on standardised features) tells from the mean of |z₁ − z₂| over the pairs of a group which factor they share: taught
    on the first half of the groups, judged on the second.

    It is lenient: a rotated or partly entangled code can score 1, since a linear classifier can still tell the factors
    apart, and so can a model that leaves out one of the factors.

    Args:
        pairs: (G, L, 2, D) posterior means of G groups of L pairs; L = 64 is usual. For the generated factors see
            `generated_factors.sample_pairs`.
        fixed: (G,) the factor that the pairs of each group share; a pair has its own value of it.

    Raises:
        DataError: shapes do not fit, values are not finite, or there are too few groups.
    """
    from sklearn.linear_model import LogisticRegression

    z, factor = checked_groups(pairs, fixed, 4, "(groups, pairs, 2, dimensions)")
    if z.shape[2] != 2:
        raise DataError(f"pairs have shape {z.shape}; expected (groups, pairs, 2, dimensions)")
    difference = np.abs(z[:, :, 0] - z[:, :, 1]).mean(axis=1)  # (G, D)
    half = len(z) // 2
    features = standardised(difference, difference[:half])
    classifier = LogisticRegression(max_iter=1000).fit(features[:half], factor[:half])
    return float(classifier.score(features[half:], factor[half:]))
