"""Items that are scored under several conditions come as equal rows, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def repeats(x: Tensor) -> Iterator[slice]:
    """Which rows of x (B, …) follow each other and are equal: what does not depend on conditions is computed once."""
    start = 0
    for i in range(1, len(x) + 1):
        if i == len(x) or not torch.equal(x[i], x[start]):
            yield slice(start, i)
            start = i
