"""Processes that run tasks in parallel. If one dies, only its own task is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from knowngood.errors import KnowngoodError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
READY = "ready"
PATIENCE = 10.0  # seconds for a process to end


class Died(NamedTuple):
    """The process of a task ended."""

    why: str


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(function: Callable[[Any], Any], tasks: Sequence[Any], jobs: int) -> Generator[tuple[int, Any]]:
    """(position of the task, what the function returns) in the order in which tasks get done.

    Tasks are begun in the given order, by `jobs` fresh processes that share the cores evenly. Where a process ended the
    result is `Died`, and another takes its place. All processes end with the iterator.

    Args:
        function: importable from its module, as are the tasks and results; it does not raise.

    Raises:
        KnowngoodError: a process ended before it could begin.
    """
    threads = max(1, cores() // jobs)
    waiting = iter(enumerate(tasks))
    workers = [_Worker(function, threads) for _ in range(min(jobs, len(tasks)))]
    try:
        for worker in workers:
            worker.give(next(waiting, None))
        while busy := {worker.pipe: worker for worker in workers if worker.task is not None}:
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                found = worker.answer()
                if found is READY:
                    continue
                assert worker.task is not None
                yield worker.task, found
                task = next(waiting, None)
                if isinstance(found, Died) and task is not None:
                    worker.end()
                    workers[workers.index(worker)] = worker = _Worker(function, threads)
                worker.give(task)
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A process and its pipe; `task` is the position of its current task."""

    def __init__(self, function: Callable[[Any], Any], threads: int) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function))
        self.task: int | None = None
        self.began = False
        with _environment({name: str(threads) for name in THREAD_VARIABLES}):
            self.process.start()
        theirs.close()

    def give(self, numbered: tuple[int, Any] | None) -> None:
        self.task = None if numbered is None else numbered[0]
        if numbered is not None:
            try:
                self.pipe.send(numbered[1])
            except OSError:  # it ended while idle; reading the pipe tells so
                return

    def answer(self) -> Any:
        try:
            found = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(PATIENCE)
            why = _why(self.process.exitcode)
            if not self.began:
                raise KnowngoodError(f"a process could not begin ({why}); use jobs=1 to go without") from None
            return Died(why)
        if found == READY and not self.began:
            self.began = True
            return READY
        return found

    def end(self) -> None:
        """Stop the process, also during a task."""
        self.pipe.close()
        self.process.terminate()
        self.process.join(PATIENCE)


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """Run the tasks from the pipe until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt at the terminal is the parent's to handle
    pipe.send(READY)
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(function(task))


def _why(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}" + (", out of memory?" if code == -signal.SIGKILL else "")
    return f"ended with status {code}"


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set these environment variables temporarily: processes started now inherit them before they import torch."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
