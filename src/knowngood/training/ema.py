"""Averaged weights, and the best weights so far: copies made once and written over."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

STRIDE = 4
EVERY_STEP_UNTIL = 100


class Average:
    """Exponential moving average of weights, with decay min(decay, (1 + t)/(10 + t)) at step t to forget the start.

    After the first 100 steps weights are taken in every 4th step, with decay⁴: the same average but for how the weights
    move within 4 steps, and a quarter of the passes over memory.
    Only parameters are averaged; buffers such as batch-norm statistics are used as they are.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.live: list[Tensor] = list(parameters)
        self.values = [p.detach().clone(memory_format=torch.preserve_format) for p in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step t = `step` (0-based)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if step >= EVERY_STEP_UNTIL:
            if step % STRIDE:
                return
            decay **= STRIDE
        torch._foreach_lerp_(self.values, self.live, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the averaged and the live weights by their addresses, without a copy. Twice is as before."""
        for i, p in enumerate(self.parameters):
            p.data, self.values[i] = self.values[i], p.data


class Best:
    """What `tensors` held at the lowest value seen, and how many evaluations ago that was."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self.kept = [torch.empty_like(t, memory_format=torch.preserve_format) for t in tensors]
        self.value, self.step, self.since = math.inf, 0, 0

    @torch.no_grad()
    def offer(self, value: float, step: int) -> None:
        """Keep what the tensors hold now, if `value` is the lowest so far."""
        self.since += 1
        if value < self.value:
            self.value, self.step, self.since = value, step, 0
            for kept, t in zip(self.kept, self.tensors, strict=True):
                kept.copy_(t)

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the tensors their best values, if there was an evaluation."""
        if self.step:
            for kept, t in zip(self.kept, self.tensors, strict=True):
                t.copy_(kept)
