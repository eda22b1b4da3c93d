"""`python -m benchmarks kill`: commands killed (SIGKILL) at random moments; nothing half-written may remain.

Every command first runs undisturbed, which gives its time and its result. Then it runs again and again on a copy of
the same folder, is killed at a moment drawn from that time, and runs once more, as a person would do. Each output must
be whole or absent after the kill, the model must load, and the second run must end with the bits of the first.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from knowngood import Detector
from knowngood.cli import main as knowngood
from knowngood.detector.versions import versions

SIDE = 12
TRAINED, SCORED = 120, 400  # images


class Command(NamedTuple):
    """A command line in a folder with `good/`, `new/` and `model/`.

    again: the command line after a kill, unless the model has a new version already. result: what must be equal, as
    text, read from the folder. whole: raises if an output is half-written.
    """

    line: str
    again: str
    result: Callable[[Path], str]
    whole: Callable[[Path], None]


def main(
    times: int = 200, commands: tuple[str, ...] | None = None, seed: int = 0, out: Path = Path("out/benchmarks/kill")
) -> list[dict[str, Any]]:
    """Kills and what came of them, by command. Prints the table.

    Args:
        times: kills in all, shared by the commands.
        commands: train, score, evaluate, calibrate, update, save; default all.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    names = commands or tuple(COMMANDS)
    rows = []
    with tempfile.TemporaryDirectory(prefix="kill-") as place:
        base = Path(place) / "base"
        prepare(base)
        for name in names:
            rows.append({"command": name, **killed(COMMANDS[name], base, Path(place), times // len(names), seed)})
            print(rows[-1], file=sys.stderr)
    out.mkdir(parents=True, exist_ok=True)
    (out / "kill.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print("| command | killed | half-written | no model | other result | left over |\n|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['command']} | {row['killed']} | {row['half']} | {row['lost']} | {row['other']} | {row['left']} |"
        )
    return rows


def prepare(folder: Path) -> None:
    """Pictures to train on and to score, and a model."""
    rng = np.random.default_rng(0)
    for name, count in {"good": TRAINED, "more": TRAINED, "new": SCORED}.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(folder / name / f"{i:04d}.png")
    for part, kinds in {"train": ["good"], "test": ["good", "bad"]}.items():
        for kind in kinds:
            shutil.copytree(folder / "more", folder / "parts" / part / kind)
    child(f"train {folder}/good --representation hog --model memory_bank --out {folder}/run").join()


def killed(command: Command, base: Path, place: Path, times: int, seed: int) -> dict[str, int]:
    """Counts over so many kills of one command."""
    counts = {"killed": 0, "half": 0, "lost": 0, "other": 0, "left": 0}
    work = fresh(base, place)
    started = time.monotonic()
    child(command.line.format(work)).join()
    seconds, expected = time.monotonic() - started, command.result(work)
    rng = np.random.default_rng(seed)
    for _ in range(times):
        work = fresh(base, place)
        process = child(command.line.format(work))
        process.join(float(rng.uniform(0, seconds)))
        if process.exitcode is None:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            counts["killed"] += 1
        try:
            command.whole(work)
        except Exception as error:
            print(f"half-written: {error}", file=sys.stderr)
            counts["half"] += 1
        try:
            Detector.load(work / "run")
        except Exception as error:
            print(f"no model: {error}", file=sys.stderr)
            counts["lost"] += 1
        if process.exitcode and len(versions(work / "run")) == 1:
            child(command.again.format(work)).join()
        counts["other"] += command.result(work) != expected
        counts["left"] += bool(left_over(work))
    return counts


def child(line: str) -> Any:
    """The command line in a process of its own, which need not import everything again."""
    process = multiprocessing.get_context("fork").Process(target=run, args=(line,))
    process.start()
    return process


def run(line: str) -> None:
    """One command line, in silence."""
    with Path(os.devnull).open("w") as silent:
        os.dup2(silent.fileno(), 1)
        os.dup2(silent.fileno(), 2)
    if line.startswith("save "):
        folder = Path(line.removeprefix("save "))
        Detector.load(folder).save(folder)
        return
    sys.argv = ["knowngood", *line.split()]
    knowngood()


def fresh(base: Path, place: Path) -> Path:
    """A copy of the folder, always at the same path, since paths are among the results."""
    work = place / "work"
    shutil.rmtree(work, ignore_errors=True)
    return shutil.copytree(base, work)


def verdicts(run: str) -> Callable[[Path], str]:
    """All numbers that the model of a run gives to new pictures."""
    return lambda folder: Detector.load(folder / run).detect(str(folder / "new")).to_csv()


def whole_table(folder: Path) -> None:
    """The table of scores is absent, or has a row of each image."""
    file = folder / "scores.csv"
    if file.exists() and len(file.read_text().splitlines()) != SCORED + 1:
        raise ValueError(f"{file.name} is cut off")


def whole_json(folder: Path) -> None:
    """Every JSON file is whole, and every page of HTML."""
    for file in folder.rglob("*.json"):
        json.loads(file.read_text())
    for file in folder.rglob("*.html"):
        if not file.read_text().rstrip().endswith("</html>"):
            raise ValueError(f"{file.name} is cut off")


def evaluation(folder: Path) -> str:
    """What was measured, without times."""
    return (folder / "judged.json").read_text()


def left_over(folder: Path) -> set[str]:
    """Hidden and temporary files."""
    return {str(file) for file in folder.rglob("*") if file.name.startswith(".") or file.suffix in (".tmp", ".part")}


TRAIN = "train {0}/good --representation pixels --epochs 4 --out {0}/fresh"
SCORE = "score {0}/run {0}/new -o {0}/scores.csv"
EVALUATE = "evaluate {0}/run {0}/parts --json {0}/judged.json --report {0}/report.html"
CALIBRATE, UPDATE, SAVE = "calibrate {0}/run {0}/more", "update {0}/run {0}/more", "save {0}/run"
COMMANDS = {
    "train": Command(TRAIN, TRAIN + " --resume", verdicts("fresh"), whole_json),
    "score": Command(SCORE, SCORE + " --resume", lambda folder: (folder / "scores.csv").read_text(), whole_table),
    "evaluate": Command(EVALUATE, EVALUATE, evaluation, whole_json),
    "calibrate": Command(CALIBRATE, CALIBRATE, verdicts("run"), whole_json),
    "update": Command(UPDATE, UPDATE, verdicts("run"), whole_json),
    "save": Command(SAVE, SAVE, verdicts("run"), whole_json),
}
