"""Random images of the generated factor set for the metrics of disentanglement, and the levels of given images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knowngood.config import nearest
from knowngood.data import ImageSet
from knowngood.data.datasets.factors import FACTORS, GRID, VALUES
from knowngood.errors import DataError, SettingsError

Ints = NDArray[np.int64]

CATEGORICAL = (0,)  # of FACTORS, for the metrics of disentanglement


class Groups(NamedTuple):
    """Random images that share the value of a factor, for the FactorVAE and β-VAE scores."""

    rows: Ints  # (G, L), or (G, L, 2) for pairs: numbers in the grid; `render(rows)` draws them
    fixed: Ints  # (G,) position in FACTORS of the factor that the images of a group, or of a pair, share


def codes_of(images: ImageSet) -> Ints:
    """Levels (N, 5) of the images of `open_factors` or of dSprites, from their condition columns.

    Raises:
        DataError: a column is missing, or has a value that is not on the grid.
    """
    columns = {name: "class" if name == "shape" else name for name in FACTORS}
    missing = [column for column in columns.values() if column not in images.conditions]
    if missing:
        raise DataError(f"{images.name} has no column '{missing[0]}': it is no factor set")
    levels = []
    for name, column in columns.items():
        found, grid = images.conditions[column], VALUES[name]
        if name == "shape":
            level = (found[:, None] == grid).argmax(axis=1)
            wrong = grid[level] != found
        else:
            step = (grid[-1] - grid[0]) / (len(grid) - 1)
            level = np.clip(np.rint((found - grid[0]) / step), 0, len(grid) - 1).astype(np.int64)
            wrong = ~np.isclose(grid[level], found)
        if wrong.any():
            raise DataError(f"{images.name}: {column} = {found[wrong][0]} is not on the grid")
        levels.append(level)
    return np.stack(levels, axis=1)


def factor_rows(codes: ArrayLike) -> Ints:
    """Levels (..., 5) → numbers in the grid (...). Raises DataError for a level that is not there."""
    levels = np.asarray(codes)
    if levels.ndim == 0 or levels.shape[-1] != len(GRID) or levels.dtype.kind not in "iu":
        raise DataError(f"levels of shape {levels.shape}, {levels.dtype}; expected integers (..., {len(GRID)})")
    wrong = ((levels < 0) | (levels >= GRID)).reshape(-1, len(GRID)).any(axis=0)
    if wrong.any():
        k = int(wrong.argmax())
        raise DataError(f"levels of {FACTORS[k]} from {levels[..., k].min()} to {levels[..., k].max()}; has {GRID[k]}")
    return np.asarray(np.ravel_multi_index(tuple(np.moveaxis(levels, -1, 0)), GRID), dtype=np.int64)


def kept_levels(levels: Mapping[str, Sequence[int]] | None) -> list[Ints]:
    """Levels of each factor, ascending: those given, such as {"x": range(0, 32, 4)}, else all.

    Raises:
        SettingsError: an unknown factor or level.
    """
    given = dict(levels or {})
    for name in given:
        if name not in FACTORS:
            raise SettingsError(f"levels: no factor '{name}'{nearest(name, list(FACTORS))}")
    kept = [np.unique(np.asarray(given.get(name, range(count)))) for name, count in zip(FACTORS, GRID, strict=True)]
    for name, found, count in zip(FACTORS, kept, GRID, strict=True):
        if len(found) == 0 or found.dtype.kind not in "iu" or found[0] < 0 or found[-1] >= count:
            raise SettingsError(f"levels of {name} are {found.tolist()}; expected some of 0 to {count - 1}")
    return kept


def sample_rows(n: int, rng: np.random.Generator, levels: Mapping[str, Sequence[int]] | None = None) -> Ints:
    """Numbers (n,) of random images, all factors independent and uniform over the levels kept, with replacement."""
    return factor_rows(_draw((n,), kept_levels(levels), rng))


def sample_groups(
    groups: int,
    items: int,
    rng: np.random.Generator,
    *,
    among: Sequence[str] = FACTORS,
    levels: Mapping[str, Sequence[int]] | None = None,
) -> Groups:
    """Groups of images that share the value of one factor, for `benchmarks.factor_metrics.factor_vae_score`.

    For every group a factor is drawn from `among` and then one of its levels; all else is random in each image.

    Args:
        groups, items: G and L, as in the score.
        among: factors that may be shared; those of a single level never are.
        levels: as in `kept_levels`; {"shape": [0]} asks the score within one shape.
    """
    kept, fixed = kept_levels(levels), _shared(groups, among, levels, rng)
    codes = _draw((groups, items), kept, rng)
    same = np.arange(len(GRID)) == fixed[:, None, None]
    return Groups(factor_rows(np.where(same, codes[:, :1], codes)), fixed)


def sample_pairs(
    groups: int,
    pairs: int,
    rng: np.random.Generator,
    *,
    among: Sequence[str] = FACTORS,
    levels: Mapping[str, Sequence[int]] | None = None,
) -> Groups:
    """Groups of pairs that share the value of one factor, for `benchmarks.factor_metrics.beta_vae_score`.

    As `sample_groups`, but rows (G, L, 2): the factor is shared by a group, its value by the two images of a pair.
    """
    kept, fixed = kept_levels(levels), _shared(groups, among, levels, rng)
    codes = _draw((groups, pairs, 2), kept, rng)
    same = np.arange(len(GRID)) == fixed[:, None, None, None]
    return Groups(factor_rows(np.where(same, codes[:, :, :1], codes)), fixed)


def _shared(
    groups: int, among: Sequence[str], levels: Mapping[str, Sequence[int]] | None, rng: np.random.Generator
) -> Ints:
    """(G,) factors drawn from those of `among` that vary."""
    unknown = [name for name in among if name not in FACTORS]
    if unknown:
        raise SettingsError(f"among: no factor '{unknown[0]}'{nearest(unknown[0], list(FACTORS))}")
    can = [k for k, kept in enumerate(kept_levels(levels)) if FACTORS[k] in among and len(kept) > 1]
    if len(can) < 2:
        raise SettingsError(f"among {list(among)}: {len(can)} factors that vary; expected at least two")
    return rng.choice(np.array(can, dtype=np.int64), groups)


def _draw(shape: tuple[int, ...], kept: list[Ints], rng: np.random.Generator) -> Ints:
    return np.stack([rng.choice(found, shape) for found in kept], axis=-1).astype(np.int64)
