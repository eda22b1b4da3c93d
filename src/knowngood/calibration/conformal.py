"""Conformal p-values, their thresholds, guarantees, and continuous partner, the surprise. Pure functions of arrays.

The guarantee rests on one assumption: calibration normals and the item to score are exchangeable. Then
P(p ≤ α) ≤ α for a normal item, whatever the model and however it was trained, ties or none.
Never rank by p-values: they floor at 1/(n+1) and tie. Rank by the score they were made from.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knowngood.errors import DataError, NotEnoughNormals, SettingsError

Floats = NDArray[np.float64]

TIE = 1e-5  # of a score's size, within which two scores count as equal: what rounding in batches and threads may change


def p_values(calibration: ArrayLike, scores: ArrayLike) -> Floats:
    """p = (1 + #{calibration ≥ score}) / (n + 1), Vovk et al. 2005.

    A score that is larger by less than the rounding of floating-point sums counts as equal (`sorted_scores`), so that
    the p-value of an item does not depend on what else is in its batch. That only raises p: its guarantee stands.

    Args:
        calibration: (n,) scores of held-out normals, finite, in any order.
        scores: (m,) scores of the items; higher is more anomalous. +inf is allowed.

    Returns:
        (m,) values in [1/(n+1), 1]. Each is a correctly rounded fraction, so `p <= alpha` is exact for any α that is
        itself a rounded fraction or decimal, such as .05.

    Raises:
        DataError: a score is NaN, or a calibration score is not finite.

    Example:
        >>> p_values([1, 2, 3, 4], [2.5, 9]).tolist()
        [0.6, 0.2]
    """
    ordered = sorted_scores(calibration)
    at_least = len(ordered) - np.searchsorted(ordered, judged_scores(scores), side="left")
    return (1 + at_least) / np.float64(len(ordered) + 1)


def alarm_rank(n: int, alpha: float) -> int:
    """k = ⌊α(n+1)⌋: an item is flagged when fewer than k of the n calibration scores reach its own.

    Computed as the largest k for which the rounded fraction k/(n+1) is ≤ α. This is the comparison that p-values
    meet, so no rounding of α(n+1) can make thresholds and p-values disagree: α = .29, n = 99 gives 29, not 28.

    Raises:
        SettingsError: α is not inside (0, 1).
    """
    if not (isinstance(alpha, Real) and 0 < alpha < 1):
        raise SettingsError(
            f"alpha = {alpha!r} is no false-alarm rate; expected a number above 0 and below 1, e.g. 0.05"
        )
    guess = round(alpha * (n + 1))
    return next(k for k in (guess + 1, guess, guess - 1) if k / (n + 1) <= alpha)


def threshold(calibration: ArrayLike, alpha: float) -> float:
    """The score above which (strictly) p ≤ α: the k-th largest of `sorted_scores`, +inf when k = 0."""
    ordered = sorted_scores(calibration)
    k = alarm_rank(len(ordered), alpha)
    return float(ordered[-k]) if k else math.inf


def sorted_scores(calibration: ArrayLike) -> Floats:
    """(n,) calibration scores in rising order, each raised by what may be rounding in the score it is compared with.

    That is 1e-5 of its size, or of the typical (median) size of calibration scores where that is larger.
    """
    ordered = np.sort(finite_scores(calibration))
    if not len(ordered):
        return ordered
    size = np.abs(ordered)
    return ordered + TIE * np.maximum(size, np.median(size))


def minimum_normals(alpha: float) -> int:
    """⌈1/α⌉ − 1: the fewest calibration normals with which anything can be flagged at rate α."""
    alarm_rank(1, alpha)  # refuses an α outside (0, 1)
    guess = round(1 / alpha) - 1
    return next(n for n in (guess - 1, guess, guess + 1) if n >= 0 and 1 / (n + 1) <= alpha)


def false_alarm_interval(n: int, alpha: float, level: float = 0.95) -> tuple[float, float]:
    """Interval of the realised false-alarm rate, given the calibration set that was drawn.

    Over calibration sets of n normals without ties the rate among all future normals follows Beta(k, n+1−k); ties
    only lower it. α is the bound of its mean k/(n+1). Vovk 2012, arXiv:1209.2673.

    Returns:
        (low, high), the central interval of that law with probability `level`; (0, 0) when nothing can be flagged.
    """
    from scipy import stats

    k = alarm_rank(n, alpha)
    if k == 0:
        return 0.0, 0.0
    low, high = stats.beta.interval(level, k, n + 1 - k)
    return float(low), float(high)


def benjamini_hochberg(p: ArrayLike, q: float) -> NDArray[np.bool_]:
    """Which items of a batch to call anomalous so that the expected share of false calls among them is ≤ q.

    Holds for conformal p-values that share one calibration set (Bates et al., arXiv:2104.08279). With n calibration
    normals and m items it can flag anything only if some j of the p-values reach j·q/m ≥ 1/(n+1).

    Args:
        p: (m,) p-values.
        q: false-discovery rate in (0, 1).

    Returns:
        (m,) bool, in the order of `p`.

    Raises:
        SettingsError: q is not inside (0, 1), or a p-value not in [0, 1].

    Example:
        >>> benjamini_hochberg([0.001, 0.5, 0.02], 0.1).tolist()
        [True, False, True]
    """
    from scipy import stats

    if not (isinstance(q, Real) and 0 < q < 1):
        raise SettingsError(f"false-discovery rate q = {q!r}; expected a number above 0 and below 1, e.g. 0.1")
    p = _checked(p)
    if p.size == 0:
        return np.zeros(0, dtype=bool)
    # Conformal p-values often meet q·j/m exactly; scipy's p·(m/j) may round a hair above it.
    return stats.false_discovery_control(p, method="bh") <= q * (1 + 8 * np.finfo(np.float64).eps)


def verdict(p: ArrayLike, alpha: float, abstain: float | None = None) -> NDArray[np.str_]:
    """'anomalous' where p ≤ α, 'unsure' where α < p ≤ abstain, else 'normal'.

    `abstain` is the share of normals sent to a person or an alarm together; None never abstains.

    Raises:
        SettingsError: `abstain` is not above α and below 1, or a p-value not in [0, 1].

    Example:
        >>> verdict([0.01, 0.08, 0.6], 0.05, 0.1).tolist()
        ['anomalous', 'unsure', 'normal']
    """
    if abstain is not None and not (isinstance(abstain, Real) and alpha < abstain < 1):
        raise SettingsError(f"abstain = {abstain!r} with alpha = {alpha!r}; expected a p-value above alpha and below 1")
    p, upper = _checked(p), alpha if abstain is None else abstain
    return np.where(p <= alpha, "anomalous", np.where(p <= upper, "unsure", "normal"))


def _checked(p: ArrayLike) -> Floats:
    """p-values; NaN, that of an item that could not be read, has no verdict."""
    p = np.asarray(p, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        wrong = p[~((p >= 0) & (p <= 1))].flat[0]
        raise SettingsError(f"p-value {wrong}; expected numbers from 0 to 1: leave out items that have none")
    return p


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

    Raises:
        NotEnoughNormals: there is no calibration score.
    """
    ordered = np.sort(finite_scores(calibration))
    scores = judged_scores(scores)
    if len(ordered) == 0:
        raise NotEnoughNormals("surprise is measured against calibration normals; there are none", missing=1)
    n = len(ordered)
    values, first = np.unique(ordered, return_index=True)
    nats = -np.log((n - first) / (n + 1.0))

    inside = np.interp(scores, values, nats)
    above = nats[-1] + np.maximum(scores - values[-1], 0) / mean_excess(ordered)
    below = nats[0] * np.exp(np.minimum(scores - values[0], 0) / mean_excess(-ordered[::-1]))
    return np.where(scores > values[-1], above, np.where(scores < values[0], below, inside))


def mean_excess(ordered: Floats) -> float:
    """Maximum-likelihood scale of an exponential upper tail: mean excess of the top tenth (5 to 250 values)."""
    n = len(ordered)
    top = min(max(n // 10, 5), 250, n - 1)
    for start in (n - 1 - top, 0):  # ties may leave the top without spread: then use the whole sample
        excess = float(np.mean(ordered[start + 1 :] - ordered[start])) if n > 1 else 0.0
        if excess > 0:
            return excess
    return max(abs(float(ordered[-1])), 1.0)


def on_scale(scores: Floats, own: float, common: float) -> Floats:
    """Scores with the threshold `own`, shifted so that `common` is theirs: above it exactly where they were above it.

    Where a threshold is not finite, nothing is flagged and nothing is shifted.
    """
    if not math.isfinite(own) or not math.isfinite(common):
        return scores
    shifted = scores - (own - common)
    return np.where(scores > own, np.maximum(shifted, np.nextafter(common, np.inf)), np.minimum(shifted, common))


def finite_scores(values: ArrayLike) -> Floats:
    """(n,) float64; a calibration score that is not finite would make every later p-value meaningless."""
    scores = _vector(values, "calibration scores")
    invalid = np.flatnonzero(~np.isfinite(scores))
    if len(invalid):
        raise DataError(
            f"{len(invalid)} of {len(scores)} calibration scores are not finite (first: {scores[invalid[0]]} at "
            f"position {invalid[0]}); the model or these images are broken. Look at the training loss and "
            "run `knowngood inspect`."
        )
    return scores


def judged_scores(values: ArrayLike) -> Floats:
    """(m,) float64 without NaN."""
    scores = _vector(values, "scores")
    invalid = np.flatnonzero(np.isnan(scores))
    if len(invalid):
        raise DataError(
            f"{len(invalid)} of {len(scores)} scores are NaN (first at position {invalid[0]}): these items have no "
            "p-value; look for NaN pixels in them."
        )
    return scores


def _vector(values: Any, what: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise DataError(f"{what}: expected shape (n,), got {array.shape}")
    return array
