"""The FactorVAE score: which factor is held fixed, told from the code that varies least."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.factor_metrics.inputs import Bools, Ints, checked_codes, checked_groups
from knowngood.errors import DataError


class FactorVaeScore(NamedTuple):
    score: float
    active: Bools  # (D,) codes that took part
    votes: Ints  # (D, K) all groups: how often each code varied least when each factor was fixed


def factor_vae_score(
    groups: ArrayLike, fixed: ArrayLike, reference: ArrayLike, *, active_above: float = 0.01
) -> FactorVaeScore:
    """The FactorVAE score (arXiv:1802.05983, sec. 4), at most 1, higher better; chance is 1/K for K factors.

    The items of a group share the value of one factor, all else is random. The code of smallest variance within the
    group, relative to its variance in `reference`, votes for that factor. The first half of the groups teaches which
    code stands for which factor (majority), the second half gives the accuracy.

    Codes that do not vary over `reference` say nothing, and noise would make one of them vary least: only active ones
    vote, those with a variance above `active_above`, the criterion of arXiv:1509.00519 for means under an N(0, I)
    prior. Without any the guess is the factor most common in the first half.

    It does not see whether one code holds a factor whole, nor whether two codes hold the same one.

    Args:
        groups: (G, L, D) posterior means of G groups of L ≥ 2 items; 800 groups of 64 or more are usual. For the
            generated factors see `generated_factors.sample_groups`.
        fixed: (G,) the factor that each group shares.
        reference: (N, D) posterior means of random items, for the scale; a few thousand.
        active_above: smallest variance of an active code.

    Raises:
        DataError: shapes do not fit, values are not finite, or there are too few groups.
    """
    z, factor = checked_groups(groups, fixed, 3, "(groups, items, dimensions)")
    scale = checked_codes(reference).var(axis=0, ddof=1)
    if z.shape[1] < 2 or z.shape[2] != len(scale):
        raise DataError(
            f"groups have shape {z.shape} and reference {len(scale)} dimensions; "
            "expected the same dimensions, and at least two items a group"
        )
    active = scale > active_above
    half, n_factors = len(z) // 2, int(factor.max()) + 1
    votes = np.zeros((2, z.shape[2], n_factors), dtype=np.int64)
    if not active.any():
        common = np.bincount(factor[:half]).argmax()
        return FactorVaeScore(float((factor[half:] == common).mean()), active, votes[0])
    relative = z.var(axis=1, ddof=1)[:, active] / scale[active]
    voter = np.flatnonzero(active)[relative.argmin(axis=1)]  # position among all codes, not among active ones
    np.add.at(votes, ((np.arange(len(z)) >= half).astype(np.int64), voter, factor), 1)
    taught = votes[0].argmax(axis=1)
    taught[votes[0].sum(axis=1) == 0] = votes[0].sum(axis=0).argmax()  # a code never seen to vote
    right = votes[1][np.arange(len(taught)), taught].sum()
    return FactorVaeScore(float(right / (len(z) - half)), active, votes.sum(axis=0))
