"""Cases one after another in a process of their own, each within a limit of time and memory."""

from __future__ import annotations

import collections
import itertools
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.fuzz import targets, uploads
from benchmarks.fuzz.targets import Fault, Target
from knowngood.errors import KnowngoodError

TARGETS = {**targets.TARGETS, "requests": uploads.requests}
LIMIT = 10.0  # seconds a case may take
PREPARED = 600.0  # seconds within which a process is ready
MEMORY = 4 << 30  # bytes that a case may take
KEPT = 50  # failed cases of a target that are written down
OUTCOMES = ("read", "refused", "crash", "hang", "loss")


def main(
    minutes: float = 1.0,
    cases: int = 0,
    targets: tuple[str, ...] = tuple(TARGETS),
    seed: int = 0,
    out: Path = Path("out/benchmarks/fuzz"),
) -> dict[str, dict[str, int]]:
    """Number of cases by target and outcome. Prints the table; failed cases are written below `out`.

    Args:
        minutes: in all, shared by the targets.
        cases: stop a target after so many; 0: by time alone.
        targets: pictures, masks, archives, manifests, training, folders, results, models-hog, models-vae,
            requests.
    """
    table = {}
    for name in targets:
        table[name] = fuzz(name, seed, seconds=60 * minutes / len(targets), cases=cases, out=out / name)
        print(f"{name}: {table[name]}", file=sys.stderr)
    print(f"| target | cases | {' | '.join(OUTCOMES)} |\n|{'---|' * (2 + len(OUTCOMES))}")
    for name, counts in table.items():
        numbers = [sum(counts.values()), *(counts.get(outcome, 0) for outcome in OUTCOMES)]
        print(f"| {name} | {' | '.join(f'{number:,}' for number in numbers)} |")
    return table


def fuzz(name: str, seed: int, *, seconds: float, cases: int = 0, out: Path) -> dict[str, int]:
    """Outcomes of the cases of one target. What case i is depends on the seed and i alone."""
    counts: collections.Counter[str] = collections.Counter()
    shutil.rmtree(out, ignore_errors=True)
    context = multiprocessing.get_context("spawn")
    first, stop = 0, time.monotonic() + seconds
    while time.monotonic() < stop and not (cases and first >= cases):
        pipe, theirs = context.Pipe(duplex=False)
        with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
            process = context.Process(target=work, args=(name, seed, first, Path(place), theirs), daemon=True)
            process.start()
            theirs.close()
            for case, outcome, why in outcomes(pipe, first):
                counts[outcome] += 1
                first = case + 1
                if outcome not in ("read", "refused") and counts[outcome] <= KEPT:
                    keep(out / f"{case:08d}-{outcome}", name, seed, case, why)
                if time.monotonic() > stop or (cases and first >= cases):
                    break
            process.kill()
            process.join()
    return dict(counts)


def outcomes(pipe: Connection, first: int) -> Iterator[tuple[int, str, str]]:
    """(case, outcome, reason) until the process is silent for too long, or gone."""
    for case in itertools.count(first):
        try:
            limit = PREPARED if case == first else LIMIT
            if not pipe.poll(limit):
                yield case, "hang", f"no answer within {limit:g} seconds"
                return
            yield pipe.recv()
        except EOFError:
            yield case, "crash", "the process died"
            return


def work(name: str, seed: int, first: int, place: Path, pipe: Connection) -> None:
    """Run cases from number `first` on, and send what came of each."""
    warnings.simplefilter("ignore")
    target = made(name)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    for case in itertools.count(first):
        folder = place / str(case)
        folder.mkdir()
        target.make(folder, np.random.default_rng([seed, case]))
        pipe.send((case, *outcome_of(target.check, folder)))
        shutil.rmtree(folder)


def outcome_of(check: Callable[[Path], None], folder: Path) -> tuple[str, str]:
    """What came of one case, and why."""
    try:
        check(folder)
    except KnowngoodError as error:
        return "refused", str(error)
    except Fault as error:
        return "loss", str(error)
    except Exception:
        return "crash", traceback.format_exc()
    return "read", ""


def keep(folder: Path, name: str, seed: int, case: int, why: str) -> None:
    """Write a failed case down again, with its reason."""
    folder.mkdir(parents=True)
    made(name).make(folder, np.random.default_rng([seed, case]))
    about = {"target": name, "seed": seed, "case": case, "why": why}
    (folder / "why.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


@cache
def made(name: str) -> Target:
    """A target with its files ready."""
    return TARGETS[name]()
