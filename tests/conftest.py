"""What all tests share: real data only where it is, and then by one fixture."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported: these models are too small to share, and several test processes on few cores would only
# wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the suite in the background has Ctrl-C ignored; tests send it to themselves.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# New examples every run, so few of them each time.
settings.register_profile("few", max_examples=25, deadline=None)
settings.load_profile("few")

NEEDS_DATA = "needs real data: set KNOWNGOOD_DATA to the folder that holds it"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Import everything without the garbage collector, and keep what was imported out of its sight afterwards.

    The libraries and the tests are 900,000 objects that stay; looking through them takes a fifth of collecting. Of what
    tests make, cycles are looked for a tenth as often as by default.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(7000, 10, 10)
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `data` where there is none."""
    if os.environ.get("KNOWNGOOD_DATA"):
        return
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason=NEEDS_DATA))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data; tests that ask for it skip without one."""
    root = os.environ.get("KNOWNGOOD_DATA")
    if not root:
        pytest.skip(NEEDS_DATA)
    return Path(root)
