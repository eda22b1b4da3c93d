"""Stratified random splits of the normal items: fit, select and calibrate in one split, or K folds.

Items that belong together (copies of one image, images of one part or patient) are a group. A group lies in one part
or fold as a whole: else held-out items resemble those fitted to more than new items will.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knowngood.errors import DataError, SettingsError

PARTS = ("fit", "select", "calibrate")


def split_normals(
    n: int,
    strata: ArrayLike | None = None,
    *,
    groups: ArrayLike | None = None,
    select: float = 0.1,
    calibrate: float = 0.2,
    seed: int | None = 0,
) -> dict[str, NDArray[np.int64]]:
    """Share n normal items out at random, stratum by stratum.

    In every stratum each part gets its fraction rounded down or up, and the roundings are chosen so that the totals
    come out right too. Every stratum keeps at least one item to fit on. With groups it is groups that are counted and
    shared out, each in the stratum of its first item.

    Args:
        n: number of items, at least 1.
        strata: (n,) integers, or None for one stratum.
        groups: (n,) integers, the same for items that belong together; None if none do.
        select, calibrate: fractions in [0, 1) with a sum below 1; the rest is fitted on.
        seed: the same seed gives the same split; None draws one from the system.

    Returns:
        {"fit", "select", "calibrate"}: sorted positions in 0…n−1, disjoint, all of them together.

    Raises:
        DataError: n is 0. SettingsError: fractions below 0, or with a sum of 1 or more.
    """
    if n < 1:
        raise DataError("no normal items to split; a model is fitted on images with label 0 or none")
    if min(select, calibrate) < 0 or select + calibrate >= 1:
        raise SettingsError(
            f"select = {select:g} and calibrate = {calibrate:g}; expected fractions from 0 with a sum below 1"
        )
    codes, unit = _units(n, strata, groups)
    rng = np.random.default_rng(seed)
    fractions = np.array([1 - select - calibrate, select, calibrate])
    owed = np.zeros(3)  # what each part should have had so far, less what it got
    parts: list[list[NDArray[np.int64]]] = [[], [], []]
    for stratum in np.unique(codes):
        members = rng.permutation(np.flatnonzero(codes == stratum))
        counts = _share_out(len(members), fractions, owed)
        owed += len(members) * fractions - counts
        for part, piece in zip(parts, np.split(members, np.cumsum(counts)[:-1]), strict=True):
            part.append(piece)
    return {name: _members(unit, np.concatenate(part)) for name, part in zip(PARTS, parts, strict=True)}


def folds(
    n: int, strata: ArrayLike | None = None, k: int = 5, seed: int | None = 0, *, groups: ArrayLike | None = None
) -> list[NDArray[np.int64]]:
    """K random folds of n normal items, for cross-validation and cross-conformal p-values.

    The sizes of any two folds differ by at most one item, over all items and within every Mondrian group (stratum);
    with groups by at most one group.

    Args:
        n: number of items, at least 1.
        strata: (n,) integers, or None for one stratum.
        k: number of folds, at least 2; the number of groups where that is smaller.
        seed: the same seed gives the same folds; None draws one from the system.
        groups: (n,) integers, the same for items that belong together; None if none do.

    Returns:
        k arrays of sorted positions in 0…n−1, disjoint, all of them together, none empty.

    Raises:
        DataError: n is 0. SettingsError: k is below 2.
    """
    if n < 1:
        raise DataError("no normal items to share out over folds; a model is fitted on images with label 0 or none")
    if k < 2:
        raise SettingsError(f"k = {k!r} folds; expected at least 2, e.g. 5")
    codes, unit = _units(n, strata, groups)
    shuffled = np.random.default_rng(seed).permutation(len(codes))
    # Dealt out in turn, stratum after stratum: every run of neighbours is shared out to within one item.
    ordered = shuffled[np.argsort(codes[shuffled], kind="stable")]
    k = min(k, len(codes))
    return [_members(unit, ordered[first::k]) for first in range(k)]


def one_of_each(groups: ArrayLike, strata: ArrayLike | None = None, seed: int | None = 0) -> NDArray[np.int64]:
    """Sorted positions of one random item of every group, in every stratum where it has any.

    Items of one group are not exchangeable with a new item of another, but one item drawn from each group is
    (Dunn, Wasserman and Ramdas, arXiv:1809.07441): p-values count these.
    """
    drawn = np.random.default_rng(seed).permutation(len(np.asarray(groups)))
    pairs = np.stack([np.asarray(groups), _codes(len(drawn), strata)], axis=1)[drawn]
    return np.sort(drawn[np.unique(pairs, axis=0, return_index=True)[1]])


def _units(n: int, strata: ArrayLike | None, groups: ArrayLike | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The stratum of each group, in the order of their first items; and the group of each item (n,)."""
    codes = _codes(n, strata)
    if groups is None:
        return codes, np.arange(n)
    if np.shape(groups) != (n,):
        raise DataError(f"groups: expected shape ({n},), got {np.shape(groups)}")
    _, first, unit = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    order = np.argsort(first)
    return codes[first[order]], np.argsort(order)[unit]


def _members(unit: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.flatnonzero(np.isin(unit, chosen))


def _codes(n: int, strata: ArrayLike | None) -> NDArray[np.int64]:
    codes = np.zeros(n, dtype=np.int64) if strata is None else np.asarray(strata)
    if codes.shape != (n,):
        raise DataError(f"strata: expected shape ({n},), got {codes.shape}")
    return codes


def _share_out(size: int, fractions: NDArray[np.float64], owed: NDArray[np.float64]) -> NDArray[np.int64]:
    target = size * fractions
    counts = np.floor(target + 1e-9).astype(np.int64)
    rounded = target - counts > 1e-9
    # The items left after rounding down go, one each, to the parts that earlier strata and this one left shortest.
    order = np.argsort(np.where(rounded, -(target - counts + owed), np.inf), kind="stable")
    counts[order[: size - counts.sum()]] += 1
    if counts[0] == 0:
        counts[np.argmax(counts)] -= 1
        counts[0] = 1
    return counts
