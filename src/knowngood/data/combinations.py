"""Combinations of codes: rows of small integers, grouped, counted and looked up. Torch-free.

`codes` is (M, columns) int64 with −1 for an unknown value; `cards` holds the number of codes of each column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from knowngood.data.columns import Ints


def _keys(codes: Ints, cards: Sequence[int]) -> Ints | None:
    """One integer a row that orders like the row, −1 allowed as a code; None where it would not fit 63 bits."""
    if math.prod(card + 1 for card in cards) >= 2**63:
        return None
    keys = np.zeros(len(codes), dtype=np.int64)
    for k, card in enumerate(cards):
        keys = keys * (card + 1) + codes[:, k] + 1
    return keys


def group(codes: Ints, cards: Sequence[int]) -> tuple[Ints, Ints]:
    """Distinct rows in ascending order (K, columns), and which of them each row is (M,)."""
    keys = _keys(codes, cards)
    if keys is None:
        rows, which = np.unique(codes, axis=0, return_inverse=True)
        return rows, which.reshape(-1)
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    return codes[first], which


def distinct(codes: Ints, cards: Sequence[int]) -> tuple[Ints, Ints]:
    """Distinct rows in ascending order (K, columns), and how often each of them occurs (K,)."""
    rows, which = group(codes, cards)
    return rows, np.bincount(which, minlength=len(rows))


def find(table: Ints, codes: Ints, cards: Sequence[int]) -> Ints:
    """Position (M,) of each row in an ascending table of distinct rows; −1 where it is not there."""
    keys, wanted = _keys(table, cards), _keys(codes, cards)
    if keys is not None and wanted is not None:
        at = np.minimum(np.searchsorted(keys, wanted), len(table) - 1)
        return np.where(keys[at] == wanted, at, -1)
    # Grouped together, the table's rows and the others share one numbering.
    _, which = group(np.concatenate([table, codes]), cards)
    position = np.full(which.max() + 1, -1, dtype=np.int64)
    position[which[: len(table)]] = np.arange(len(table))
    return position[which[len(table) :]]


def count_up(sizes: Ints) -> Ints:
    """0..size−1 for each size, one after the other."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
