"""Runs cells × methods one by one, and again only what is not yet done.

A finished measurement is one line of `results.jsonl` in the output folder, under a key made of everything that its
numbers depend on: the cell, the method with all its settings, the data, and the code (not its comments). Any change
of these is a new key; lines of other keys stay in the file and are passed over.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from knowngood.benchmarks.methods import Method, measure
from knowngood.benchmarks.protocols import Cell, resolve
from knowngood.errors import DataError, TrainingError
from knowngood.images import ImageSet

RESULTS = "results.jsonl"
NO_NUMBERS = ("cli", "report", "figures", "presets", "benchmarks", "demo.py", "card.py", "artifact.py")
NUMBERS_HERE = ("protocols.py", "methods.py", "baselines.py")

Result = dict[str, Any]
Opener = Callable[[str], ImageSet]


def run(
    cells: Sequence[Cell],
    methods: Sequence[Method],
    out: Path,
    *,
    opener: Opener | None = None,
    reports: bool = False,
) -> list[Result]:
    """Every method on every cell, in order; one line of progress each, on stderr.

    Args:
        cells: of any data sets; those of one data set should follow each other, it is opened once then.
        out: folder for `results.jsonl` (made if need be), and for reports.
        opener: gives the whole data set, all splits, for a cell's `dataset`; default `open_whole`.
        reports: write an HTML report of each detector beside the results.

    Returns:
        One record a cell and method, in order. Where the data are missing or training failed the record has `error`
        instead of `metrics`; such a record is not kept, so that the next run tries again.
    """
    out.mkdir(parents=True, exist_ok=True)
    done = read_results(out / RESULTS)
    results: list[Result] = []
    opened: tuple[str, ImageSet | str] = ("", "")
    for number, (cell, method) in enumerate([(cell, method) for cell in cells for method in methods], 1):
        if opened[0] != cell.dataset:
            opened = cell.dataset, _open(cell.dataset, opener or open_whole)
        images = opened[1]
        record: Result = {**_heading(cell), "method": method.name}
        where = f"[{number}/{len(cells) * len(methods)}] {_named(record)}"
        if isinstance(images, str):
            results.append({**record, "error": images})
            _tell(f"{where}: {images}")
            continue
        key = key_of(cell, method, images.fingerprint())
        if key in done:
            results.append(done[key])
            _tell(f"{where}: AUROC {done[key]['metrics']['auroc']:.4f}, done before")
            continue
        started = time.perf_counter()
        try:
            report = out / "reports" / f"{_file_name(record)}-{key[:8]}.html" if reports else None
            found = measure(method, cell, resolve(cell, images), report=report)
        except (DataError, TrainingError) as error:
            results.append({**record, "error": str(error)})
            _tell(f"{where}: {error}")
            continue
        record |= {"key": key, "variant": images.variant, "code": code_version(), "cell": cell.to_record(), **found}
        results.append(append(out / RESULTS, record))
        _tell(f"{where}: AUROC {found['metrics']['auroc']:.4f}, {time.perf_counter() - started:.0f} s")
    return results


def key_of(cell: Cell, method: Method, fingerprint: str) -> str:
    """Hash (hex) of all that a measurement depends on."""
    content = [cell.to_record(), method.to_record(cell), fingerprint, code_version()]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:24]


@lru_cache(maxsize=1)
def code_version() -> str:
    """Hash (hex) of the code that numbers come from, and of the versions of torch and NumPy. Comments, docstrings and
    layout do not count."""
    import torch

    here, root = Path(__file__).parent, Path(__file__).parent.parent
    files = [file for file in root.rglob("*.py") if file.relative_to(root).parts[0] not in NO_NUMBERS]
    files += [here / name for name in NUMBERS_HERE]
    digest = hashlib.sha256(f"{torch.__version__} {np.__version__}".encode())
    for file in sorted(files):
        digest.update(f"{file.relative_to(root).as_posix()} {essence(file.read_text(encoding='utf-8'))}".encode())
    return digest.hexdigest()[:12]


def essence(source: str) -> str:
    """Python source without what does not change what it does."""
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
    """Finished measurements by key. A last line that was cut off, by a kill, is passed over."""
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


def open_whole(dataset: str) -> ImageSet:
    """A named data set, or a folder of that name among the data folders, with all its splits.

    Raises:
        DataError: it is neither here nor to be downloaded.
    """
    from knowngood.images import dataset_names, open_dataset, open_images
    from knowngood.images.downloads import data_folders

    if dataset in dataset_names():
        return open_dataset(dataset)
    for folder in [*data_folders(dataset), Path(dataset)]:
        if folder.is_dir():
            return open_images(folder)
    raise DataError(f"no folder {dataset} here; put it below the folder that KNOWNGOOD_DATA names")


def _open(dataset: str, opener: Opener) -> ImageSet | str:
    try:
        return opener(dataset)
    except DataError as error:
        return f"missing: {error}"


def _heading(cell: Cell) -> Result:
    names = ("protocol", "form", "dataset", "normal", "anomalous", "seed")
    return {name: getattr(cell, name) for name in names}


def _named(record: Result) -> str:
    return (
        f"{record['protocol']} {record['form']} {record['dataset']}, normal {record['normal']}, "
        f"{record['method']}, seed {record['seed']}"
    )


def _file_name(record: Result) -> str:
    text = "-".join(str(record[name]) for name in ("dataset", "normal", "method", "seed"))
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def missing(results: Iterable[Result]) -> list[str]:
    """Why measurements are not there, each reason once."""
    return list(dict.fromkeys(f"{r['dataset']}: {r['error']}" for r in results if "error" in r))
