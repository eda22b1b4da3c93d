"""Factors that an objective learns: which columns, which items show them, and their scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from knowngood.data import ImageSet, TableSet
from knowngood.data.image_factors import MEASURES, measure
from knowngood.data.values import as_array, numbers_of, text_of, texts_of
from knowngood.errors import DataError


def targets(
    items: ImageSet | TableSet, names: tuple[str, ...], like: ImageSet | TableSet | None = None
) -> np.ndarray | None:
    """(N, K) what a head is to predict, NaN where unknown; None without factors.

    A column of the data counts first; brightness, contrast, sharpness and rotation are measured where there is none.
    Numbers (and yes/no) are one entry as they are, to be standardised by the caller. Text is one-hot over its values in
    alphabetical order. "rotation", degrees of an axis as `measure` gives them, is cos 2θ and sin 2θ, which do not jump
    where the axis passes 90.

    Args:
        like: items whose values of text are the entries, so that those of other items mean the same; another value, or
            a column that only they have, is unknown. Default: `items`.

    Raises:
        DataError: a factor is neither a column nor one that can be measured; a column is neither text nor numbers, or
            holds infinite values.
    """
    if not names:
        return None
    columns = dict(items.conditions)
    absent = [name for name in names if name not in columns]
    if isinstance(items, ImageSet):
        columns |= measure(items, [name for name in absent if name in MEASURES])
    others = {} if like is None else like.conditions
    columns |= {name: np.full(len(items), None) for name in absent if name in others}
    for name in absent:
        if name not in columns:
            known = ", ".join(items.conditions) or "none"
            raise DataError(
                f"the factor '{name}' is no column of the data (they have: {known}) and none of those measured on "
                f"images: {', '.join(MEASURES)}"
            )
    return np.concatenate([_entries(name, columns[name], others.get(name), len(items)) for name in names], axis=1)


def _entries(name: str, data: Any, like: Any, n: int) -> np.ndarray:
    """(N,) → (N, entries), those of `like` (M,) where it is given."""
    column = as_array(name, data, n)
    like = column if like is None else as_array(name, like, len(like))
    is_text = {isinstance(value, str) for value in [*like.tolist(), *column.tolist()] if text_of(value) is not None}
    if is_text == {True, False}:
        raise DataError(f"factor '{name}' mixes text and numbers; make it one or the other")
    if is_text == {True}:
        (which, texts), values = texts_of(column), sorted(filter(None, texts_of(like)[1]))
        each = [[float(text == value) if text in values else np.nan for value in values] for text in texts]
        return np.array(each)[which]
    numbers = numbers_of(column, name)
    if name != "rotation":
        return numbers[:, None]
    twice = np.radians(2 * numbers)
    return np.stack((np.cos(twice), np.sin(twice)), axis=1)


def with_measured(items: ImageSet, names: tuple[str, ...], means: dict[str, float] | None = None) -> ImageSet:
    """Images with the named image factors as condition columns; a column that is there stays.

    An unreadable image has none. It gets the value of `means`, so that it is set aside for what it is.
    """
    found = measure(items, [name for name in names if name not in items.conditions])
    if means is not None:
        found = {name: np.where(np.isnan(values), means.get(name, 0.0), values) for name, values in found.items()}
    return items.annotate(None, found)


def shown(rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """(N,) True for the items that show their factors: those that have them all, and of these a random `share`."""
    complete = np.flatnonzero(~np.isnan(rows).any(axis=1))
    chosen = np.random.default_rng([seed, 7]).permutation(complete)[: round(share * len(complete))]
    return np.isin(np.arange(len(rows)), chosen)


@dataclass(frozen=True)
class Standardised:
    """Factors in units from an origin: by default in standard deviations from the mean of the items fitted on."""

    mean: np.ndarray  # (K,) the origin
    std: np.ndarray  # (K,) the unit

    @classmethod
    def fit(cls, rows: np.ndarray) -> Standardised:
        """From (N, K), NaN passed over; a factor that does not vary is left where it is."""
        if np.isnan(rows).all(axis=0).any():
            raise DataError("a factor is unknown for every training item; give some values of it")
        mean, std = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
        return cls(mean, np.where(std > 1e-12, std, 1.0))

    @classmethod
    def within_unit(cls, rows: np.ndarray) -> Standardised:
        """From (N, K): values in [0, 1] stay as they are, others are brought there by their range."""
        cls.fit(rows)  # refuses a factor that is nowhere known
        low, high = np.nanmin(rows, axis=0), np.nanmax(rows, axis=0)
        inside = (low >= 0) & (high <= 1)
        return cls(np.where(inside, 0.0, low), np.where(inside | (high == low), 1.0, high - low))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return ((rows - self.mean) / self.std).astype(np.float32)
