"""Factors that an objective learns: which columns, which items show them, and their scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from knowngood.data import ImageSet, TableSet
from knowngood.data.image_factors import IMAGE_FACTORS, factor_targets, measure
from knowngood.errors import DataError


def targets(items: ImageSet | TableSet, names: tuple[str, ...]) -> np.ndarray | None:
    """(N, K) what a head is to predict, NaN where unknown; None without factors.

    A column of the data counts first; brightness, contrast, sharpness and rotation are measured where there is none.

    Raises:
        DataError: a factor is neither a column nor one that can be measured.
    """
    if not names:
        return None
    absent = [name for name in names if name not in items.conditions]
    to_measure = [name for name in absent if name in IMAGE_FACTORS and isinstance(items, ImageSet)]
    unknown = [name for name in absent if name not in to_measure]
    if unknown:
        known = ", ".join(items.conditions) or "none"
        raise DataError(
            f"the factor '{unknown[0]}' is no column of the data (they have: {known}) and none of those measured on "
            f"images: {', '.join(IMAGE_FACTORS)}"
        )
    found = measure(items, to_measure) if to_measure and isinstance(items, ImageSet) else {}
    return factor_targets({name: found[name] if name in found else items.conditions[name] for name in names}, names)


def with_measured(items: ImageSet, names: tuple[str, ...], means: dict[str, float] | None = None) -> ImageSet:
    """Images with the named image factors as condition columns; a column that is there stays.

    An unreadable image has none. It gets the value of `means`, so that it is set aside for what it is.
    """
    absent = [name for name in names if name not in items.conditions]
    if not absent:
        return items
    found = measure(items, absent)
    for name, values in found.items():
        if means is not None:
            found[name] = np.where(np.isnan(values), means.get(name, 0.0), values)
    return items.annotate(None, found)


def shown(rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """(N,) True for the items that show their factors: those that have them all, and of these a random `share`."""
    complete = np.flatnonzero(~np.isnan(rows).any(axis=1))
    chosen = np.random.default_rng([seed, 7]).permutation(complete)[: round(share * len(complete))]
    mask = np.zeros(len(rows), dtype=bool)
    mask[chosen] = True
    return mask


@dataclass(frozen=True)
class Standardised:
    """Factors in standard deviations from the mean of the items fitted on."""

    mean: np.ndarray  # (K,)
    std: np.ndarray  # (K,)

    @classmethod
    def fit(cls, rows: np.ndarray) -> Standardised:
        """From (N, K), NaN passed over; a factor that does not vary is left where it is."""
        known = ~np.isnan(rows)
        if not known.any(axis=0).all():
            raise DataError("a factor is unknown for every training item; give some values of it")
        mean, std = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
        return cls(mean, np.where(std > 1e-12, std, 1.0))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return ((rows - self.mean) / self.std).astype(np.float32)
