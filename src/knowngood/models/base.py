"""The contract between models and the rest: what learns from tensors, and from what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from knowngood.models.objectives.base import Batch

__all__ = ["Batch", "BatchSource", "FitContext", "Model"]


class BatchSource(Protocol):
    def __len__(self) -> int: ...
    def to(self, device: torch.device) -> BatchSource: ...
    def batches(self, rows: Iterable[Tensor]) -> Iterator[Batch]: ...


@dataclass
class FitContext:
    train: Callable[..., Any] | None = None
    objective: Any = None
    held_out: BatchSource | None = None
    anomalies: BatchSource | None = None
    seed: int = 0


class Model(nn.Module):
    kind: ClassVar[str]
    shape: tuple[int, ...]
    condition_dim: int

    def fit(self, source: BatchSource, context: FitContext) -> Self:
        raise NotImplementedError

    def sizes(self) -> dict[str, Any]:
        raise NotImplementedError
