"""Rows for items that lack values of conditions: one for each combination that they may have. NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from knowngood.data.columns import Column
from knowngood.data.combinations import count_up, group
from knowngood.data.values import Floats, Ints


class Filled(NamedTuple):
    """M rows of N items. known: (N,) bool, an item had every value. The others as in `data.conditions.Expanded`."""

    codes: Ints
    numbers: Floats
    item: Ints
    log_weight: Floats
    known: np.ndarray


def filled(columns: Sequence[Column], cells: Ints, counts: Sequence[int], codes: Ints, numbers: Floats) -> Filled:
    """Items with codes and numbers (N, columns), −1 where unknown, as rows without gaps in the columns of cells.

    Args:
        cells: (R, columns in cells) the combinations that occurred in the fit. counts: how often.
    """
    n = len(codes)
    cell_at = [i for i, column in enumerate(columns) if column.in_cells]
    lacking = np.asarray((codes[:, cell_at] < 0).any(axis=1))
    item, log_weight = np.arange(n, dtype=np.int64), np.zeros(n)
    if lacking.any():
        partial, which = group(codes[lacking][:, cell_at])
        options = [_options(cells, np.asarray(counts, dtype=np.float64), row) for row in partial]
        sizes = np.ones(n, dtype=np.int64)
        sizes[lacking] = np.array([len(weights) for _, weights in options])[which]
        item = np.repeat(item, sizes)
        codes, numbers, inferred = codes[item], numbers[item], lacking[item]
        # Rows are in item order; filling group by group keeps the cells of an item together and in their order.
        starts = np.cumsum([0] + [len(weights) for _, weights in options])
        pick = np.repeat(starts[which], sizes[lacking]) + count_up(sizes[lacking])
        log_weight = np.zeros(len(item))
        log_weight[inferred] = np.concatenate([weights for _, weights in options])[pick]
        values = np.concatenate([rows for rows, _ in options])[pick]
        for k, i in enumerate(cell_at):
            gap = inferred & (codes[:, i] < 0)
            codes[gap, i] = values[gap[inferred], k]
            if columns[i].kind == "continuous":
                numbers[gap, i] = np.asarray(columns[i].medians)[codes[gap, i]]
    return Filled(codes, numbers, item, log_weight, ~lacking)


def _options(cells: Ints, counts: Floats, partial: Ints) -> tuple[Ints, Floats]:
    """Values that may fill the gaps (−1) of one partly known cell, (K, columns), and their log weights (K,)."""
    gap = partial < 0
    fits = (cells[:, ~gap] == partial[~gap]).all(axis=1)
    if fits.any():
        cells, counts = cells[fits], counts[fits]
    values, which = group(cells[:, gap])
    weights = np.bincount(which, weights=counts)
    rows = np.tile(partial, (len(values), 1))
    rows[:, gap] = values
    return rows, np.log(weights / weights.sum())
