"""Combinations of codes: rows of small integers, grouped and looked up. Torch-free.

`codes` is (M, columns) int64 with −1 for an unknown value.
"""

from __future__ import annotations

import numpy as np

from knowngood.data.values import Ints


def group(codes: Ints) -> tuple[Ints, Ints]:
    """Distinct rows in ascending order (K, columns), and which of them each row is (M,)."""
    which = np.zeros(len(codes), dtype=np.int64)
    for column in codes.T:  # the rows so far are numbered anew at each column, so that no number outgrows 63 bits
        which = np.unique(which * (column.max(initial=-1) + 2) + column + 1, return_inverse=True)[1]
    return codes[np.unique(which, return_index=True)[1]], which


def find(table: Ints, codes: Ints) -> Ints:
    """Position (M,) of each row in an ascending table of distinct rows; −1 where it is not there."""
    _, which = group(np.concatenate([table, codes]))  # one numbering for the rows of both
    position = np.full(which.max() + 1, -1, dtype=np.int64)
    position[which[: len(table)]] = np.arange(len(table))
    return position[which[len(table) :]]


def count_up(sizes: Ints) -> Ints:
    """0..size−1 for each size, one after the other."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
