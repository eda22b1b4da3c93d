"""Whether a batch of items fits the calibration: how many are flagged, and where they rank among calibration items."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from knowngood.calibration.conformal import Floats, alarm_rank

LEVEL = 0.002  # probability that a batch like the calibration set is called a misfit, at most
FACTOR = 2.0  # times α: the share of flagged items below which a difference does not matter, however certain it is
LARGER = 0.6  # probability that an item scores higher than a calibration item, likewise


class Misfit(NamedTuple):
    """A batch that is not like the calibration items: more is flagged, or scores are higher, than chance explains.

    items, flagged: how many. expected: flagged on average, were they like the calibration items. rank: probability
    that an item scores higher than a calibration item of its group; .5 is expected. groups: those that stand out by
    themselves, in ascending order.
    """

    items: int
    flagged: int
    expected: float
    rank: float
    groups: tuple[int, ...]


def misfit_words(found: Misfit, what: str, items: str, alpha: float) -> str:
    """'24 of 37 images are flagged at alpha = 0.05, 1.9 expected'.

    Args:
        what: the items that count, 'images labelled normal'. items: all of them, 'images'.
    """
    if not found.flagged or found.flagged < 2 * found.expected:
        return f"{found.items:,} {what} score higher than {found.rank:.0%} of the calibration {items}, 50% expected"
    expected = f"{found.expected:.2g}" if found.expected < 10 else f"{found.expected:,.0f}"
    return f"{found.flagged:,} of {found.items:,} {what} are flagged at alpha = {alpha:g}, {expected} expected"


def misfit(p: ArrayLike, normals: ArrayLike, alpha: float, groups: ArrayLike | None = None) -> Misfit | None:
    """What is wrong with a batch of m items as a whole, or None if it may be like the calibration items.

    p-values of a batch share their calibration items and so are dependent. Two laws hold for them exactly, given only
    that batch and n calibration items are exchangeable, without ties: the number of flagged items is beta-binomial,
    BetaBin(m, k, n + 1 − k) with k = ⌊α(n + 1)⌋, and the number of pairs in which the calibration item scores lower is
    that of Wilcoxon, Mann and Whitney. Ties only lower both. Far in its tail the normal approximation of the second is
    too large (its kurtosis is below 3), hence conservative. Groups with calibration items of their own are independent
    and combined by Fisher's method; each group is tested alone too, by Bonferroni. With `LEVEL` shared among these
    four, a batch like the calibration set is called a misfit with at most that probability.

    Args:
        p: (m,) conformal p-values.
        normals: (m,) calibration items that each was compared with, or one number; the same within a group.
        alpha: the rate at which items are flagged.
        groups: (m,) Mondrian group of each; negative where its calibration items are also those of other groups.
    """
    p = np.asarray(p, dtype=np.float64)
    if not len(p):
        return None
    n = np.broadcast_to(np.asarray(normals, dtype=np.int64), p.shape)
    codes, first, of = np.unique(
        np.zeros(len(p), int) if groups is None else groups, return_index=True, return_inverse=True
    )
    tails = np.array([_tails(p[of == i], int(n[first[i]]), alpha) for i in range(len(codes))])  # (G, 2)
    apart = tails.min(axis=1) * len(codes) <= LEVEL / 4
    if not apart.any() and not (_together(tails[codes >= 0]) <= LEVEL / 4).any():
        return None
    expected = sum(alarm_rank(size, alpha) / (size + 1) for size in n.tolist())
    below = _below(p, n)
    return Misfit(
        len(p), int((p <= alpha).sum()), float(expected), float((below / n).mean()), tuple(codes[apart].tolist())
    )


def _below(p: Floats, n: np.ndarray) -> Floats:
    """(m,) calibration items that score lower than each item."""
    return np.rint((1 - p) * (n + 1))


def _tails(p: Floats, n: int, alpha: float) -> tuple[float, float]:
    """Probability of so many flagged items, and of such ranks; 1 where the difference is small."""
    from scipy import stats

    m, flagged, k = len(p), int((p <= alpha).sum()), alarm_rank(n, alpha)
    by_count = by_rank = 1.0
    if k and flagged >= min(FACTOR * alpha, (1 + alpha) / 2) * m:
        by_count = float(stats.betabinom.sf(flagged - 1, m, k, n + 1 - k))
    below = float(_below(p, np.array(n)).sum())
    if below >= LARGER * n * m:
        by_rank = float(stats.norm.sf((below - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12)))
    return by_count, by_rank


def _together(tails: Floats) -> Floats:
    """Fisher's combination of the tails (G, 2) of independent groups."""
    from scipy import stats

    logs = np.log(np.maximum(tails, np.finfo(np.float64).tiny)).sum(axis=0)
    return stats.chi2.sf(-2 * logs, 2 * max(len(tails), 1))
