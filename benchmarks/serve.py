"""`python -m benchmarks serve`: the server under load on loopback, compared with the same work in one process.

The command `knowngood serve` runs in a process of its own; clients in threads send requests one after the other over
connections that stay open. A request that gets 503 is sent again after `Retry-After`, and counts as refused, not as an
error. Throughput is compared with `judged` on the same files in batches of the server's size.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from benchmarks.tables import print_table, write_csv
from knowngood import Detector, ImageSet
from knowngood.config import counted
from knowngood.data.pixel_source import FilePixels
from knowngood.deploy.judgement import Asked
from knowngood.deploy.served_model import judged
from knowngood.deploy.served_models import load_model

TRAINED = 200  # images
BATCH = 32
BOUNDARY = "boundary"
SHARE = 0.7  # of the highest throughput, at which latencies are measured
RECIPES = {"hog": ("hog", "memory_bank"), "features": ("features", "patch_gaussian")}


class Answered(NamedTuple):
    """A request: its last status, the seconds until the answer, and how often it was refused before."""

    status: int
    seconds: float
    refused: int


class Server(NamedTuple):
    """A server in a process of its own."""

    url: str
    pid: int


def main(
    seconds: float = 20,
    clients: tuple[int, ...] = (1, 4, 16),
    images: int = 1,
    side: int = 64,
    recipe: str = "hog",
    out: Path = Path("out/benchmarks/serve"),
) -> list[dict[str, Any]]:
    """Errors, throughput and latency by the number of clients, and at 70 % of the highest throughput. Prints the table.

    Args:
        seconds: of each row. images: of a request. side: of a picture, in pixels. recipe: hog or features.
    """
    model = Detector(*RECIPES[recipe], alpha=0.1, calibration={"method": "split"})
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="serve-") as place:
        folder = Path(place)
        model.fit(_pictures(rng, TRAINED, side)).save(folder / "model")
        files = []
        for i, picture in enumerate(_pictures(rng, BATCH, side)):
            files.append(folder / f"{i}.png")
            Image.fromarray(picture).save(files[-1])
        alone = in_process(folder / "model", files, seconds=3.0)
        with served(folder / "model") as (url, _):
            body = form([file.read_bytes() for file in files[:images]])
            loaded(url, body, 1, 1.0)  # warm
            rows = [summary(str(n), *loaded(url, body, n, seconds), images, alone) for n in clients]
            rate = SHARE * max(row["images/s"] for row in rows) / images
            steady = loaded(url, body, max(clients), seconds, rate)
            rows.append(summary(f"{SHARE:.0%} of the highest", *steady, images, alone))
    shown = [[f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    title = f"{counted(images, 'image')} of {side} × {side} a request; in process {alone:,.0f} images/s"
    print_table(list(rows[0]), shown, title)
    write_csv(out / "serve.csv", rows)
    return rows


def in_process(model: Path, files: list[Path], seconds: float) -> float:
    """Images a second without a server."""
    loaded_model, n, done = load_model(model), len(files), 0
    images = ImageSet(FilePixels(tuple(files)), np.arange(n).astype(str), np.full(n, np.nan), {})
    judged(loaded_model, images, Asked())
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        done += len(judged(loaded_model, images, Asked()))
    return done / (time.perf_counter() - started)


@contextmanager
def served(model: Path) -> Iterator[Server]:
    """Within, the command serves this model."""
    command = [sys.executable, "-m", "knowngood", "serve", str(model), "--port", "0", "--batch", str(BATCH)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as server:
        assert server.stderr is not None
        try:
            url = json.loads(server.stderr.readline())["url"]
            log = threading.Thread(target=server.stderr.readlines)
            log.start()
            yield Server(url, server.pid)
        finally:
            server.terminate()
        log.join()


def form(pictures: list[bytes]) -> bytes:
    """The body of a request."""
    file = io.BytesIO()
    for i, content in enumerate(pictures):
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="{i}.png"\r\n\r\n'
        file.write(head.encode() + content + b"\r\n")
    file.write(f"--{BOUNDARY}--\r\n".encode())
    return file.getvalue()


def loaded(
    url: str, body: bytes, clients: int, seconds: float, rate: float | None = None
) -> tuple[list[Answered], float]:
    """The answers to what so many clients send for so long, one request after the other or `rate` a second; and the
    seconds until the last answer.

    At a rate each request has its time, from which its latency counts: waiting for a client that is free is part of it.
    """
    answers, address = list[Answered](), urlsplit(url).netloc
    started, numbers = time.perf_counter(), count()

    def ask() -> None:
        connection = http.client.HTTPConnection(address, timeout=60)
        while True:
            due = time.perf_counter() if rate is None else started + next(numbers) / rate
            if due > started + seconds:
                break
            time.sleep(max(0.0, due - time.perf_counter()))
            late = time.perf_counter() - due
            answer = answered(connection, body)
            answers.append(answer._replace(seconds=answer.seconds + late))
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers, time.perf_counter() - started


def answered(connection: http.client.HTTPConnection, body: bytes) -> Answered:
    """One request, until it is not refused."""
    started, refused = time.perf_counter(), 0
    while True:
        try:
            headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
            connection.request("POST", "/v1/score", body, headers)
            answer = connection.getresponse()
            answer.read()
        except OSError:
            connection.close()
            return Answered(0, time.perf_counter() - started, refused)
        if answer.status != 503:
            return Answered(answer.status, time.perf_counter() - started, refused)
        refused += 1
        time.sleep(float(answer.headers["Retry-After"]))


def summary(clients: str, answers: list[Answered], seconds: float, images: int, alone: float) -> dict[str, Any]:
    """Counts, latencies in ms, and throughput."""
    p50, p99 = 1000 * np.percentile([one.seconds for one in answers], [50, 99])
    pace = images * len(answers) / seconds
    return {
        "clients": clients,
        "requests": len(answers),
        "errors": sum(one.status != 200 for one in answers),
        "refused": sum(one.refused for one in answers),
        "p50 ms": float(p50),
        "p99 ms": float(p99),
        "images/s": pace,
        "÷ in process": pace / alone,
    }


def _pictures(rng: np.random.Generator, n: int, side: int) -> np.ndarray:
    return rng.integers(0, 256, (n, side, side), dtype=np.uint8)
