"""Where pixels come from: an array, blocks made when asked for, or files. All can be pickled for worker processes."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from knowngood.data.readers.files import read_header, read_image, read_with_header, unopened
from knowngood.data.readers.header import Header
from knowngood.data.readers.limits import Limits

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


class BlockPixels(ABC):
    """A `PixelSource` of images of one shape and dtype, read many at a time; `take` copies row numbers only.

    Here they are made when asked for: drawn, or unpacked from few bits. Same content, same fingerprint as an array.
    """

    def __init__(self, rows: np.ndarray, shape: tuple[int, ...], dtype: np.dtype | type = np.uint8) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        self.shape, self.dtype = shape, np.dtype(dtype)

    @abstractmethod
    def block(self, rows: np.ndarray) -> np.ndarray:
        """The images of rows (M,): (M, H, W, C)."""

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, i: int) -> np.ndarray:
        return self.block(self.rows[[i]])[0]

    def take(self, indices: np.ndarray) -> Self:
        taken = copy.copy(self)
        taken.rows = self.rows[np.asarray(indices, dtype=np.int64)]
        return taken

    def shapes(self) -> np.ndarray:
        return np.tile(np.array(self.shape, dtype=np.int64), (len(self), 1))

    def kinds(self) -> list[tuple[int, str]]:
        """Channels and dtype of every image."""
        return [(self.shape[2], self.dtype.name)] * len(self)

    def chunks(self, size: int | None = None) -> Iterator[np.ndarray]:
        """Contiguous blocks (≤ size, H, W, C) in order; by default of some 16 MB."""
        size = size or max(1, BLOCK // (int(np.prod(self.shape)) * self.dtype.itemsize))
        for start in range(0, len(self), size):
            yield np.ascontiguousarray(self.block(self.rows[start : start + size]))

    def update(self, digest: Any) -> None:
        digest.update(f"{self.dtype.str}{self.shape}".encode())
        for block in self.chunks():
            digest.update(block.data)


class ArrayPixels(BlockPixels):
    """Images that share one array (N, H, W, C), which may be memory-mapped."""

    def __init__(self, base: np.ndarray) -> None:
        super().__init__(np.arange(len(base)), base.shape[1:], base.dtype)
        self.base = base

    @property
    def array(self) -> np.ndarray:
        """(N, H, W, C), a copy unless the images lie together in the original array: ask once."""
        return self.block(self.rows)

    def read(self, i: int) -> np.ndarray:
        return self.base[self.rows[i]]

    def block(self, rows: np.ndarray) -> np.ndarray:
        in_order = len(rows) > 0 and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows)))
        return self.base[rows[0] : rows[0] + len(rows)] if in_order else self.base[rows]


class FilePixels:
    """One image a file. Reading may raise `Unreadable`, which names the file and why.

    limits: None for the defaults, until `within` gives others.
    owner: a temporary folder that holds the files; it lives as long as a source that reads from it.
    """

    def __init__(self, paths: tuple[Path, ...], limits: Limits | None = None, owner: Any = None) -> None:
        self.paths, self.limits, self.owner = paths, limits, owner

    def __reduce__(self):  # the owner stays in the process that made it
        return FilePixels, (self.paths, self.limits)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, i: int) -> np.ndarray:
        return read_image(self.paths[i], self.limits)

    def read_with_header(self, i: int) -> tuple[Header, np.ndarray]:
        """Header and pixels of image i. Raises Unreadable."""
        return read_with_header(self.paths[i], self.limits)

    def take(self, indices: np.ndarray) -> FilePixels:
        return self._of(tuple(self.paths[int(i)] for i in indices), self.limits)

    def within(self, limits: Limits) -> FilePixels:
        """The same files with these bounds, unless they have bounds of their own."""
        return self._of(self.paths, self.limits or limits)

    def _of(self, paths: tuple[Path, ...], limits: Limits | None) -> FilePixels:
        return FilePixels(paths, limits, self.owner)

    def headers(self) -> list[Header]:
        """What the files say of themselves, without decoding pixels."""
        return [read_header(path) for path in self.paths]

    def kinds(self) -> list[tuple[int, str]]:
        """Channels and dtype of every image, without decoding pixels."""
        return [(header.channels, header.dtype) for header in self.headers()]

    def shapes(self) -> np.ndarray:
        return np.array([header.shape for header in self.headers()], dtype=np.int64).reshape(-1, 3)

    def update(self, digest: Any) -> None:
        for path in self.paths:
            try:
                content = path.read_bytes()
            except OSError as error:
                raise unopened(path, error) from None
            digest.update(content)
            digest.update(len(content).to_bytes(8, "little"))


class ListPixels:
    """Images in memory, which may differ in shape and dtype: (H, W, C) each."""

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        self.images = tuple(images)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, i: int) -> np.ndarray:
        return self.images[i]

    def take(self, indices: np.ndarray) -> ListPixels:
        return ListPixels([self.images[int(i)] for i in indices])

    def kinds(self) -> list[tuple[int, str]]:
        """Channels and dtype of every image."""
        return [(image.shape[2], image.dtype.name) for image in self.images]

    def shapes(self) -> np.ndarray:
        return np.array([image.shape for image in self.images], dtype=np.int64).reshape(-1, 3)

    def update(self, digest: Any) -> None:
        for image in self.images:
            digest.update(f"{image.dtype.str}{image.shape}".encode())
            digest.update(np.ascontiguousarray(image).data)


class JoinedPixels:
    """Images of several sources, one source after the other.

    at: (N, 2) the source and the position in it of each image; default all.
    """

    def __init__(self, parts: Sequence[PixelSource], at: np.ndarray | None = None) -> None:
        self.parts = tuple(parts)
        every = [np.stack([np.full(len(part), k), np.arange(len(part))], axis=1) for k, part in enumerate(parts)]
        self.at = np.concatenate(every) if at is None else at
        own = (getattr(part, "limits", None) for part in parts)
        self.limits: Limits | None = next(filter(None, own), None)  # of masks

    def __len__(self) -> int:
        return len(self.at)

    def read(self, i: int) -> np.ndarray:
        part, row = self.at[i]
        return self.parts[part].read(int(row))

    def take(self, indices: np.ndarray) -> JoinedPixels:
        return JoinedPixels(self.parts, self.at[np.asarray(indices, dtype=np.int64)])

    def shapes(self) -> np.ndarray:
        shapes = np.empty((len(self), 3), dtype=np.int64)
        for k, part in enumerate(self.parts):
            mine = self.at[:, 0] == k
            shapes[mine] = part.take(self.at[mine, 1]).shapes()
        return shapes

    def update(self, digest: Any) -> None:
        for part, row in self.at:
            self.parts[part].take(np.array([row])).update(digest)
