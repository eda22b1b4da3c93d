"""What processes that measure are given in tests; imports little, since each of them imports it anew."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np

from knowngood.data import ImageSet
from knowngood.errors import DataError

ALIVE = "TEST_BENCHMARK_PARENT"


def stand_in(name: str, *, download: bool = False) -> ImageSet:
    """Four classes that follow no order, noise 8×8 whose brightness tells the class; "gone" is not here."""
    if name == "gone":
        raise DataError("gone: nothing here")
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, 600)
    pixels = np.clip(rng.integers(0, 60, (600, 8, 8)) + 50 * kind[:, None, None], 0, 255).astype(np.uint8)
    images = ImageSet.from_arrays(pixels, conditions={"class": kind.astype(str)})
    return images.replace(splits=np.repeat(["train", "test"], [440, 160]), name=name)


def deadly(name: str) -> ImageSet:
    """As `stand_in`, but opening "b" outside the process that began kills that process."""
    if name == "b" and os.environ.get(ALIVE) != str(os.getpid()):
        os.kill(os.getpid(), signal.SIGKILL)
    return stand_in(name)


def facts(task: str) -> Any:
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "wait":
        signal.pause()
    if task == "leave":
        os._exit(3)
    if task == "process":
        return task, os.getpid()
    import torch

    return task, os.getpid(), torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


class Unreadable:
    """Cannot be rebuilt in another process."""

    def __call__(self, task: Any) -> Any:
        return task

    def __reduce__(self) -> Any:
        return (open, ("/no such file",))
