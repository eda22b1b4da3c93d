"""What every metric of disentanglement checks first: codes, factors, groups, and how items are split in two."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knowngood.errors import DataError, SettingsError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Factors(NamedTuple):
    """K factors of N items: `values` (N, K) numbers, `levels` (N, K) from 0 without gaps, `categorical` (K,)."""

    values: Floats
    levels: Ints
    categorical: Bools


def checked_codes(codes: ArrayLike, least: int = 2) -> Floats:
    """Codes (N, D) as float64. Raises DataError for another shape, fewer than `least` items, or a value not finite."""
    z = np.asarray(codes, dtype=np.float64)
    if z.ndim != 2 or z.shape[1] == 0:
        raise DataError(f"codes have shape {z.shape}; expected (items, dimensions), at least one dimension")
    if len(z) < least:
        raise DataError(f"codes of {len(z)} items; expected at least {least}")
    if not np.isfinite(z).all():
        raise DataError(f"{int((~np.isfinite(z)).any(axis=1).sum())} of {len(z)} items have a code that is not finite")
    return z


def checked_factors(factors: ArrayLike, n: int, categorical: Iterable[int] = (), least: int = 1) -> Factors:
    """Factors (n, K) or (n,) of n items, numbers or text; text is always categorical.

    Raises:
        DataError: another shape, fewer than `least` factors, a number that is not finite, or a factor of one value.
        SettingsError: `categorical` names a column that is not there.
    """
    table = np.asarray(factors)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or len(table) != n:
        raise DataError(f"factors have shape {np.shape(factors)}; expected ({n},) or ({n}, factors), a row a code")
    count = table.shape[1]
    if count < least:
        raise DataError(f"{count} factors; this metric needs at least {least}")
    kinds = np.zeros(count, dtype=bool)
    for column in categorical:
        if not 0 <= column < count:
            raise SettingsError(f"categorical names factor {column}; expected 0 to {count - 1}")
        kinds[column] = True
    values, levels = np.empty((n, count)), np.empty((n, count), dtype=np.int64)
    for k in range(count):
        numbers = _numbers(table[:, k])
        kinds[k] |= numbers is None
        distinct, levels[:, k] = np.unique(table[:, k].astype(str) if numbers is None else numbers, return_inverse=True)
        values[:, k] = levels[:, k] if numbers is None else numbers
        if not np.isfinite(values[:, k]).all():
            raise DataError(f"factor {k} has values that are not finite; leave those items out")
        if len(distinct) < 2:
            raise DataError(f"factor {k} has the one value {distinct[0]}; leave it out, nothing can be learnt about it")
    return Factors(values, levels, kinds)


def checked_levels(factors: ArrayLike, n: int, least: int = 1) -> Ints:
    """Levels (n, K) of factors that repeat their values. Raises DataError for a continuous factor; see above."""
    levels = checked_factors(factors, n, least=least).levels
    for k, highest in enumerate(levels.max(axis=0)):
        if n >= 20 and highest + 1 > n / 2:
            raise DataError(
                f"factor {k} has {highest + 1} values in {n} items: mutual information needs values that repeat; "
                "bin it first, for example with numpy.digitize"
            )
    return levels


def checked_groups(groups: ArrayLike, fixed: ArrayLike, ndim: int, what: str) -> tuple[Floats, Ints]:
    """Codes of G groups and, for each, which factor its items share (G,), numbered from 0 without gaps."""
    z, shared = np.asarray(groups, dtype=np.float64), np.asarray(fixed)
    if z.ndim != ndim or 0 in z.shape:
        raise DataError(f"groups have shape {z.shape}; expected {what}")
    if shared.shape != z.shape[:1]:
        raise DataError(f"fixed has shape {shared.shape}; expected one factor a group: ({len(z)},)")
    if not np.isfinite(z).all():
        raise DataError("groups hold codes that are not finite")
    names, numbered = np.unique(shared, return_inverse=True)
    half = len(z) // 2
    if len(names) < 2 or len(np.unique(numbered[:half])) < 2:
        raise DataError(f"groups share {len(names)} factors, and the first half of them is learnt from: give more")
    return z, numbered


def halves(n: int, seed: int, categories: Ints | None = None) -> tuple[Ints, Ints]:
    """Indices of two random halves, to learn from and to judge by.

    Raises:
        DataError: a value of one of `categories` (n, K) is missing from one of them.
    """
    order = np.random.default_rng(seed).permutation(n)
    first, second = order[: n // 2], order[n // 2 :]
    for column in [] if categories is None else categories.T:
        absent = set(np.unique(column)) - (set(np.unique(column[first])) & set(np.unique(column[second])))
        if absent:
            rare = min(absent)
            raise DataError(
                f"a categorical factor has its value number {rare} in {int((column == rare).sum())} of {n} items, "
                "too few to learn from one half and judge by the other; give more items or leave it out"
            )
    return first, second


def standardised(z: Floats, by: Floats) -> Floats:
    """z (N, D) less the mean of `by`, over its standard deviation; constant dimensions become 0."""
    varies = np.ptp(by, axis=0) > 0  # the deviation of a constant may be a rounding error, not 0
    return np.where(varies, (z - by.mean(axis=0)) / np.where(varies, by.std(axis=0), 1), 0.0)


def _numbers(column: np.ndarray) -> Floats | None:
    if column.dtype.kind in "US" or any(isinstance(value, str) for value in column.tolist()):
        return None
    return column.astype(np.float64)
