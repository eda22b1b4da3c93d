"""Per-location standardisation: mean and spread of normal images' distances at every location."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

ENOUGH = 100  # distances from which the statistics of a location are taken
SMALLEST = 1e-6
NOTHING = 1e-9  # a share that is zero but for rounding
FEWEST = 8  # images of a cell that has statistics of its own


@dataclass(frozen=True)
class LocationStatistics:
    """Mean and standard deviation of normal images' distances at each location and around it, for K cells.

    Around means within a square just large enough for 100 distances, cut at the border. Ignored locations do not count;
    where nothing counts, the mean is 0 and the deviation 1. A cell with fewer than 8 images has the statistics of all.
    """

    mean: Tensor  # (K, h, w) float64
    spread: Tensor  # (K, h, w) float64

    @classmethod
    def fit(cls, maps: Tensor, cell: Tensor, ignored: Tensor) -> LocationStatistics:
        """From maps (N, h, w) of normal images in cells (N,); `ignored` is (K, h, w)."""
        mean, spread = [], []
        for k in range(len(ignored)):
            mine = cell == k
            some = mine if int(mine.sum()) >= FEWEST else torch.ones_like(mine)
            sums = _around(maps[some], ignored[cell[some]], _reach(int(some.sum()), min(ignored.shape[1:]))).sum(1)
            counted = sums[0] > NOTHING
            m, square = sums[1:] / sums[0].where(counted, 1)
            mean.append(m.where(counted, 0))
            spread.append((square - m.square()).clamp_min(SMALLEST**2).sqrt().where(counted, 1))
        return cls(torch.stack(mean), torch.stack(spread))

    def standardise(self, maps: Tensor, cell: Tensor) -> Tensor:
        """(s − mean) / spread of maps (B, h, w) in cells (B,)."""
        return (maps - self.mean[cell]) / self.spread[cell]


def _reach(n: int, side: int) -> int:
    """How far the squares around the locations of a map reach, `side` wide, that n images need for 100 distances."""
    reach = 0
    while n * (2 * reach + 1) ** 2 < ENOUGH and 2 * reach + 1 < side:
        reach += 1
    return reach


def _around(maps: Tensor, ignored: Tensor, reach: int) -> Tensor:
    """(3, N, h, w): around each location of maps (N, h, w), means of 1, the distance and its square, 0 if ignored."""
    stacked = torch.stack([torch.ones_like(maps), maps, maps.square()]).masked_fill(ignored, 0)
    return avg_pool2d(stacked, 2 * reach + 1, 1, reach, count_include_pad=False)
