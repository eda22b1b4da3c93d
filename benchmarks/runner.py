"""Runs cells × methods, one by one or several at a time, and again only what is not yet done.

A finished measurement is one line of `results.jsonl` in the output folder, under a key made of everything that its
numbers depend on: the cell, the method with all its settings, the data, and the code (not its comments). Any change
of these is a new key; lines with other keys stay in the file and are ignored.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import os
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.methods import Method, measure
from benchmarks.protocols import Cell, resolve
from benchmarks.remaining import Remaining
from benchmarks.workers import Died, each
from knowngood.data import ImageSet
from knowngood.errors import DataError, KnowngoodError, SettingsError

RESULTS = "results.jsonl"
HEADING = ("protocol", "form", "dataset", "normal", "anomalous", "seed")
NAMES_ONLY = ("protocol", "normal", "anomalous")
NO_NUMBERS = ("cli", "evaluation")
ORIGINS = {  # of folders; data sets know their own
    "mvtec/bottle": "MVTec AD (https://www.mvtec.com/company/research/datasets/mvtec-ad)",
    "magnetic-tile": "the magnetic tiles (https://github.com/abin24/Magnetic-tile-defect-datasets.)",
    "chest-xray-224": "the chest X-rays (https://data.mendeley.com/datasets/rscbjbr9sj) at 224×224 px",
}
NUMBERS_HERE = ("protocols.py", "picks.py", "methods.py", "baselines.py", "paper_measures.py")

Result = dict[str, Any]
Opener = Callable[[str], ImageSet]


class Task(NamedTuple):
    """One measurement to make."""

    cell: Cell
    method: Method
    report: Path | None


def run(
    cells: Sequence[Cell],
    methods: Sequence[Method],
    out: Path,
    *,
    opener: Opener | None = None,
    reports: bool = False,
    jobs: int = 1,
    measuring: bool = True,
) -> list[Result]:
    """Every method on every cell, begun in order; one line of progress each, on stderr.

    Args:
        cells: of any data sets; all are held open.
        out: folder for `results.jsonl` (made if need be), and for reports.
        opener: gives the whole data set, all splits, for a cell's `dataset`; default `open_whole`.
        reports: write an HTML report of each detector beside the results.
        jobs: number of processes that measure at the same time, each with an equal share of the cores; 1: this one.
            Only this process writes results, each as soon as it is there.
        measuring: False reads finished measurements, measures nothing and prints no progress.

    Returns:
        One record a cell and method, in order. Where the data are missing, training failed or its process died the
        record has `error` instead of `metrics`; such a record is not kept, so that the next run tries again.

    Raises:
        SettingsError: fewer than one job, or settings that cannot be read.
    """
    if jobs < 1:
        raise SettingsError(f"jobs = {jobs}; expected at least 1")
    out.mkdir(parents=True, exist_ok=True)
    done = read_results(out / RESULTS)
    opener = opener or open_whole
    opened = {name: _open(name, opener) for name in dict.fromkeys(cell.dataset for cell in cells)}
    tasks, records = [], []
    for cell, method in [(cell, method) for cell in cells for method in methods]:
        record: Result = {**_heading(cell), "method": method.name}
        images = opened[cell.dataset]
        report = None
        if not isinstance(images, str):
            record |= {"key": key_of(cell, method, images.fingerprint()), "variant": images.variant}
            record |= {"code": code_version(), "cell": cell.to_record()}
            report = out / "reports" / f"{_file_name(record)}-{record['key'][:8]}.html" if reports else None
        tasks.append(Task(cell, method, report))
        records.append(record)

    results: list[Result | None] = [None] * len(tasks)
    told = Remaining(len(tasks), jobs)
    for at, record in enumerate(records):
        images = opened[record["dataset"]]
        if isinstance(images, str):
            results[at] = _without(record, images)
            told.tell(record, images)
        elif record["key"] in done:
            results[at] = known = {**done[record["key"]], **{name: record[name] for name in (*HEADING, "method")}}
            if measuring:
                told.tell(record, f"AUROC {known['metrics']['auroc']:.4f}, done before")
        elif not measuring:
            results[at] = _without(record, "not measured yet")
    waiting = [at for at, result in enumerate(results) if result is None]
    told.waiting = [records[at] for at in waiting]
    with closing(_measured([tasks[at] for at in waiting], opener, opened, jobs)) as found:
        for which, measured in found:
            at = waiting[which]
            if "error" in measured:
                results[at] = _without(records[at], measured["error"])
                told.tell(records[at], measured["error"])
                continue
            results[at] = append(out / RESULTS, {**records[at], **measured})
            told.tell(records[at], f"AUROC {measured['metrics']['auroc']:.4f}", measured["seconds"])
    return [result for result in results if result is not None]


def _measured(
    tasks: Sequence[Task], opener: Opener, opened: dict[str, ImageSet | str], jobs: int
) -> Generator[tuple[int, Result]]:
    """(position, result) of every task, here or in other processes."""
    if jobs == 1:
        for at, task in enumerate(tasks):
            images = opened[task.cell.dataset]
            assert not isinstance(images, str)
            yield at, attempt(task, images, progress=True)
        return
    with closing(each(partial(_attempt_elsewhere, opener), tasks, jobs)) as results:
        for at, found in results:
            yield at, {"error": f"the process {found.why}"} if isinstance(found, Died) else found


def attempt(task: Task, images: ImageSet, *, progress: bool = False) -> Result:
    """The measurement with its seconds; or the reason of a failure, as `error`."""
    started = time.perf_counter()
    try:
        parts = resolve(task.cell, images)
        found = measure(task.method, task.cell, parts, report=task.report, progress=progress)
    except KnowngoodError as error:
        return {"error": str(error)}
    except Exception as error:  # one measurement of many: the others go on
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    return {**found, "seconds": time.perf_counter() - started}


def _attempt_elsewhere(opener: Opener, task: Task) -> Result:
    return attempt(task, _held_open(opener, task.cell.dataset))


@cache
def _held_open(opener: Opener, dataset: str) -> ImageSet:
    return opener(dataset)


def key_of(cell: Cell, method: Method, fingerprint: str) -> str:
    """Hash (hex) of all that a measurement depends on; the names of protocol and classes do not count."""
    made_of = {name: value for name, value in cell.to_record().items() if name not in NAMES_ONLY}
    content = [made_of, method.to_record(cell), fingerprint, code_version()]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:24]


@lru_cache(maxsize=1)
def code_version() -> str:
    """Hash (hex) of the code that numbers come from, and of the versions of torch and NumPy. Comments, docstrings and
    layout do not count."""
    import torch

    import knowngood

    here, root = Path(__file__).parent, Path(knowngood.__file__).parent
    files = [file for file in root.rglob("*.py") if file.relative_to(root).parts[0] not in NO_NUMBERS]
    digest = hashlib.sha256(f"{torch.__version__} {np.__version__}".encode())
    for file in [*sorted(files), *(here / name for name in NUMBERS_HERE)]:
        name = file.relative_to(root if file.is_relative_to(root) else here).as_posix()
        digest.update(f"{name} {essence(file.read_text(encoding='utf-8'))}".encode())
    return digest.hexdigest()[:12]


def essence(source: str) -> str:
    """Python source without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            node.body = body[1:]  # type: ignore[attr-defined]
    return ast.dump(tree)


