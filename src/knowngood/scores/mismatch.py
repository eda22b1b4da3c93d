"""Whether an item fits the condition that is stated for it: its energy under that condition against all others.

An image may be a good image, and still not of the product, orientation or exposure that it is said to be. E(x|c), the
−log density of x under c (the −ELBO, say), does not find it: it measures above all how complex x is. The difference of
E between conditions does: that term is the same in all of them and cancels. Pure functions, NumPy arrays in and out:

    found = mismatch(energy, stated, log_weight)            # energy (N, K): E(x|c) in nats, +inf where c is no choice
    found.log_odds                                          # (N,) higher: the stated condition is less likely
    found.other                                             # (N,) the likeliest of the other conditions

With several columns a condition is a combination of values. Which column is wrong says the same function of the values
of one column, all others averaged out:

    mismatch(by_value(energy, codes, log_weight), stated_value)

A fitted detector does all of it and calibrates it within each stated condition: `Detector(conditioning={"check":
"auto"})`. `detect` then gives `p_condition`, `mismatch`, `looks_like` and `verdict`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from knowngood.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Mismatch(NamedTuple):
    """Of N items."""

    log_odds: Floats  # (N,) log of p(another condition | x) / p(the stated one | x); −inf where there is no other
    other: Ints  # (N,) the likeliest condition other than the stated one


def mismatch(
    energy: ArrayLike, stated: ArrayLike, log_weight: ArrayLike = 0.0, *, temperature: float = 1.0
) -> Mismatch:
    """The log odds log Σ_{c≠t} π_c exp(−E_c / T) − log π_t exp(−E_t / T) against the stated condition t of each item.

    They rise with −log p(t|x) and have the same order, but no end at 0: where the stated condition fits they say by how
    much. What is added to all energies of an item changes nothing.

    Args:
        energy: (N, K) E(x|c) = −log p(x|c) of each item under each of K conditions, in nats; +inf: c is no choice.
        stated: (N,) the condition that each item is said to have, 0…K−1.
        log_weight: log π, (K,) or (N, K); default all conditions alike.
        temperature: T > 0, of energies that are over-confident; see `condition_posterior.fitted_temperature`.

    Raises:
        DataError: shapes do not fit, an energy is NaN, or a stated condition is no choice.
    """
    cost = costs(energy, log_weight, temperature)
    t = np.asarray(stated, dtype=np.int64)
    n, k = cost.shape
    if t.shape != (n,) or (n and not 0 <= t.min() <= t.max() < k):
        raise DataError(f"stated: expected {n} conditions, 0 to {k - 1}, got {t!r:.60} of shape {t.shape}")
    own = cost[np.arange(n), t]
    if not np.isfinite(own).all():
        raise DataError(f"item {np.flatnonzero(~np.isfinite(own))[0]} is stated to have a condition of energy inf")
    others = cost.copy()
    others[np.arange(n), t] = np.inf
    return Mismatch(own + _log_sum(-others), others.argmin(axis=1))


def by_value(energy: ArrayLike, codes: ArrayLike, log_weight: ArrayLike = 0.0, *, temperature: float = 1.0) -> Floats:
    """(N, V) energies of the V values of one column, −log Σ_{c with the value} π_c exp(−E_c / T); +inf: no condition.

    π and T are accounted for in them: pass them to `mismatch` without.

    Args:
        codes: (K,) or (N, K), the value 0…V−1 of the column in each condition.
    """
    cost = costs(energy, log_weight, temperature)
    values = np.broadcast_to(np.asarray(codes, dtype=np.int64), cost.shape)
    each = [np.where(values == v, cost, np.inf) for v in range(int(values.max(initial=-1)) + 1)]
    return np.stack([-_log_sum(-one) for one in each], axis=1)


def costs(energy: ArrayLike, log_weight: ArrayLike, temperature: float) -> Floats:
    """(N, K): E / T − log π, the −log of p(x, c) but for a constant of each item."""
    values = np.asarray(energy, dtype=np.float64)
    if values.ndim != 2 or not values.shape[1] or np.isnan(values).any():
        raise DataError(f"energies: expected numbers of shape (N, K), none of them NaN, got shape {values.shape}")
    return values / temperature - np.asarray(log_weight, dtype=np.float64)


def _log_sum(values: Floats) -> Floats:
    """(N,) log Σ exp of values (N, K)."""
    return np.asarray(logsumexp(values, axis=1), dtype=np.float64)
