"""What one image meets: the walk of a fit and of a verdict through the rooms of the package, traced from real calls.

    python docs/trace.py > docs/one-image.md

`sys.setprofile` reports every call of a Python function in the main thread. A crossing is a call whose nearest caller
inside the package lies in another room. Calls that code outside the package makes back into it (a callback that torch
makes, say) are taken as calls of the nearest function of the package that waits for them.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import knowngood
from knowngood import Detector

SRC = Path(knowngood.__file__).parent
FLOORS = (
    *(("errors",), ("config", "calibration", "metrics"), ("data",), ("representations",), ("models",)),
    *(("scores", "training"), ("detector",), ("evaluation",), ("cli",)),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PASSES_ON = "data/progress.track"  # shows how far a loop is
GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
CELL = 8


@dataclass
class Walk:
    """Who called whom over the borders of rooms, while it is active.

    crossings: calls by (caller, callee), each "room/module.function", in the order of the first call. rooms, packages:
    entered, in the same order; a package inside a room, as detector/fit, counts apart.
    """

    crossings: Counter[tuple[str, str]] = field(default_factory=Counter)
    rooms: dict[str, None] = field(default_factory=dict)
    packages: dict[str, None] = field(default_factory=dict)
    calls: int = 0
    _importing: int = 0
    _started: dict[int, FrameType] = field(default_factory=dict)  # generators; kept, so that no id is used twice

    def __enter__(self) -> Walk:
        torch.set_num_threads(1)  # else folds are fitted in threads, which are not traced
        sys.setprofile(self._event)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        sys.setprofile(None)
        self._started.clear()

    def _event(self, frame: FrameType, event: str, _: Any) -> None:
        if frame.f_code.co_name == "<module>" and event in ("call", "return"):
            self._importing += 1 if event == "call" else -1  # what a lazy import runs is no part of the walk
            return
        if event != "call" or self._importing:
            return
        here = place(frame)
        if here is None:
            return
        if frame.f_code.co_flags & GENERATOR:
            if id(frame) in self._started:
                return  # resumed: the way back into a function that was called before
            self._started[id(frame)] = frame
        self.calls += 1
        self.rooms.setdefault(room(here))
        self.packages.setdefault(here.rpartition("/")[0] or room(here))
        caller = frame.f_back
        while caller is not None and (place(caller) in (None, PASSES_ON)):
            caller = caller.f_back
        there = None if caller is None else place(caller)
        if there is not None and room(there) != room(here):
            self.crossings[there, here] += 1

    @property
    def handovers(self) -> Counter[tuple[str, str]]:
        """Calls by (room, room)."""
        found: Counter[tuple[str, str]] = Counter()
        for (there, here), times in self.crossings.items():
            found[room(there), room(here)] += times
        return found

    @property
    def climbs(self) -> dict[tuple[str, str], int]:
        """The crossings from a lower room into a higher one."""
        return {
            (there, here): times
            for (there, here), times in self.crossings.items()
            if FLOOR[room(here)] > FLOOR[room(there)]
        }


def place(frame: FrameType) -> str | None:
    """'detector/fit/auto.resolve'; None outside the package and in its root, whose `__getattr__` only imports."""
    code = frame.f_code
    if not code.co_filename.startswith(str(SRC)):
        return None
    path = Path(code.co_filename).relative_to(SRC).with_suffix("")
    if path.parts[0] in ("__init__", "__main__"):
        return None
    name = code.co_qualname.replace("<locals>.", "")
    return f"{path.as_posix()}.{name}"


def room(where: str) -> str:
    """The room of a place."""
    return where.partition("/")[0].partition(".")[0]


class Cells(nn.Module):
    """A backbone that keeps the trace quick: mean and standard deviation of each channel over a cell."""

    def features(self, images: Tensor) -> list[Tensor]:
        mean = nn.functional.avg_pool2d(images, CELL)
        square = nn.functional.avg_pool2d(images.square(), CELL)
        return [torch.cat([mean, (square - mean.square()).clamp_min(0).sqrt()], 1)]

    def fingerprint(self) -> str:
        return "cells"


def images(n: int, side: int, seed: int = 0) -> np.ndarray:
    """(n, side, side, 3) uint8, noise."""
    return np.random.default_rng(seed).integers(90, 160, (n, side, side, 3), dtype=np.uint8)


def features() -> tuple[Detector, dict[str, Any], int]:
    """The recipe for photographs, on a backbone of its own; options of `fit`; the side of its images in pixels."""
    own = {"name": "features", "backbone": "own", "image_size": 64, "stride": CELL, "average": 1}
    return Detector(representation=own, device="cpu"), {"backbone": Cells()}, 64


def vae() -> tuple[Detector, dict[str, Any], int]:
    """A VAE on pixels, with what `auto` takes for the rest."""
    model = {"name": "vae", "latent_dim": 2, "net": {"name": "mlp", "hidden": [16]}}
    return Detector("pixels", model, training={"epochs": 2}, device="cpu"), {}, 16


def section(title: str, walk: Walk) -> list[str]:
    """One walk in Markdown."""
    handovers, climbs = walk.handovers, walk.climbs
    lines = [
        f"## {title}",
        "",
        f"- Calls inside the package: {walk.calls:,}.",
        f"- Rooms entered: {len(walk.rooms)} ({', '.join(walk.rooms)}); packages, those inside rooms counted apart: "
        f"{len(walk.packages)}.",
        f"- Hand-overs from room to room: {sum(handovers.values()):,} calls over {len(handovers)} borders.",
        f"- Climbs: {sum(climbs.values()):,} calls, of {len(climbs)} pairs of caller and callee.",
        "",
        "| from | to | calls | first by | first to |",
        "|---|---|--:|---|---|",
    ]
    first: dict[tuple[str, str], tuple[str, str]] = {}
    for there, here in walk.crossings:
        first.setdefault((room(there), room(here)), (there, here))
    lines += [f"| {a} | {b} | {handovers[a, b]:,} | `{x}` | `{y}` |" for (a, b), (x, y) in first.items()]
    if climbs:
        lines += ["", "| climb: from | to | calls |", "|---|---|--:|"]
        lines += [f"| `{a}` | `{b}` | {times:,} |" for (a, b), times in climbs.items()]
    return [*lines, ""]


def walks(make: Callable[[], tuple[Detector, dict[str, Any], int]]) -> tuple[Walk, Walk]:
    """A fit, and a verdict on one image."""
    detector, options, side = make()
    with Walk() as fit:
        detector.fit(images(120, side), **options)
    with Walk() as detect:
        detector.detect(images(1, side, seed=1))
    return fit, detect


ROW = "| walk | rooms | packages | hand-overs | their borders | climbs, calls | climbs, pairs | climbs, borders |"
HEAD = """# What one image meets

