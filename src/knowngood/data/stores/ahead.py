"""What is read next, on its way while the reader is busy: by threads, in order, within a bound of memory."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")

MEMORY = 256 << 20  # bytes that wait, about


class Ahead(Generic[T]):
    """Loads by number what `expect` announced, before `take` asks for it.

    Args:
        load: what makes number k.
        size: bytes of what it made.
        threads: that load.
        memory: bytes of what is loaded and not yet taken, about.
    """

    def __init__(self, load: Callable[[int], T], size: Callable[[T], int], threads: int, memory: int = MEMORY) -> None:
        self.load, self.size, self.threads, self.memory = load, size, threads, memory
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._futures: dict[int, Future[T]] = {}
        self._queue: deque[int] = deque()
        self._largest = 0

    def expect(self, keys: Sequence[int]) -> None:
        """These are asked for next, in this order. What was loaded and is not among them is dropped."""
        if self._process != os.getpid():  # threads do not survive a fork
            self._start()
        with self._lock:
            waiting = set(self._queue)
            if all(k in self._futures or k in waiting for k in keys):
                return
            wanted = set(keys)
            for k in [k for k in self._futures if k not in wanted]:
                self._futures.pop(k).cancel()
            self._queue = deque(k for k in keys if k not in self._futures)
            self._fill()

    def take(self, key: int) -> T:
        """Number `key`, from what was loaded, else loaded now. Errors of loading are raised here."""
        if self._process != os.getpid():
            self._start()
        with self._lock:
            future = self._futures.get(key)
            if future is None and key in self._queue:
                self._queue.remove(key)
        try:
            return self.load(key) if future is None else future.result()
        finally:
            with self._lock:
                self._futures.pop(key, None)
                self._fill()

    def _fill(self) -> None:
        while self._queue and len(self._futures) < self._most():
            key = self._queue.popleft()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="ahead")
            self._futures[key] = self._pool.submit(self._loaded, key)

    def _most(self) -> int:
        """How many may wait: a few until it is known how large they are."""
        return max(1, self.memory // self._largest) if self._largest else self.threads

    def _loaded(self, key: int) -> T:
        found = self.load(key)
        self._largest = max(self._largest, self.size(found))
        return found
