"""A bounded queue before the models: what waits when the models are free is scored together."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce

from knowngood.data import ImageSet
from knowngood.data.joined import joined
from knowngood.deploy.judgement import Asked, Row
from knowngood.deploy.served_model import ServedModel, judged
from knowngood.errors import KnowngoodError


class Full(Exception):
    """The queue takes no more; `retry_after` seconds, at least 1, until it may."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too much is waiting to be scored; try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass(eq=False)
class Job:
    """The images of a request, for one version of a model."""

    model: ServedModel
    images: ImageSet
    asked: Asked
    answer: asyncio.Future[list[Row]]

    def goes_with(self, other: Job) -> bool:
        """Whether both can be scored in one batch."""
        return self.model is other.model and self.asked == other.asked


class Place:
    """Images that a request holds in the queue, from before its body is read until it is answered."""

    def __init__(self, queue: Queue) -> None:
        self._queue, self.images = queue, 0

    def take(self, images: int) -> None:
        """Hold this many. Raises Full: there is no room for them."""
        if self._queue.held + images - self.images > self._queue.capacity:
            raise Full(self._queue.retry_after)
        self._queue.held += images - self.images
        self.images = images


class Queue:
    """Batches of the images that wait. One thread scores; a job larger than a batch is scored alone.

    Args:
        capacity: images of all requests at a time, those being read and scored included.
        batch: images scored together.
        observe: told the images and the seconds of every batch.
    """

    def __init__(
        self, capacity: int = 256, batch: int = 32, observe: Callable[[int, float], None] = lambda *_: None
    ) -> None:
        self.capacity, self.batch, self.held = capacity, batch, 0
        self.closing = False
        self._observe = observe
        self._waiting: deque[Job] = deque()
        self._filled = asyncio.Event()
        self._seconds = 0.0  # an image
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="score")
        self._worker: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Requests that wait to be scored."""
        return len(self._waiting)

    @property
    def retry_after(self) -> int:
        """Seconds until what is held now is answered, at the pace of the last batch; 1 to 60."""
        return max(1, min(60, math.ceil(self.held * self._seconds)))

    @contextmanager
    def place(self) -> Iterator[Place]:
        """Room for one image at least. Raises Full."""
        place = Place(self)
        if self.closing:
            raise Full(self.retry_after)
        place.take(1)
        try:
            yield place
        finally:
            self.held -= place.images

    async def score(self, model: ServedModel, images: ImageSet, asked: Asked) -> list[Row]:
        """The rows of images for which there is a place. Raises what `judged` does."""
        job = Job(model, images, asked, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._filled.set()
        return await job.answer

    def start(self) -> None:
        """Begin to score; within a running event loop."""
        self._worker = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Take no more, and score what was taken."""
        self.closing = True
        self._filled.set()
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting or not self.closing:
            if not self._waiting:
                self._filled.clear()
                await self._filled.wait()
                continue
            jobs = self._next()
            started = time.perf_counter()
            answers = await loop.run_in_executor(self._thread, _score, jobs)
            for job, answer in zip(jobs, answers, strict=True):
                if job.answer.cancelled():
                    continue
                if isinstance(answer, BaseException):
                    job.answer.set_exception(answer)
                else:
                    job.answer.set_result(answer)
            images, seconds = sum(len(job.images) for job in jobs), time.perf_counter() - started
            self._seconds = seconds / images
            self._observe(images, seconds)

    def _next(self) -> list[Job]:
        """The first job, and those after it that go with it and fit into the batch; the others keep their order."""
        jobs, rest = [self._waiting.popleft()], deque[Job]()
        images = len(jobs[0].images)
        while self._waiting:
            job = self._waiting.popleft()
            fits = job.goes_with(jobs[0]) and images + len(job.images) <= self.batch
            (jobs if fits else rest).append(job)
            images += len(job.images) if fits else 0
        self._waiting = rest
        return jobs


def _score(jobs: list[Job]) -> list[list[Row] | BaseException]:
    """The rows of each job, or why there are none. What is wrong with one job is no harm to the others."""
    try:
        rows = iter(judged(jobs[0].model, reduce(joined, [job.images for job in jobs]), jobs[0].asked))
    except Exception as error:
        if len(jobs) == 1 or not isinstance(error, KnowngoodError | RuntimeError | MemoryError):
            return [error] * len(jobs)
        return [answer for job in jobs for answer in _score([job])]
    return [[next(rows) for _ in range(len(job.images))] for job in jobs]