The walk of an image through the [rooms](../CONTRIBUTING.md#where-things-are), traced from real calls on noise:
`python docs/trace.py > docs/one-image.md` writes this page.

**How it is counted.** A room is a package directly under `src/knowngood`, or `errors`. A hand-over is a call whose
nearest caller inside the package lies in another room; a progress bar, which passes items on, is no caller, and returns
are not counted. A climb is a hand-over into a room on a higher floor. The floors are

    {floors}

where rooms with a comma between them share a floor. Climbs are counted three ways: every call, which grows with the
folds of the calibration and the options that are built; the pairs of caller and callee; and the borders, pairs of
rooms. The first step of a generator is a call, by whoever asks for it; resuming it is a return. What a module runs when
it is imported does not count. Only the main thread is traced.

The aim is at most 14 rooms and 6 climbs a walk.
"""


def main() -> None:
    """Print the page."""
    floors = " < ".join(", ".join(rooms) for rooms in FLOORS)
    lines = [HEAD.format(floors=floors)]
    rows = [ROW, "|---|--:|--:|--:|--:|--:|--:|--:|"]
    sections: list[str] = []
    for name, make in (("features", features), ("a VAE on pixels", vae)):
        for title, walk in zip((f"Fit: {name}", f"Detect one image: {name}"), walks(make), strict=True):
            handovers, climbs = walk.handovers, walk.climbs
            counts = [len(walk.rooms), len(walk.packages), sum(handovers.values()), len(handovers)]
            counts += [sum(climbs.values()), len(climbs), len({(room(a), room(b)) for a, b in climbs})]
            rows.append(f"| {title} | {' | '.join(f'{count:,}' for count in counts)} |")
            sections += section(title, walk)
    print("\n".join([*lines, *rows, "", *sections]).rstrip())


if __name__ == "__main__":
    main()
