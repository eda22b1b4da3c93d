"""Training data read from disk by worker processes while training goes on, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from knowngood.models.base import Batch, Facts

PREFETCH = 4


class Readable(Protocol):
    """Images that can be read one by one; an `ImageSet` is one. Must be picklable."""

    def __len__(self) -> int: ...
    def read(self, i: int, /) -> np.ndarray: ...


class Preparing(Protocol):
    """A fitted representation; `Pixels` is one. Must be picklable."""

    def prepare(self, image: np.ndarray, /) -> np.ndarray: ...
    def scale(self, batch: Tensor, /) -> Tensor: ...


class StreamSource:
    """Same batches in the same order as a `Source` of the prepared images, without holding these.

    Args:
        images: read by index in the workers.
        representation: `prepare` runs in the workers, an image at a time; `scale` on the device, a batch at a time.
        workers: processes that read, with one thread each; 0 reads in this process.
        facts: c, stratum, label, n_strata, factors: see `Facts`.
    """

    def __init__(
        self,
        images: Readable,
        representation: Preparing,
        workers: int = 2,
        **facts: Any,
    ) -> None:
        self.images, self.representation, self.workers = images, representation, workers
        self.facts = Facts(len(images), **facts)
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> StreamSource:
        moved = object.__new__(StreamSource)
        moved.__dict__ = {**self.__dict__, "facts": self.facts.to(device), "device": device}
        return moved

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Batch]:
        """One batch for each row, read at most workers × 4 batches ahead; leaving early ends the workers."""
        loader = DataLoader(
            _Images(self.images, self.representation),
            batch_sampler=_Lists(rows),
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
    def __init__(self, images: Readable, representation: Preparing) -> None:
        self.images, self.representation = images, representation

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, index: list[int]) -> tuple[Tensor, Tensor]:
        prepared = np.stack([self.representation.prepare(self.images.read(i)) for i in index])
        return torch.tensor(index), torch.from_numpy(prepared)


class _Lists:
    """Rows as the lists of integers a DataLoader takes, made as they are asked for."""

    def __init__(self, rows: Iterable[Tensor]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[list[int]]:
        return (row.tolist() for row in self.rows)


def _as_is(batch: Any) -> Any:
    return batch
