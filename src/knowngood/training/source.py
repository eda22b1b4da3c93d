"""Training data held on the device, where a batch is an index; or read by worker processes, in constant memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from knowngood.models.base import Batch, Facts

PREFETCH = 4
Scale = Callable[[Tensor], Tensor]


class Source:
    """Items in memory in their native dtype; scaled when a batch is made, on the device.

    Args:
        data: (N, C, H, W) prepared pixels or (N, F) values.
        scale: turns a native batch into scaled float32; default converts the dtype only.
        facts: c, stratum, label, n_strata, factors: see `Facts`.
    """

    def __init__(self, data: Tensor | np.ndarray, scale: Scale | None = None, **facts: Any) -> None:
        with warnings.catch_warnings():  # no copy, also where it is read-only: nothing here writes to it
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.data = torch.as_tensor(data)
        self.scale = scale or Tensor.float
        self.facts = Facts(len(self.data), **facts)

    def __len__(self) -> int:
        return len(self.data)

    def to(self, device: torch.device) -> Source:
        moved = copy(self)
        moved.data, moved.facts = self.data.to(device), self.facts.to(device)
        return moved

    def batch(self, index: Tensor) -> Batch:
        """The items at positions `index` (B,) int64, on the data's device."""
        # index_select is faster, and returns features that lie location by location in another order
        items = self.data.index_select(0, index) if self.data.is_contiguous() else self.data[index]
        return self.facts.batch(self.scale(items), index)

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Batch]:
        device = self.data.device
        return (self.batch(row.to(device, non_blocking=True)) for row in rows)


class StreamSource:
    """Same batches in the same order as a `Source` of the prepared images, without holding these.

    Args:
        images: an `ImageSet`; its `read` runs in the workers.
        representation: `Pixels` or `HOG`, fitted. `prepare` runs in the workers, an image at a time; `scale` on the
            device, a batch at a time.
        workers: processes that read, with one thread each; 0 reads in this process. facts: as of `Source`.
    """

    def __init__(self, images: Any, representation: Any, workers: int = 2, **facts: Any) -> None:
        self.images, self.representation, self.workers = images, representation, workers
        self.facts = Facts(len(images), **facts)
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> StreamSource:
        moved = copy(self)
        moved.device, moved.facts = device, self.facts.to(device)
        return moved

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Batch]:
        """One batch for each row, read at most workers × 4 batches ahead; leaving early ends the workers."""
        loader = DataLoader(
            _Images(self.images, self.representation),
            batch_sampler=(row.tolist() for row in rows),  # made as they are asked for
            collate_fn=_as_is,
            num_workers=self.workers,
            prefetch_factor=PREFETCH if self.workers else None,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(0),  # else a draw from the global generator
        )
        for index, pixels in loader:
            index = index.to(self.device, non_blocking=True)
            x = self.representation.scale(pixels.to(self.device, non_blocking=True))
            yield self.facts.batch(x, index)


class _Images(Dataset):
    def __init__(self, images: Any, representation: Any) -> None:
        self.images, self.representation = images, representation

    def __getitems__(self, index: list[int]) -> tuple[Tensor, Tensor]:
        prepared = np.stack([self.representation.prepare(self.images.read(i)) for i in index])
        return torch.tensor(index), torch.from_numpy(prepared)


def _as_is(batch: Any) -> Any:
    return batch
