"""`python -m benchmarks start MODEL…`: from nothing to the first verdict, by model folders and by exported files.

Each way runs in a process of its own: `knowngood serve` until it has answered one image, and of an exported file also
`python -m knowngood.runtime` on one image. The clock counts what else runs on the machine, processor time does not.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.serve import BOUNDARY, form
from benchmarks.tables import print_table, write_csv
from knowngood.errors import SettingsError

TICKS = os.sysconf("SC_CLK_TCK")


def main(
    models: tuple[Path, ...] = (Path("runs/parts"), Path("parts.onnx")),
    image: Path = Path("part.png"),
    times: int = 5,
    out: Path = Path("out/benchmarks/start"),
) -> list[dict[str, Any]]:
    """Seconds to the first verdict, the least of several runs, and memory. Prints the table.

    Args:
        models: folders that `train` wrote and files that `export` wrote. image: a picture to judge.
    """
    absent = [str(path) for path in (*models, image) if not path.exists()]
    if absent:
        raise SettingsError(f"{', '.join(absent)}: not there; give --models runs/parts,parts.onnx --image part.png")
    rows = []
    for model in models:
        ways = {"serve": served} | ({"runtime": alone} if model.suffix == ".onnx" else {})
        for name, way in ways.items():
            found = [way(model, image) for _ in range(times)]
            least = {key: min(one[key] for one in found) for key in found[0]}
            rows.append({"way": name, "model": str(model), **least})
    shown = [[f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    print_table(list(rows[0]), shown, f"from start to first verdict, least of {times}")
    write_csv(out / "start.csv", rows)
    return rows


def served(model: Path, image: Path) -> dict[str, float]:
    """`knowngood serve` until it has answered an image."""
    command = [sys.executable, "-m", "knowngood", "serve", str(model), "--port", "0", "--no-keep"]
    started = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            url = json.loads(server.stderr.readline())["url"]
            connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
            headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
            connection.request("POST", "/v1/score", form([image.read_bytes()]), headers)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
            seconds = time.perf_counter() - started
            return {"seconds": seconds, **used(server.pid)}
        finally:
            connection.close()
            server.terminate()
            server.communicate()


ALONE = (
    "import os, sys; from knowngood.runtime.__main__ import main; main(sys.argv[1:]); sys.stdout.flush(); "
    "os.write(1, open('/proc/self/status', 'rb').read())"
)


def alone(model: Path, image: Path) -> dict[str, float]:
    """`python -m knowngood.runtime` on one image."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", ALONE, str(model), str(image)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    line = process.stdout.readline()
    seconds = time.perf_counter() - started
    assert b"p_value" in line, line
    memory = most_memory(process.stdout.read().decode())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {"seconds": seconds, "processor s": usage.ru_utime + usage.ru_stime, "MB": memory}


def used(pid: int) -> dict[str, float]:
    """Processor seconds of a process so far, and the most memory that it had, in MB."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    memory = most_memory(Path(f"/proc/{pid}/status").read_text())
    return {"processor s": (int(fields[11]) + int(fields[12])) / TICKS, "MB": memory}


def most_memory(status: str) -> float:
    """MB, of /proc/PID/status."""
    return int(dict(line.split(":", 1) for line in status.splitlines())["VmHWM"].split()[0]) / 1024
