"""Where pixels come from: an array, or files that are read when asked for. Both can be pickled for worker processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from knowngood.data.readers.files import read_header, read_image

BLOCK = 1 << 24  # bytes looked at together


class PixelSource(Protocol):
    """N images, read one at a time. A folder larger than memory is no problem: nothing is kept."""

    def __len__(self) -> int: ...

    def read(self, i: int) -> np.ndarray:
        """Image i: (H, W, C), native dtype."""
        ...

    def take(self, indices: np.ndarray) -> PixelSource:
        """The images at `indices` (M,), in that order."""
        ...

    def shapes(self) -> np.ndarray:
        """(N, 3) int64: height, width, channels of every image, without decoding pixels."""
        ...

    def update(self, digest: Any) -> None:
        """Feed all content, in order, to a hashlib object."""
        ...


class ArrayPixels:
    """Images that share one array (N, H, W, C), which may be memory-mapped. `take` copies no pixels."""

    def __init__(self, base: np.ndarray, rows: np.ndarray | None = None) -> None:
        self.base = base
        self.rows = rows

    @property
    def array(self) -> np.ndarray:
        """(N, H, W, C). Gathers a copy if a part of the original array was taken: ask once."""
        return self.base if self.rows is None else self.base[self.rows]

    def __len__(self) -> int:
        return len(self.base) if self.rows is None else len(self.rows)

    def read(self, i: int) -> np.ndarray:
        return self.base[i if self.rows is None else self.rows[i]]

    def take(self, indices: np.ndarray) -> ArrayPixels:
        indices = np.asarray(indices, dtype=np.int64)
        return ArrayPixels(self.base, indices if self.rows is None else self.rows[indices])

    def shapes(self) -> np.ndarray:
        return np.tile(np.array(self.base.shape[1:], dtype=np.int64), (len(self), 1))

    def chunks(self, size: int | None = None):
        """Contiguous blocks (≤ size, H, W, C) in order; by default of some 16 MB."""
        size = size or max(1, BLOCK // max(1, self.base[:1].nbytes))
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            block = self.base[start:stop] if self.rows is None else self.base[self.rows[start:stop]]
            yield np.ascontiguousarray(block)

    def update(self, digest: Any) -> None:
        digest.update(f"{self.base.dtype.str}{self.base.shape[1:]}".encode())
        for block in self.chunks():
            digest.update(block.data)


class FilePixels:
    """One image a file. Reading may raise `Unreadable`, which names the file and why."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, i: int) -> np.ndarray:
        return read_image(self.paths[i])

    def take(self, indices: np.ndarray) -> FilePixels:
        return FilePixels(tuple(self.paths[int(i)] for i in indices))

    def shapes(self) -> np.ndarray:
        found = [read_header(path).shape for path in self.paths]
        return np.array(found, dtype=np.int64).reshape(-1, 3)

    def update(self, digest: Any) -> None:
        for path in self.paths:
            with path.open("rb") as file:
                size = 0
                while block := file.read(1 << 20):
                    digest.update(block)
                    size += len(block)
            digest.update(size.to_bytes(8, "little"))
