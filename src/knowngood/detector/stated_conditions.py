"""Whether items fit the conditions that are stated for them: the mismatch of each, and what they look like instead."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from knowngood.data.columns import Column
from knowngood.detector.condition_posterior import TEMPERATURE
from knowngood.detector.pipeline import Pipeline
from knowngood.detector.scoring import Scored
from knowngood.scores.mismatch import by_value, mismatch


class Stated(NamedTuple):
    """Of N items of which conditions are checked; NaN and "" where nothing is stated, and of unreadable items.

    p_values, mismatch: (N, 1 + J), of all checked columns together, and of each if they are several (else J = 0). The
    mismatch is comparable across conditions. looks_like: (N, J or 1) the likeliest value of each checked column;
    instead: the likeliest but for the stated one.
    """

    p_values: np.ndarray
    mismatch: np.ndarray
    looks_like: np.ndarray
    instead: np.ndarray

    def wrong(self, level: float) -> np.ndarray:
        """(N,) bool: p ≤ level."""
        return self.p_values[:, 0] <= level

    def wrong_columns(self, level: float) -> np.ndarray:
        """(N, J or 1) bool: the columns that are wrong, of items that do not fit; at least one of them."""
        each, scores = (some[:, 1:] if some.shape[1] > 1 else some for some in (self.p_values, self.mismatch))
        found = each <= level
        rows = self.wrong(level)
        first = np.lexsort((-scores, np.nan_to_num(each, nan=2.0)), axis=1)[:, 0]
        found[np.arange(len(found)), first] |= rows
        return found & rows[:, None]

    @classmethod
    def concat(cls, parts: list[Stated]) -> Stated:
        """One after the other."""
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class Mismatches(NamedTuple):
    """Raw mismatches of N items, (N, 1 + J), NaN where nothing is stated; and values in words as in `Stated`."""

    log_odds: np.ndarray
    looks_like: np.ndarray
    instead: np.ndarray


def mismatches(pipeline: Pipeline, scored: Scored) -> Mismatches:
    """The mismatch of the items of a batch with all checked columns together, and with each of several.

    Values of other columns are averaged out. An item has none if a value is missing or its condition has no other.
    """
    expanded, energies = scored.expanded, scored.energies
    assert energies is not None
    assert expanded.stated is not None
    columns, at = _checked(pipeline)
    n, each = len(scored.items), len(at) if len(at) > 1 else 0
    log_odds = np.full((n, 1 + each), np.nan)
    likely, instead = (np.full((n, len(at)), "", dtype=object) for _ in range(2))
    starts = np.searchsorted(expanded.item, np.arange(n))
    place = np.arange(len(expanded.item)) - starts[expanded.item]
    read = np.flatnonzero(~np.isnan(scored.values[starts]))
    if not len(read):
        return Mismatches(log_odds, likely, instead)
    shape = n, int(place.max()) + 1
    energy, weight = np.full(shape, np.inf), np.zeros(shape)
    codes = np.full((*shape, len(at)), -1)
    energy[expanded.item, place], weight[expanded.item, place] = energies, expanded.log_weight
    codes[expanded.item, place] = expanded.codes[:, at]
    known = read[expanded.stated[read] >= 0]
    t = temperature(pipeline)
    found = mismatch(energy[known], expanded.stated[known] - starts[known], weight[known], temperature=t)
    log_odds[known, 0] = found.log_odds
    for j, column in enumerate(columns):
        cost = by_value(energy[read], codes[read, :, j], weight[read], temperature=t)
        names = value_names(column)
        likely[read, j] = names[cost.argmin(axis=1)]
        own = np.searchsorted(read, known)
        one = mismatch(cost[own], codes[known, expanded.stated[known] - starts[known], j])
        instead[known, j] = names[one.other]
        if each:
            log_odds[known, 1 + j] = one.log_odds
    log_odds[~np.isfinite(log_odds)] = np.nan  # −inf: there is no other condition
    return Mismatches(log_odds, likely, instead)


def temperature(pipeline: Pipeline) -> float:
    """T of `mismatch`: that of p(c|x), where every calibration score was made by the model that it was fitted for."""
    fitted = pipeline.state.get(TEMPERATURE)
    return 1.0 if fitted is None or pipeline.settings.calibration.method == "cross" else float(fitted)


def value_names(column: Column) -> np.ndarray:
    """The values, or bins, of a column in words: 'B', '0.1 to 0.2'."""
    return np.array([name.removeprefix(column.name).lstrip(" =") for name in column.code_names], dtype=object)


def stated_columns(stated: Stated, checked: tuple[str, ...], level: float) -> dict[str, Any]:
    """Columns of a table: p_condition, that of each of several columns, mismatch and looks_like."""
    names = ["p_condition", *(f"p_condition_{name}" for name in checked if len(checked) > 1)]
    values = np.where(stated.wrong_columns(level), stated.instead, stated.looks_like)
    return {
        **dict(zip(names, stated.p_values.T, strict=True)),
        "mismatch": stated.mismatch[:, 0],
        "looks_like": [in_words(checked, row) or None for row in values],
    }


def wrong_words(stated: Stated, checked: tuple[str, ...], level: float) -> np.ndarray:
    """(N,) 'wrong for product: looks like B' of items that do not fit; empty of others."""
    words = np.full(len(stated.mismatch), "", dtype=object)
    wrong = stated.wrong_columns(level)
    for i in np.flatnonzero(wrong.any(axis=1)):
        names = [name for name, one in zip(checked, wrong[i], strict=True) if one]
        words[i] = f"wrong for {', '.join(names)}: looks like {', '.join(stated.instead[i, wrong[i]])}"
    return words


def in_words(checked: tuple[str, ...], values: np.ndarray) -> str:
    """'B' of one column, 'product=B, angle=1' of several; empty where nothing is known."""
    if len(checked) == 1:
        return str(values[0])
    return ", ".join(f"{name}={value}" for name, value in zip(checked, values, strict=True) if value)


def _checked(pipeline: Pipeline) -> tuple[list[Column], list[int]]:
    columns = [(column, i) for i, column in enumerate(pipeline.schema.columns) if column.name in pipeline.checked]
    return [column for column, _ in columns], [i for _, i in columns]
