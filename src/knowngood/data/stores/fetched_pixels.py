"""Pixels of encoded images that are fetched when asked for, a few ahead of the reader."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from knowngood.data.findings import Unreadable
from knowngood.data.readers.files import read_header, read_with_header
from knowngood.data.readers.header import Header
from knowngood.data.readers.limits import Limits
from knowngood.data.stores.ahead import MEMORY, Ahead
from knowngood.data.stores.blobs import Blobs
from knowngood.data.stores.local_copies import LocalCopies
from knowngood.data.stores.pace import Pace
from knowngood.files import explained

T = TypeVar("T")
REMOTE, LOCAL = 32, 4  # threads that fetch and decode


class FetchedPixels:
    """A `PixelSource` of blobs. `expect` says what is read next; that is fetched and decoded in threads meanwhile.

    Each image is decoded from a temporary file of its own, by the readers of files: same pixels, same errors.

    Args:
        rows: (N,) the numbers of the images among the blobs; default all.
        limits: bounds on what is decoded; None for the defaults, until `within` gives others.
        copies: local copies, for sources that are read several times. pace: counts what the time is spent on.
    """

    def __init__(
        self,
        blobs: Blobs,
        rows: np.ndarray | None = None,
        limits: Limits | None = None,
        copies: LocalCopies | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.blobs, self.limits, self.copies = blobs, limits, copies
        self.rows = np.arange(len(blobs)) if rows is None else np.asarray(rows, np.int64)
        self.pace = pace or Pace("network" if blobs.remote else "disk")
        self.loader = Loader(blobs, limits or Limits(), copies, self.pace)
        self._ahead = Ahead(self.loader.load, _size, REMOTE if blobs.remote else LOCAL, MEMORY)

    def __reduce__(self):  # threads and what they hold stay in the process that made them
        return FetchedPixels, (self.blobs, self.rows, self.limits, self.copies)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, i: int) -> np.ndarray:
        return self.read_with_header(i)[1]

    def read_with_header(self, i: int) -> tuple[Header, np.ndarray]:
        """Header and pixels of image i. Raises Unreadable."""
        started = time.perf_counter()
        try:
            return self._ahead.take(int(self.rows[i]))
        finally:
            self.pace.waited(started)

    def expect(self, index: np.ndarray) -> None:
        """The images at `index` (M,) are read next, in that order."""
        self._ahead.expect(self.rows[index].tolist())

    def take(self, indices: np.ndarray) -> FetchedPixels:
        taken = object.__new__(FetchedPixels)  # what is fetched ahead is shared
        vars(taken).update(vars(self), rows=self.rows[np.asarray(indices, np.int64)])
        return taken

    def within(self, limits: Limits) -> FetchedPixels:
        """The same images with these bounds, unless they have bounds of their own."""
        return FetchedPixels(self.blobs, self.rows, self.limits or limits, self.copies, self.pace)

    def kept(self, gigabytes: float) -> FetchedPixels:
        """The same images with local copies of what was read, up to so many GB, until the last user is gone."""
        copies = LocalCopies(int(gigabytes * 1e9)) if gigabytes else None
        return FetchedPixels(self.blobs, self.rows, self.limits, copies, self.pace)

    def headers(self) -> list[Header]:
        """What the images say of themselves: fetched, not decoded. Those that cannot be read are left out."""
        found = []
        for k in self.rows.tolist():
            try:
                found.append(self.loader.in_file(k, read_header))
            except Unreadable:
                continue
        return found

    def kinds(self) -> list[tuple[int, str]]:
        """Channels and dtype of every image, without decoding pixels."""
        return [(header.channels, header.dtype) for header in self.headers()]

    def shapes(self) -> np.ndarray:
        shapes = [self.loader.in_file(k, read_header).shape for k in self.rows.tolist()]
        return np.array(shapes, dtype=np.int64).reshape(-1, 3)

    def update(self, digest: Any) -> None:
        for k in self.rows.tolist():
            content = self.loader.fetch(k)
            digest.update(content)
            digest.update(len(content).to_bytes(8, "little"))

    def stamps(self) -> list[str]:
        """A text for each image that changes when its content does; nothing is read."""
        return [self.blobs.stamp(k) for k in self.rows.tolist()]


class Loader:
    """Makes the content, the header and the pixels of number k. See `FetchedPixels` for the arguments."""

    def __init__(self, blobs: Blobs, limits: Limits, copies: LocalCopies | None, pace: Pace) -> None:
        self.blobs, self.limits, self.copies, self.pace = blobs, limits, copies, pace

    def load(self, k: int) -> tuple[Header, np.ndarray]:
        return self.in_file(k, lambda path: read_with_header(path, self.limits))

    def fetch(self, k: int) -> bytes:
        content = None if self.copies is None else self.copies.get(k)
        if content is None:
            content = self.blobs.fetch(k)
            if self.copies is not None:
                self.copies.put(k, content)
        return content

    def in_file(self, k: int, read: Any) -> Any:
        """What `read` makes of the path of a temporary file with the content."""
        name, started = self.blobs.name(k), time.perf_counter()
        content = self.fetch(k)
        fetched = time.perf_counter()
        handle, file = tempfile.mkstemp(prefix="knowngood-", suffix=Path(name).suffix)
        try:
            with explained(Path(file)), open(handle, "wb") as opened:
                opened.write(content)
            return read(Path(file))
        except Unreadable as error:
            raise Unreadable(Path(name), error.kind, error.reason) from None
        finally:
            os.unlink(file)
            self.pace.loaded(fetched - started, time.perf_counter() - fetched)


def kept_local(items: T, gigabytes: float) -> T:
    """Items whose images, if they are fetched, leave local copies up to so many GB; others as they are."""
    pixels = getattr(items, "pixels", None)
    return items.replace(pixels=pixels.kept(gigabytes)) if isinstance(pixels, FetchedPixels) else items  # type: ignore[attr-defined]


def blob_mask(pixels: FetchedPixels, numbers: Sequence[int]) -> np.ndarray:
    """(H, W) bool, what the masks of an image mark, by their numbers among the blobs. Raises Unreadable."""
    from knowngood.data.readers.mask_file import joined_masks, read_mask

    names = [Path(pixels.blobs.name(k)) for k in numbers]
    return joined_masks(names, [pixels.loader.in_file(k, read_mask) for k in numbers])


def looks_like_mask(pixels: FetchedPixels, number: int) -> bool:
    """Whether an image looks like a mask, by its number among the blobs; not one that cannot be read."""
    from knowngood.data.readers import mask_file

    try:
        return pixels.loader.in_file(number, mask_file.looks_like_mask)
    except Unreadable:
        return False


def _size(found: tuple[Header, np.ndarray]) -> int:
    return found[1].nbytes
