"""Copies of encoded images in a temporary folder, for what reads them several times. Bounded, and gone at the end."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

from knowngood.errors import OutputError
from knowngood.files import explained


class LocalCopies:
    """Keeps the first images up to a number of bytes; later ones are not kept, and none is replaced.

    A fit reads everything in turn, several times: replacing the oldest would keep nothing that is asked for again.
    """

    def __init__(self, most: int) -> None:
        self.most, self.used, self._lock = most, 0, threading.Lock()
        with explained(Path(tempfile.gettempdir())):
            self._owner = tempfile.TemporaryDirectory(prefix="knowngood-")
        self.folder, self._process = Path(self._owner.name), os.getpid()

    def __getstate__(self) -> dict[str, object]:  # other processes read what is there and keep nothing
        return {"most": 0, "used": 0, "folder": self.folder, "_process": -1, "_owner": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()

    def get(self, k: int) -> bytes | None:
        """The copy of number k, if there is one."""
        try:
            return (self.folder / str(k)).read_bytes()
        except OSError:
            return None

    def put(self, k: int, content: bytes) -> None:
        """Keep a copy, unless that would be too much, or the disk is full."""
        with self._lock:
            if self._process != os.getpid() or self.used + len(content) > self.most:
                return
            self.used += len(content)
        draft = self.folder / f"{k}.part"
        try:
            with explained(draft):
                draft.write_bytes(content)
                draft.rename(self.folder / str(k))
        except OutputError:
            self.most = 0
            draft.unlink(missing_ok=True)
