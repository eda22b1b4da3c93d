"""Normal items that scores are compared with: which ones, and what a score gives them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from knowngood.errors import DataError
from knowngood.models.base import Batch, Model
from knowngood.scores.base import Score, State

FEWEST = 30  # held-out normals; with fewer those that the model was fitted on are taken
VALUES = 1 << 27  # of all items together, at most
ITEMS = 128  # scored at a time


def reread(batches: Iterable[Batch]) -> Iterable[Batch]:
    """What can be read more than once."""
    return list(batches) if isinstance(batches, Iterator) else batches


def compared_with(held_out: Iterable[Batch], fitted: Iterable[Batch], most: int) -> Batch:
    """At most so many held-out normals, or normals that were fitted on where there are fewer than 30 of the others."""
    normals = evenly(held_out, most)
    if normals is None or len(normals.x) < FEWEST:
        normals = evenly(fitted, most)
    if normals is None:
        raise DataError("scores are compared with those of normal items; none were given")
    return normals


def evenly(batches: Iterable[Batch], most: int, values: int = VALUES) -> Batch | None:
    """At most so many items and values of these, but at least 30 items if there are so many; None of none.

    They are the first of every so many, the same ones whatever the batches.
    """
    kept: list[Batch] = []
    count, every = 0, 1
    for batch in batches:
        if not len(batch.x):
            continue
        most = max(2 * FEWEST, min(most, values // batch.x[0].numel()))
        kept.append(_thinned(batch, count, every))
        count += len(batch.x)
        while -(-count // every) > most:  # twice as sparse from here on
            every, start, sparser = every * 2, 0, []
            for one in kept:
                sparser.append(_thinned(one, start, 2))
                start += len(one.x)
            kept = sparser
    if not count:
        return None
    c = None if kept[0].c is None else torch.cat([b.c for b in kept if b.c is not None])
    x, stratum, label, index = (torch.cat([getattr(b, n) for b in kept]) for n in ("x", "stratum", "label", "index"))
    return Batch(x, c, stratum, label, index)


def _thinned(batch: Batch, first: int, every: int) -> Batch:
    """The items at multiples of `every`, the batch's own being first, first + 1, …"""
    return batch.rows(slice((-first) % every, None, every))


def values_of(score: Score, model: Model, state: State, normals: Batch) -> Tensor:
    """(n,) float64 on the CPU: what a score gives n items."""
    parts = [normals.rows(rows) for rows in torch.arange(len(normals.x), device=normals.x.device).split(ITEMS)]
    return torch.cat([score.score(model, state, some.x, some.c, some.stratum).values.cpu() for some in parts])
