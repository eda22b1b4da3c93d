"""`python -m benchmarks watch`: pictures arrive in a watched folder whose process is killed (SIGKILL) again and again.

Drawn digits, by a model on HOG features. Some files are written in two parts. The process is killed after a random
number of verdicts, one time in four at a random moment of its start, and started again. In the end every picture must
have one row in the CSV file and one in the SQLite table, with the p-value that an undisturbed run gives it.
"""

from __future__ import annotations

import csv
import io
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.tables import print_table, write_csv
from knowngood import Detector
from knowngood.cli.console import note
from knowngood.deploy.onnx_graph import export

SIDE, TRAINED = 24, 200
STARTING = 0.25  # share of kills before the first verdict
PATIENCE = 120.0  # seconds without a new row, after which what is missing is lost


def main(
    files: int = 10_000,
    kills: int = 20,
    seed: int = 0,
    exported: bool = False,
    out: Path = Path("out/benchmarks/watch"),
) -> dict[str, Any]:
    """Rows and kills. Prints the table.

    Args:
        exported: the process judges by an exported file; expected are the p-values of the model.
    """
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="watch-") as place:
        root = Path(place)
        incoming, csv_file, table = root / "incoming", root / "results.csv", root / "results.db"
        incoming.mkdir()
        detector = Detector("hog", "memory_bank", alpha=0.1).fit(np.stack([digit(rng) for _ in range(TRAINED)]))
        model = export(detector, root / "model.onnx") if exported else detector.save(root / "model")
        command = [sys.executable, "-m", "knowngood", "watch", str(model), str(incoming)]
        command += ["--to", str(csv_file), "--to", f"sqlite:///{table}", "--interval", "0.05"]
        pictures, started, starting = np.stack([digit(rng) for _ in range(files)]), time.monotonic(), 0
        parts = np.array_split(np.arange(files), kills + 1)
        for part in parts[:-1]:
            watched = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            writer = threading.Thread(target=arrive, args=(pictures, part, incoming))
            writer.start()
            assert watched.stdout is not None
            if rng.random() < STARTING:
                starting += 1
                time.sleep(float(rng.uniform(0, 3)))
            else:
                for _ in range(int(rng.integers(1, len(part)))):
                    watched.stdout.readline()
            watched.kill()
            watched.communicate()
            writer.join()
            note(f"killed; {len(csv_rows(csv_file)):,} rows")
        arrive(pictures, parts[-1], incoming)
        watched = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(csv_file, table, files)
        watched.send_signal(signal.SIGTERM)
        status = watched.wait()
        own = detector.detect(pictures)["p_value"].to_numpy()
        rows, stored = csv_rows(csv_file), table_rows(table)
        expected = {name(i): p for i, p in enumerate(own.tolist())}
        found = {
            "files": files,
            "kills": kills,
            "at its start": starting,
            "CSV rows": len(rows),
            "SQLite rows": len(stored),
            "missing": sum(len(expected.keys() - {one for one, _ in some}) for some in (rows, stored)),
            "twice": sum(n - 1 for some in (rows, stored) for n in Counter(one for one, _ in some).values()),
            "other p-value": sum(p != expected[one] for some in (rows, stored) for one, p in some),
            "exit status": status,
            "seconds": round(time.monotonic() - started),
        }
    print_table(list(found), [[str(value) for value in found.values()]], "a watched folder under kills")
    write_csv(out / "watch.csv", [found])
    return found


def digit(rng: np.random.Generator) -> np.ndarray:
    """(24, 24) uint8: a digit somewhere near the middle, with noise."""
    picture = Image.new("L", (SIDE, SIDE))
    x, y = rng.uniform(4, 8, 2).tolist()
    ImageDraw.Draw(picture).text((x, y), str(rng.integers(10)), fill=220, font=ImageFont.load_default(14))
    return (np.asarray(picture, float) + rng.normal(20, 8, (SIDE, SIDE))).clip(0, 255).astype(np.uint8)


def name(i: int) -> str:
    """Of a picture, in one of ten subfolders."""
    return f"{i % 10}/{i:06d}.png"


def arrive(pictures: np.ndarray, which: np.ndarray, folder: Path) -> None:
    """Write these pictures, every seventh in two parts."""
    for i in which.tolist():
        content, path = io.BytesIO(), folder / name(i)
        Image.fromarray(pictures[i]).save(content, "PNG")
        path.parent.mkdir(exist_ok=True)
        data = content.getvalue()
        with path.open("wb") as file:
            if i % 7 == 0:
                file.write(data[:100])
                file.flush()
                time.sleep(0.01)
                data = data[100:]
            file.write(data)


def wait_for(csv_file: Path, table: Path, files: int) -> None:
    """Until both have so many rows, or no new one for `PATIENCE`."""
    before, since = -1, time.monotonic()
    while True:
        have = min(len(csv_rows(csv_file)), len(table_rows(table)))
        if have >= files or time.monotonic() - since > PATIENCE:
            return
        before, since = (have, time.monotonic()) if have > before else (before, since)
        time.sleep(0.5)


def csv_rows(path: Path) -> list[tuple[str, float]]:
    """Ids and p-values."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [(row["id"], float(row["p_value"] or "nan")) for row in csv.DictReader(file)]


def table_rows(path: Path) -> list[tuple[str, float]]:
    """Ids and p-values."""
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as base:
        try:
            return base.execute("select id, p_value from results").fetchall()
        except sqlite3.OperationalError:  # no row yet
            return []
