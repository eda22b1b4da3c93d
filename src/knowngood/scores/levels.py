"""What patches at each place usually score, so that a score counts by how unusual it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from knowngood.models.patch_gaussian import FEWEST

ENOUGH = 100  # scores that the level of a place is taken from
SMALLEST = 1e-6
NOTHING = 1e-9  # a share that is zero but for rounding


@dataclass(frozen=True)
class Levels:
    """Mean and standard deviation of good images' scores at each place and its surroundings, for K cells.

    The surroundings are a square just large enough for 100 scores, cut at the border. Scores at ignored places do not
    count; where nothing around a place does, the mean is 0 and the deviation 1. A cell with fewer than 8 images has
    the levels of all.
    """

    mean: Tensor  # (K, h, w) float64
    spread: Tensor  # (K, h, w) float64
    weight: Tensor  # (K, h, w) float64: how many images they were taken from, each by the share of what counts in it
    reach: Tensor  # (K,) int64: the squares have 2 · reach + 1 places a side
    ignored: Tensor  # (K, h, w) places that do not count

    @classmethod
    def none(cls, ignored: Tensor) -> Levels:
        """Levels that change nothing, 0 and 1."""
        zero = torch.zeros((3, *ignored.shape), dtype=torch.float64)
        return cls(zero[0], zero[1] + 1, zero[2], torch.zeros(len(ignored), dtype=torch.int64), ignored)

    @classmethod
    def fit(cls, maps: Tensor, cell: Tensor, ignored: Tensor) -> Levels:
        """From maps (N, h, w) of good images in cells (N,); `ignored` is (K, h, w)."""
        found = cls.none(ignored)
        for k in range(len(ignored)):
            mine = cell == k
            some = mine if int(mine.sum()) >= FEWEST else torch.ones_like(mine)
            found.reach[k] = reach = _reach(int(some.sum()), min(ignored.shape[1:]))
            sums = _around(maps[some], ignored[cell[some]], reach).sum(1)
            found.weight[k], (found.mean[k], found.spread[k]) = sums[0], _moments(sums)
        return found

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], ignored: Tensor) -> Levels:
        """What `state` made of them."""
        named = ("level", "spread", "level_weight", "level_reach")
        mean, spread, weight, reach = (state[name].to(ignored.device) for name in named)
        return cls(mean, spread, weight, reach, ignored)

    def state(self) -> dict[str, Tensor]:
        """Tensors to save."""
        kept = {"level_weight": self.weight, "level_reach": self.reach}
        return {"level": self.mean, "spread": self.spread, **kept}

    def judged(self, maps: Tensor, cell: Tensor) -> Tensor:
        """(s − mean) / spread of maps (B, h, w) in cells (B,)."""
        return (maps - self.mean[cell]) / self.spread[cell]

    def judged_without(self, own: Tensor, maps: Tensor, cell: Tensor) -> Tensor:
        """The same, had the images whose maps are `own` (B, h, w) not been among those the levels were taken from.

        Exact where one image less needs no larger square, and leaves the cell its 8.
        """
        found = torch.empty_like(maps)
        for k in cell.unique().tolist():
            at = (cell == k).nonzero()[:, 0]
            all_ = torch.stack([torch.ones_like(self.mean[k]), self.mean[k], self.spread[k].square()])
            all_[2] += self.mean[k].square()
            theirs = _around(own[at], self.ignored[k].expand(len(at), -1, -1), int(self.reach[k]))
            mean, spread = _moments((self.weight[k] * all_)[:, None] - theirs)
            found[at] = (maps[at] - mean) / spread
        return found


def _reach(n: int, side: int) -> int:
    """Of the squares around places of a map `side` wide, that n images need for 100 scores."""
    reach = 0
    while n * (2 * reach + 1) ** 2 < ENOUGH and 2 * reach + 1 < side:
        reach += 1
    return reach


def _around(maps: Tensor, ignored: Tensor, reach: int) -> Tensor:
    """(3, N, h, w): around each place of maps (N, h, w), means of 1, the score and its square, 0 if `ignored`."""
    told = torch.stack([torch.ones_like(maps), maps, maps.square()]).masked_fill(ignored, 0)
    return avg_pool2d(told, 2 * reach + 1, 1, reach, count_include_pad=False)


def _moments(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation from sums (3, …) of 1, scores and squares; 0 and 1 of none."""
    some = sums[0] > NOTHING
    mean, square = sums[1:] / sums[0].where(some, 1)
    return mean.where(some, 0), (square - mean.square()).clamp_min(SMALLEST**2).sqrt().where(some, 1)
