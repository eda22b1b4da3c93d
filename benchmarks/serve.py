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
    requests: int = 300,
    clients: tuple[int, ...] = (1, 4, 16),
    images: int = 1,
    side: int = 64,
    out: Path = Path("out/benchmarks/serve"),
) -> list[dict[str, Any]]:
    """Errors, throughput and latency by the number of clients. Prints the table.

    Args:
        images: of a request. side: of a picture, in pixels.
    """
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="serve-") as place:
        folder = Path(place)
        Detector("hog", "memory_bank", alpha=0.1).fit(_pictures(rng, TRAINED, side)).save(folder / "model")
        files = []
        for i, picture in enumerate(_pictures(rng, BATCH, side)):
            files.append(folder / f"{i}.png")
            Image.fromarray(picture).save(files[-1])
        alone = in_process(folder / "model", files, seconds=3.0)
        rows = []
        with served(folder / "model") as (url, _):
            body = form([file.read_bytes() for file in files[:images]])
            loaded(url, body, 10, 1)  # warm
            for n in clients:
                started = time.perf_counter()
                answers = loaded(url, body, requests, n)
                pace = images * len(answers) / (time.perf_counter() - started)
                rows.append({"clients": n, **summary(answers), "images/s": pace, "÷ in process": pace / alone})
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


def loaded(url: str, body: bytes, requests: int, clients: int) -> list[Answered]:
    """The answers to so many requests by so many clients."""
    left, answers, address = iter(range(requests)), list[Answered](), urlsplit(url).netloc

    def ask() -> None:
        connection = http.client.HTTPConnection(address, timeout=60)
        for _ in left:
            answers.append(answered(connection, body))
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


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


def summary(answers: list[Answered]) -> dict[str, Any]:
    """Counts, and latencies in ms."""
    p50, p99 = 1000 * np.percentile([one.seconds for one in answers], [50, 99])
    return {
        "requests": len(answers),
        "errors": sum(one.status != 200 for one in answers),
        "refused": sum(one.refused for one in answers),
        "p50 ms": float(p50),
        "p99 ms": float(p99),
    }


def _pictures(rng: np.random.Generator, n: int, side: int) -> np.ndarray:
    return rng.integers(0, 256, (n, side, side), dtype=np.uint8)
