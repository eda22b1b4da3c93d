"""Images of one shape that are made when asked for, many at a time: drawn, or unpacked from few bits."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

CHUNK = 1024


class BlockPixels(ABC):
    """A `PixelSource` of which only the row numbers are kept. Same content as an array, same fingerprint."""

    def __init__(self, rows: np.ndarray, shape: tuple[int, int, int]) -> None:
        self.rows: NDArray[np.int64] = np.asarray(rows, dtype=np.int64)
        self.shape = shape

    @abstractmethod
    def block(self, rows: np.ndarray) -> np.ndarray:
        """The images of rows (M,): (M, H, W, C) uint8."""

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, i: int) -> np.ndarray:
        """Image i: (H, W, C) uint8."""
        return self.block(self.rows[[i]])[0]

    def take(self, indices: np.ndarray) -> Self:
        """The images at `indices` (M,), in that order. Nothing is copied but row numbers."""
        taken = copy.copy(self)
        taken.rows = self.rows[np.asarray(indices, dtype=np.int64)]
        return taken

    def shapes(self) -> np.ndarray:
        """(N, 3) int64: height, width, channels of every image."""
        return np.tile(np.array(self.shape, dtype=np.int64), (len(self), 1))

    def chunks(self, size: int = CHUNK) -> Iterator[np.ndarray]:
        """Blocks (≤ size, H, W, C) in order."""
        for start in range(0, len(self), size):
            yield self.block(self.rows[start : start + size])

    def update(self, digest: Any) -> None:
        """Feed all pixels, in order, to a hashlib object, as an array of them does."""
        digest.update(f"{np.dtype(np.uint8).str}{self.shape}".encode())
        for block in self.chunks():
            digest.update(np.ascontiguousarray(block).data)