def read_results(path: Path) -> dict[str, Result]:
    """Finished measurements by key. An incomplete last line is skipped."""
    found: dict[str, Result] = {}
    if not path.exists():
        return found
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and "key" in record:
            found[record["key"]] = record
    return found


def append(path: Path, record: Result) -> Result:
    """Add one line, on the disk when this returns, also after a line that was cut off. The record as read back."""
    line = json.dumps(record)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return json.loads(line)


def open_whole(dataset: str, *, download: bool = True) -> ImageSet:
    """A named data set, or a folder of that name among the data folders, with all its splits.

    Raises:
        DataError: it is neither here nor to be downloaded.
    """
    from knowngood.data import dataset_names, open_dataset, open_images
    from knowngood.data.datasets.downloads import data_folders
    from knowngood.data.datasets.named import is_dataset

    if is_dataset(dataset):
        return open_dataset(dataset, download=download)
    folders = [*data_folders(dataset), Path(dataset)]
    for folder in folders:
        if folder.is_dir():
            return open_images(folder)
    source = f"get {ORIGINS[dataset]} and " if dataset in ORIGINS else ""
    meant = [] if source else difflib.get_close_matches(dataset, dataset_names(), 1)
    if meant:
        raise DataError(f"no data set and no folder {dataset} here; did you mean {meant[0]}?")
    own = "" if os.environ.get("KNOWNGOOD_DATA") else f", or set KNOWNGOOD_DATA to the folder that holds {dataset}"
    raise DataError(f"no folder {dataset} here; {source}put it at {folders[0]}{own}")


def _open(dataset: str, opener: Opener) -> ImageSet | str:
    try:
        return opener(dataset)
    except DataError as error:
        return f"missing: {error}"


def _heading(cell: Cell) -> Result:
    return {name: getattr(cell, name) for name in HEADING}


def _file_name(record: Result) -> str:
    text = "-".join(str(record[name]) for name in ("dataset", "normal", "method", "seed"))
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text)


def _without(record: Result, why: str) -> Result:
    return {**{name: record[name] for name in (*HEADING, "method")}, "error": why}
