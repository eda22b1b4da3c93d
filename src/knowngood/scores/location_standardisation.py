"""Distances of the patches of an image, standardised at each location and given the level of the whole image.

Distances at two locations of an image are not independent: where one is large, the image as a whole often deviates
by a little, and the others are large too. What all locations have in common says nothing about any of them, and of
normal images it is most of what the largest values of a map are made of. It is taken out here.

1. The fourth root of a squared distance is nearly normally distributed (Hawkins and Wixley, The American Statistician
   40(4), 1986).
2. It is standardised by the mean and standard deviation of normal images at its location.
3. The level of an image at a location is the mean of these values over all other locations. The part of a value that a
   linear regression on the level explains, with a slope of each location, is subtracted.
4. What remains is standardised as in 2.

For maps the level counts up to half a standard deviation of normal images: a defect that covers much of an image is
most of its level, and is shown all the same.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from knowngood.models import partial_pooling
from knowngood.scores.base import State

ENOUGH = 100  # distances from which the statistics of a location are taken
# Of K cells, (K, h, w) each; the last (K, 1, 1).
TENSORS = "location_mean", "location_spread", "level_slope", "rest_mean", "rest_spread", "level_most"
REACH = 0.5  # standard deviations of the levels of normal images, up to which they count in maps
SMALLEST = 1e-6
NOTHING = 1e-9  # a share that is zero but for rounding


class Standardised(NamedTuple):
    """(B, h, w) standardised distances, as they are scored and as they are for maps; and (B,) the levels of images."""

    scored: Tensor
    shown: Tensor
    level: Tensor


def fit_standardisation(maps: Tensor, cell: Tensor, ignored: Tensor) -> State:
    """What `standardised` needs, from distances of normal images, each as if it had been left out.

    Args:
        maps: (N, h, w) ≥ 0, of images in cells (N,); `ignored` is (K, h, w).
    """
    roots = fourth_root(maps)
    mean, spread = location_statistics(roots, cell, ignored)
    values = (roots - mean[cell]) / spread[cell]
    level, whole = levels(values, ignored[cell])
    slope = torch.stack([level_slope(values[cell == k], level[cell == k], hidden) for k, hidden in enumerate(ignored)])
    rest_mean, rest_spread = location_statistics(values - slope[cell] * level, cell, ignored)
    most = whole.new_zeros(len(ignored), 1, 1) + whole.mean() + REACH * whole.std(correction=0)
    found = mean, spread, slope, rest_mean, rest_spread, most
    return dict(zip(TENSORS, found, strict=True))


def standardised(
    maps: Tensor, cell: Tensor, hidden: Tensor | None, state: State, added: Tensor | None = None
) -> Standardised:
    """Distances (B, h, w) of images in cells (B,), standardised given the level of their image.

    Args:
        hidden: (B, h, w) locations that do not count; None: all count.
        added: (B, h, w) what is added to distances but does not count in the level, so that nothing is lower for it.
    """
    mean, spread, slope, rest_mean, rest_spread, most = (state[name].to(maps)[cell] for name in TENSORS)
    values = (fourth_root(maps) - mean) / spread
    level, whole = levels(values, hidden)
    if added is not None:
        values = (fourth_root(maps + added) - mean) / spread
    found, shown = (values - slope * each for each in (level, torch.minimum(level, most)))
    return Standardised((found - rest_mean) / rest_spread, (shown - rest_mean) / rest_spread, whole)


def fourth_root(distances: Tensor) -> Tensor:
    """Of distances; what rounding left below 0 counts as 0."""
    return distances.clamp_min(0).sqrt().sqrt()


def levels(values: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of values (B, h, w) the mean over all other locations, (B, h, w), and over all, (B,).

    Locations that are `hidden` (B, h, w) do not count. Where there is no other location, the mean of the others is 0.
    """
    if hidden is None:
        total, n = values.sum((1, 2), keepdim=True), values.shape[1] * values.shape[2]
        return (total - values) / max(1, n - 1), total[:, 0, 0] / n
    values, counted = values.masked_fill(hidden, 0), (~hidden).to(values)
    total, n = values.sum((1, 2), keepdim=True), counted.sum((1, 2), keepdim=True)
    return (total - values) / (n - counted).clamp_min(1), (total / n.clamp_min(1))[:, 0, 0]


