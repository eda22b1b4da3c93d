"""`python -m benchmarks cluster`: images a second of workers of Ray Data, and of one process without Ray.

Each number of workers scores few images and many. The pace is that of the images in between, so that what a run takes
whatever it scores (Ray, the processes of the workers, the model) does not count; that is stated beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.tables import print_table, write_csv
from knowngood import Detector
from knowngood.errors import DataError

TRAINED = 60
ALONE = 0  # workers: one process without Ray


def main(
    few: int = 184,
    many: int = 920,
    workers: tuple[int, ...] = (ALONE, 1, 2),
    side: int = 256,
    out: Path = Path("out/benchmarks/cluster"),
) -> list[dict[str, Any]]:
    """Images a second by number of workers with one thread each, features and Gaussians. Prints the table.

    Args:
        few: images of the shorter run; by default 2 parts of 92 images. many: of the longer one; 10 parts.
        workers: how many; 0 is one process without Ray. side: of a picture, in pixels.
    """
    if few >= many:
        raise DataError(f"few = {few}, many = {many}; expected fewer images in the first run")
    rng = np.random.default_rng(0)
    rows = []
    with tempfile.TemporaryDirectory(prefix="cluster-") as place:
        folder = Path(place)
        made = Detector("features", "patch_gaussian", alpha=0.1, calibration={"method": "split"})
        made.fit(rng.integers(0, 256, (TRAINED, side, side), dtype=np.uint8)).save(folder / "model")
        for n in (few, many):
            _write(folder / str(n), n, side, rng)
        for number in workers:
            short, long = (_seconds(folder, n, number) for n in (few, many))
            pace = (many - few) / (long - short)
            rows.append({"workers": number, "images/s": pace, "beside, s": long - many / pace})
    one = {row["workers"]: row["images/s"] for row in rows}
    for row in rows:
        row["÷ 1 worker"] = row["images/s"] / one[1] if 1 in one else None
    shown = [
        ["one process" if row["workers"] == ALONE else str(row["workers"]), *(_text(v) for v in list(row.values())[1:])]
        for row in rows
    ]
    print_table(list(rows[0]), shown, f"{many - few:,} images of {side} × {side}, one thread a worker")
    write_csv(out / "cluster.csv", rows)
    return rows


def _write(folder: Path, n: int, side: int, rng: np.random.Generator) -> None:
    folder.mkdir()
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(folder / f"{i:05}.png")


def _seconds(folder: Path, images: int, workers: int) -> float:
    """Of the command that scores so many images."""
    output = folder / f"{workers}-{images}"
    cluster = ["--cluster", "local", "--workers", str(workers), "--threads", "1"] if workers != ALONE else []
    to = str(output) if cluster else f"{output}.csv"
    command = [sys.executable, "-m", "knowngood", "score", str(folder / "model"), str(folder / str(images))]
    started = time.perf_counter()
    subprocess.run(
        [*command, *cluster, "--output", to],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return time.perf_counter() - started


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
