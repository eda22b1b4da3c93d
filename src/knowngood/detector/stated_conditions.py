"""Whether items fit the conditions that are stated for them: the mismatch of each, and what they look like instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from knowngood.data.columns import Column
from knowngood.detector.condition_posterior import TEMPERATURE
from knowngood.detector.pipeline import Pipeline
from knowngood.detector.scoring import Scored
from knowngood.scores.mismatch import by_value, mismatch


class Stated(NamedTuple):
    """Of N items of which J conditions are checked; NaN and −1 where nothing is stated, and of unreadable items.

    p_values, mismatch: (N, 1) of one condition; of several (N, 1 + J), all together and each. The mismatch is
    comparable across conditions. looks_like: (N, J) the likeliest value of each column, as a code; instead: the
    likeliest but for the stated one.
    """

    p_values: np.ndarray
    mismatch: np.ndarray
    looks_like: np.ndarray
    instead: np.ndarray

    def wrong(self, level: float) -> np.ndarray:
        """(N,) bool: p ≤ level."""
        return self.p_values[:, 0] <= level

    def wrong_columns(self, level: float) -> np.ndarray:
        """(N, J) bool: the columns that are wrong, of items that do not fit; at least one of them."""
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
    """As in `Stated`, of N items; raw log odds in place of the mismatch."""

    log_odds: np.ndarray
    looks_like: np.ndarray
    instead: np.ndarray


def mismatches(pipeline: Pipeline, scored: Scored) -> Mismatches:
    """The log odds against the stated conditions of a batch: of all checked columns, and of each if there are several.

    Of one column the values of all others are averaged out. An item has none if a value is missing, or if its condition
    is the only one.
    """
    expanded, energies = scored.expanded, scored.energies
    assert energies is not None
    assert expanded.stated is not None
    at = [i for i, column in enumerate(pipeline.schema.columns) if column.name in pipeline.checked]
    n = len(scored.items)
    log_odds = np.full((n, 1 + len(at) * (len(at) > 1)), np.nan)
    likely, instead = np.full((n, len(at)), -1), np.full((n, len(at)), -1)
    starts = np.searchsorted(expanded.item, np.arange(n))
    read = np.flatnonzero(~np.isnan(scored.values[starts]))
    if not len(read):
        return Mismatches(log_odds, likely, instead)
    place = np.arange(len(expanded.item)) - starts[expanded.item]  # of each row among those of its item
    energy = np.full((n, int(place.max()) + 1), np.inf)
    weight, codes = np.zeros(energy.shape), np.full((*energy.shape, len(at)), -1)
    energy[expanded.item, place], weight[expanded.item, place] = energies, expanded.log_weight
    codes[expanded.item, place] = expanded.codes[:, at]
    known, t = read[expanded.stated[read] >= 0], temperature(pipeline)
    own = expanded.stated[known] - starts[known]
    log_odds[known, 0] = mismatch(energy[known], own, weight[known], temperature=t).log_odds
    for j in range(len(at)):
        each = by_value(energy[read], codes[read, :, j], weight[read], temperature=t)
        likely[read, j] = each.argmin(axis=1)
        one = mismatch(each[np.searchsorted(read, known)], codes[known, own, j])
        instead[known, j] = one.other
        if len(at) > 1:
            log_odds[known, 1 + j] = one.log_odds
    log_odds[~np.isfinite(log_odds)] = np.nan  # −inf: there is no other condition
    return Mismatches(log_odds, likely, instead)


def strata_by_itself(pipeline: Pipeline, scored: Scored) -> np.ndarray:
    """(M,) the Mondrian group in which the item of each row is compared by itself, whatever is stated for it.

    That is the group of what it looks like. It is a function of the item, as Mondrian conformal prediction needs it,
    and a wrong statement does not move the item among scores of another scale. Rows of items that state nothing keep
    theirs.
    """
    expanded, energies = scored.expanded, scored.energies
    assert energies is not None
    assert expanded.stated is not None
    cost = energies / temperature(pipeline) - expanded.log_weight
    order = np.lexsort((cost, expanded.item))
    likeliest = order[np.searchsorted(expanded.item, np.arange(len(scored.items)))]
    stated = expanded.stated[expanded.item] >= 0
    return np.where(stated, expanded.stratum[likeliest[expanded.item]], expanded.stratum)


def temperature(pipeline: Pipeline) -> float:
    """T of `mismatch`: that of p(c|x), where every calibration score was made by the model that it was fitted for."""
    fitted = pipeline.state.get(TEMPERATURE)
    return 1.0 if fitted is None or pipeline.settings.calibration.method == "cross" else float(fitted)


def stated_columns(stated: Stated, checked: Sequence[Column], level: float) -> dict[str, Any]:
    """Columns of a table: p_condition, that of each of several columns, mismatch and looks_like."""
    names = ["p_condition", *(f"p_condition_{column.name}" for column in checked if len(checked) > 1)]
    codes = np.where(stated.wrong_columns(level), stated.instead, stated.looks_like)
    prefix = [f"{column.name}=" * (len(checked) > 1) for column in checked]
    words = [
        ", ".join(start + text for start, text in zip(prefix, row, strict=True) if text)
        for row in value_names(checked, codes)
    ]
    return {
        **dict(zip(names, stated.p_values.T, strict=True)),
        "mismatch": stated.mismatch[:, 0],
        "looks_like": [text or None for text in words],
    }


def wrong_words(stated: Stated, checked: Sequence[Column], level: float) -> np.ndarray:
    """(N,) 'wrong for product: looks like B' of items that do not fit; empty of others."""
    words = np.full(len(stated.mismatch), "", dtype=object)
    wrong, names = stated.wrong_columns(level), np.array([column.name for column in checked])
    for i, values in enumerate(value_names(checked, stated.instead)):
        if wrong[i].any():
            words[i] = f"wrong for {', '.join(names[wrong[i]])}: looks like {', '.join(values[wrong[i]])}"
    return words


def value_names(columns: Sequence[Column], codes: np.ndarray) -> np.ndarray:
    """(N, J) values, or bins, in words: 'B', '0.1 to 0.2'; "" of code −1."""
    names = [[*(text.removeprefix(one.name).lstrip(" =") for text in one.code_names), ""] for one in columns]
    return np.array([np.array(known, dtype=object)[code] for known, code in zip(names, codes.T, strict=True)]).T
