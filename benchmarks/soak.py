"""`python -m benchmarks soak`: the server under steady load: its memory over time, and how it answers.

Clients send pictures one request after the other, one in ten of them damaged. What is judged is kept for the page, as
by default. Memory is that of the process, sampled every `EVERY` seconds: after the share `WARM` of the time
and at the end.
"""

from __future__ import annotations

import http.client
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from benchmarks.serve import TRAINED, answered, form, served
from benchmarks.tables import print_table, write_csv
from knowngood import Detector

EVERY = 5.0  # seconds
WARM = 0.2  # of the time
SIDE = 64  # pixels
DAMAGED = 10


def main(
    minutes: float = 60.0, clients: int = 2, seed: int = 0, out: Path = Path("out/benchmarks/soak")
) -> dict[str, Any]:
    """Requests, statuses and memory. Prints the table."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        folder = Path(place)
        images = rng.integers(0, 256, (TRAINED, SIDE, SIDE), dtype=np.uint8)
        Detector("hog", "memory_bank", alpha=0.1).fit(images).save(folder / "model")
        bodies = []
        for i in range(DAMAGED):
            Image.fromarray(images[i]).save(folder / "one.png")
            content = (folder / "one.png").read_bytes()
            bodies.append(form([content if i else content[:99]]))
        statuses, memory, stop = Counter[int](), [], time.monotonic() + 60 * minutes
        with served(folder / "model") as (url, pid):

            def ask(start: int) -> None:
                connection, i = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60), start
                while time.monotonic() < stop:
                    statuses[answered(connection, bodies[i % DAMAGED]).status] += 1
                    i += 1
                connection.close()

            threads = [threading.Thread(target=ask, args=(i,)) for i in range(clients)]
            for thread in threads:
                thread.start()
            while time.monotonic() < stop:
                memory.append(resident(pid))
                time.sleep(EVERY)
            for thread in threads:
                thread.join()
    steady = memory[int(len(memory) * WARM) :]
    found: dict[str, Any] = {"minutes": minutes, "requests": sum(statuses.values())}
    found |= {f"status {status}": count for status, count in sorted(statuses.items())}
    found |= {"MB after warm-up": steady[0], "MB at the end": steady[-1], "most MB": max(steady)}
    found["change %"] = 100 * (steady[-1] / steady[0] - 1)
    shown = [f"{value:.1f}" if isinstance(value, float) else f"{value:,}" for value in found.values()]
    print_table(list(found), [shown], "a server under steady load")
    write_csv(out / "soak.csv", [found])
    write_csv(out / "memory.csv", [{"seconds": EVERY * i, "MB": value} for i, value in enumerate(memory)])
    return found


def resident(pid: int) -> float:
    """MB of memory of a process now."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024
