"""`python -m benchmarks many`: very many small images scored from disk in one run; memory, pace and open files.

The images are copies of some thousand pictures under names of their own (hard links), so that the disk holds little.
A second process looks at the first one all the while. The pace is stated by the clock and by the processor time of the
scoring process, which other jobs of the machine change little.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 16
DISTINCT, IN_FOLDER = 1000, 1000  # different pictures; images in a folder
TRAINED = 500
LOOK = 1.0  # seconds


def main(images: int = 1_000_000, out: Path = Path("out/benchmarks/many")) -> dict[str, Any]:
    """Scores the images by the command line. Prints what was measured, once the first tenth is done.

    Args:
        images: how many.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="many-", dir=out) as place:
        folder = Path(place)
        prepare(folder, images)
        train = ["train", "good", "--representation", "hog", "--model", "memory_bank", "--out", "run"]
        subprocess.run([sys.executable, "-m", "knowngood", *train], cwd=folder, check=True, capture_output=True)
        score = ["score", "run", "new", "-o", "scores.csv"]
        started = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "knowngood", *score], cwd=folder)
        looks = []
        while process.poll() is None:
            time.sleep(LOOK)
            looks.append((time.monotonic() - started, *look(process.pid), written(folder)))
        with (folder / "scores.csv").open(encoding="utf-8") as file:
            rows = sum(1 for _ in file) - 1
    found = summary(looks, rows, images)
    (out / "many.json").write_text(json.dumps({**found, "looks": looks}), encoding="utf-8")
    for name, value in found.items():
        print(f"{name}: {value}")
    return found


def prepare(folder: Path, images: int) -> None:
    """Pictures to train on, and the images to score as links to them."""
    rng = np.random.default_rng(0)
    (folder / "good").mkdir(parents=True)
    files = [folder / "good" / f"{i:05d}.png" for i in range(max(DISTINCT, TRAINED))]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(file)
    for i in range(images):
        if i % IN_FOLDER == 0:
            (folder / "new" / f"{i // IN_FOLDER:05d}").mkdir(parents=True)
        (folder / "new" / f"{i // IN_FOLDER:05d}" / f"{i:07d}.png").hardlink_to(files[i % len(files)])


def look(pid: int) -> tuple[int, int, float]:
    """Resident memory in bytes, open files, and seconds of processor time, of a process."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        times = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        spent = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
        return pages * 4096, len(list(Path(f"/proc/{pid}/fd").iterdir())), spent
    except OSError:
        return 0, 0, 0.0


def written(folder: Path) -> int:
    """Bytes of what was scored so far, in the file that is kept until the output is whole; 0 without one."""
    try:
        return (folder / "scores.csv.unfinished").stat().st_size
    except OSError:
        return 0


def summary(looks: list[tuple[float, int, int, float, int]], rows: int, images: int) -> dict[str, Any]:
    """Ranges over the looks between a tenth and the end of the scores written, relative to the median."""
    table = np.array([one for one in looks if one[1]], float)
    done = table[:, 4]
    busy = table[(done > 0.1 * done.max()) & (done < done.max())]
    memory = busy[:, 1]
    parts = [part[-1] - part[0] for part in np.array_split(busy, 10)]
    pace, pace_of_processor = (np.array([part[4] / part[by] for part in parts]) for by in (0, 3))
    return {
        "images": images,
        "rows": rows,
        "seconds": round(float(table[-1, 0]), 1),
        "images per second while scoring": round(0.9 * images / float(busy[-1, 0] - busy[0, 0])),
        "memory, MiB, median": round(float(np.median(memory)) / 2**20),
        "memory, MiB, at most": round(float(table[:, 1].max()) / 2**20),
        "memory, largest deviation": deviation(memory),
        "pace by tenths, largest deviation": deviation(pace),
        "pace by tenths in processor time, largest deviation": deviation(pace_of_processor),
        "open files": f"{int(busy[:, 2].min())} to {int(busy[:, 2].max())}",
    }


def deviation(values: np.ndarray) -> str:
    """The largest deviation from the median, as a share of it."""
    return f"{np.abs(values / np.median(values) - 1).max():.1%}"
