"""Which items make up each batch of an epoch: functions of (seed, epoch) and nothing else.

`sampler.epoch(number)` is (batches, size) int64 on the CPU, positions in the training set. Every item is in at least
one row; no row holds an item twice.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from knowngood.models.objectives.densities import SMALLEST_GROUP

GROUPS = 4


def generator_for(*key: int) -> torch.Generator:
    """A CPU generator whose draws depend on all the numbers of `key` and on nothing else."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(seed >> 1)


class PlainSampler:
    """A new permutation each epoch, cut into batches; the last one is filled up from the permutation's start.

    A set of n < `batch_size` items is one batch. `stream` distinguishes independent samplers of one seed.
    """

    def __init__(self, n: int, batch_size: int, *, seed: int, stream: int = 0) -> None:
        self.n, self.size = n, min(n, batch_size)
        self.key = (seed, stream)
        self.batches = -(-n // self.size)

    def epoch(self, number: int) -> Tensor:
        order = torch.randperm(self.n, generator=generator_for(*self.key, number))
        missing = self.batches * self.size - self.n
        return torch.cat((order, order[:missing])).view(self.batches, self.size)


class StratifiedSampler:
    """Batches of few strata, so that a density within a stratum has something to go by.

    A batch holds 4 groups (fewer where 4 groups of 16 do not fit) of one stratum each. Strata appear in proportion to
    their sizes, since each is cut into as many whole groups as it fills. The rest, and strata too small for a
    group, fill batches side by side, each stratum's items together. The order of batches is shuffled.
    `batch_size` is rounded down to whole groups.
    """

    def __init__(self, stratum: Tensor, batch_size: int, *, seed: int, stream: int = 0) -> None:
        _, self.code, self.counts = torch.unique(stratum.cpu(), return_inverse=True, return_counts=True)
        self.n = len(self.code)
        groups = max(1, min(GROUPS, batch_size // SMALLEST_GROUP))
        self.group = max(1, batch_size // groups)
        self.size = min(self.n, self.group * groups)
        self.batches = -(-self.n // self.size)
        self.key = (seed, stream)

    def epoch(self, number: int) -> Tensor:
        generator = generator_for(*self.key, number)
        order = torch.randperm(self.n, generator=generator)
        if self.batches == 1:
            return order[None]
        place = torch.randperm(len(self.counts), generator=generator)  # strata in a random order, so leftovers mix
        order = order[place[self.code[order]].argsort(stable=True)]
        code = self.code[order]
        placed = self.counts[place.argsort()]
        starts = (placed.cumsum(0) - placed)[place]
        rank = torch.arange(self.n) - starts[code]  # how many of its stratum come before each item
        whole = rank < (self.counts // self.group * self.group)[code]

        groups = order[whole].view(-1, self.group)
        groups = groups[torch.randperm(len(groups), generator=generator)]
        kept = len(groups) * self.group // self.size * self.size
        full, spare = groups.flatten()[:kept], groups.flatten()[kept:]
        rest = torch.cat((spare, order[~whole]))
        last = rest[len(rest) // self.size * self.size :]
        if len(last):
            others = order[~torch.isin(order, last)]
            pick = torch.randperm(len(others), generator=generator)[: self.size - len(last)]
            rest = torch.cat((rest, others[pick]))
        rows = torch.cat((full, rest)).view(self.batches, self.size)
        return rows[torch.randperm(self.batches, generator=generator)]


Sampler = PlainSampler | StratifiedSampler


def rows_of(
    sampler: Sampler, first_step: int, last_step: int, *, rank: int = 0, processes: int = 1
) -> Iterator[Tensor]:
    """One row of positions a step, from `first_step` up to `last_step`, which is not included.

    Step s of process r takes row s·processes + r of an endless sequence of epochs, so a run that starts in the middle
    of an epoch sees what an uninterrupted one would have seen.
    """
    a_round = steps_an_epoch(sampler, processes)
    rows = torch.empty(0)
    for step in range(first_step, last_step):
        epoch, position = divmod(step, a_round)
        if position == 0 or step == first_step:
            rows = sampler.epoch(epoch)
        yield rows[(position * processes + rank) % len(rows)]


def steps_an_epoch(sampler: Sampler, processes: int) -> int:
    """Steps in which the processes together see every batch of an epoch."""
    return -(-sampler.batches // processes)
