"""Encoded images by number: objects of a store, or members of tar files. `ParquetRows` is a third kind.

All can be pickled for worker processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from knowngood.data.findings import Unreadable
from knowngood.data.stores.address import Address, refused
from knowngood.errors import DataError

WAITS = (0.2, 1.0)  # seconds before a store is asked again
T = TypeVar("T")


class Blobs(Protocol):
    """N encoded images. remote: a network lies between. root: what holds them, for messages."""

    remote: bool
    root: str

    def __len__(self) -> int: ...

    def name(self, k: int) -> str:
        """The path of number k below the root, with the suffix that tells its format."""
        ...

    def stamp(self, k: int) -> str:
        """A text that changes when the content does, known without reading it."""
        ...

    def fetch(self, k: int) -> bytes:
        """The encoded image. Raises Unreadable: it is not there. StoreError: the store does not answer."""
        ...


class Objects:
    """Objects of a store below one address. names: relative to it. stamps: size and version of each."""

    remote = True

    def __init__(self, address: Address, names: Sequence[str], stamps: Sequence[str]) -> None:
        self.address, self.names, self.stamps = address, list(names), list(stamps)
        self.root = str(address)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, k: int) -> str:
        return self.names[k]

    def stamp(self, k: int) -> str:
        return self.stamps[k]

    def fetch(self, k: int) -> bytes:
        return ranged(self.address.child(self.names[k]), self.names[k])


class Members:
    """Members of uncompressed tar files, each read at its place. sizes, starts: (N,) bytes; of: (N,) which file."""

    def __init__(
        self, root: str, files: Sequence[Path | Address], names: Sequence[str], of: Sequence[int],
        starts: Sequence[int], sizes: Sequence[int], stamps: Sequence[str],
    ) -> None:  # fmt: skip
        self.root, self.files, self.names, self.stamps = root, tuple(files), list(names), tuple(stamps)
        self.of, self.starts, self.sizes = (np.asarray(values, np.int64) for values in (of, starts, sizes))
        self.remote = any(isinstance(file, Address) for file in files)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, k: int) -> str:
        return self.names[k]

    def stamp(self, k: int) -> str:
        return f"{self.stamps[self.of[k]]} {self.starts[k]} {self.sizes[k]}"

    def fetch(self, k: int) -> bytes:
        file, start, size = self.files[self.of[k]], int(self.starts[k]), int(self.sizes[k])
        if not size:
            raise Unreadable(Path(self.names[k]), "zero-byte", "is empty (0 bytes)")
        if isinstance(file, Address):
            found = ranged(file, self.names[k], start, start + size)
        else:
            try:
                with file.open("rb") as opened:
                    opened.seek(start)
                    found = opened.read(size)
            except OSError as error:
                raise Unreadable(Path(self.names[k]), "unreadable", f"cannot be read from {file}: {error}") from None
        if len(found) < size:
            raise Unreadable(Path(self.names[k]), "truncated", f"{file} ends within it")
        return found


def ranged(address: Address, name: str, start: int | None = None, end: int | None = None) -> bytes:
    """Bytes of an object; a store that does not answer is asked three times.

    Raises:
        Unreadable: the object is not there, or may not be read. StoreError: the store does not answer.
    """
    return patiently(address, name, lambda: address.fs.cat_file(address.path, start=start, end=end))


def patiently(address: Address, name: str, read: Callable[[], T]) -> T:
    """What `read` gives of an object; a store that does not answer is asked three times. Errors as in `ranged`."""
    for wait in (*WAITS, None):
        try:
            return read()
        except Exception as error:
            found = refused(str(address), "read", error)
            if isinstance(found, DataError):
                kind = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
                raise Unreadable(Path(name), kind, str(found).removeprefix(f"{address}: ")) from None
            if wait is None:
                raise found from None
            time.sleep(wait)
    raise AssertionError