def level_slope(values: Tensor, level: Tensor, ignored: Tensor) -> Tensor:
    """(h, w): how the values (n, h, w) of a cell move with the level (n, h, w) of their image at each location.

    Least squares, shrunk towards 1, which is nearly the mean of the slopes of all locations (James and Stein 1961).
    """
    n = len(values)
    if n < 3:
        return torch.ones_like(values.sum(0))
    values, level = values - values.mean(0), level - level.mean(0)
    square = level.square().sum(0)
    known = (square > SMALLEST) & ~ignored
    square = square.where(known, 1)
    slope = ((values * level).sum(0) / square).where(known, 1)
    noise = (values - slope * level).square().sum(0) / ((n - 2) * square)
    apart = (slope - 1).square().where(known, 0).sum()
    share = (1 - noise.where(known, 0).sum() / apart.clamp_min(1e-12)).clamp_min(0)
    return torch.lerp(torch.ones_like(slope), slope, share)


def location_statistics(maps: Tensor, cell: Tensor, ignored: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of values of normal images at each location and around it, (K, h, w) each.

    Around means within a square just large enough for 100 values, cut at the border. Ignored locations do not count;
    where nothing counts, the mean is 0 and the deviation 1. Those of several cells are pooled as far as the cells do
    not differ by more than chance.

    Args:
        maps: (N, h, w) of normal images in cells (N,); `ignored` is (K, h, w).
    """
    counts, sides = torch.bincount(cell, minlength=len(ignored)), ignored.shape[1:]
    found, gaps = [], []
    for k, n in enumerate(counts.tolist()):
        mine, reach = maps[cell == k], _reach(n, sides)
        found.append(_around(mine, ignored[k], reach))
        halves = [_around(mine[i::2], ignored[k], reach) for i in (0, 1)]
        gaps.append(halves[0] - halves[1])
    own = torch.stack(found, 1)  # mean and log of the deviation, (2, K, h, w)
    if len(counts) > 1:
        every = _around(maps, ignored[cell], _reach(len(maps), sides))
        n = (counts[:, None, None] * ~ignored).to(own)
        known, noise = n * (counts > 3)[:, None, None], counts[:, None, None] / 4 * torch.stack(gaps, 1).square()
        for values, all_cells, each in zip(own, every, noise, strict=True):
            weights = partial_pooling.scalar_weights(values, n, float((known * each).sum() / known.sum().clamp_min(1)))
            values.copy_(torch.lerp(all_cells, values, weights[:, None, None]))
    return own[0], own[1].exp()


def _reach(n: int, sides: torch.Size) -> int:
    """Half the side of the square around a location with 100 values of n images."""
    reach = 0
    while n * (2 * reach + 1) ** 2 < ENOUGH and 2 * reach + 1 < min(sides):
        reach += 1
    return reach


def _around(maps: Tensor, ignored: Tensor, reach: int) -> Tensor:
    """(2, h, w): mean, and log of the standard deviation, of maps (n, h, w) within `reach` of each location."""
    if not len(maps):
        return maps.new_zeros(2, *maps.shape[1:])
    stacked = torch.stack([torch.ones_like(maps), maps, maps.square()]).masked_fill(ignored, 0)
    share, *sums = avg_pool2d(stacked, 2 * reach + 1, 1, reach, count_include_pad=False).sum(1)
    mean, square = torch.stack(sums) / share.where(share > NOTHING, 1)
    spread = (square - mean.square()).clamp_min(SMALLEST**2).sqrt()
    return torch.stack([mean, spread.log()]).where(share > NOTHING, 0)
