"""What limited a run: fetching images, decoding them, or the model."""

from __future__ import annotations

import threading
import time


class Pace:
    """Seconds of a run by what they went into. via: how images are fetched, "network" or "disk"."""

    def __init__(self, via: str) -> None:
        self.via, self._lock = via, threading.Lock()
        self.fetching = self.decoding = 0.0  # of all threads together
        self.waiting = 0.0  # in which a reader waited for images
        self._until = 0.0

    def loaded(self, fetching: float, decoding: float) -> None:
        """One image: seconds in which it was fetched, and decoded."""
        with self._lock:
            self.fetching += fetching
            self.decoding += decoding

    def waited(self, started: float) -> None:
        """A reader waited from `started` until now; times of several readers at once count once."""
        now = time.perf_counter()
        with self._lock:
            self.waiting += max(0.0, now - max(started, self._until))
            self._until = max(self._until, now)

    def sentence(self, seconds: float) -> str:
        """What limited a run of so many seconds, with the share of it."""
        share = min(1.0, self.waiting / seconds) if seconds else 0.0
        if share < 0.5:
            return f"limited by the model: {share:.0%} of the time was spent waiting for images"
        whole = max(self.fetching + self.decoding, 1e-9)
        what = f"the {self.via}" if self.fetching >= self.decoding else "decoding"
        part = max(self.fetching, self.decoding) / whole
        return f"limited by {what}: {share:.0%} of the time was spent waiting for images, {part:.0%} of that for {what}"
