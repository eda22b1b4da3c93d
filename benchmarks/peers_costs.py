"""What `peers` measures beside rates: latency of one image, memory, size of an installation, and the machine itself."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from packaging.requirements import Requirement

from benchmarks import bare

FITS = {  # of one epoch of 10,000 images at batch 64
    "knowngood": "peers.seconds_an_image('vae', images)",
    "pythae": "peers.pythae_seconds('VAE', images)",
}
ABSENT = {"anomalib": "needs torchvision, which this environment leaves out", "anomavision": "needs torchvision"}


def machine(when: str) -> dict[str, Any]:
    """The rates of one thread: products of matrices in float32, and copies of 256 MB."""
    source = np.ones(2**25)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        source.copy()
        seconds.append(time.perf_counter() - started)
    rate, copied = bare.matmul_rate(torch.device("cpu"), torch.float32), source.nbytes / min(seconds)
    said = f"matrix products {rate / 1e9:,.0f} GFLOP/s, copies {copied / 1e9:.1f} GB/s"
    return {"what": f"the machine {when}", "flops": rate, "copied": copied, "said": said}


def latencies(what: str, ours: Callable[[], Any], theirs: Callable[[], Any], calls: int) -> list[dict[str, Any]]:
    """Milliseconds of one image, in turn: a row each with p50 and p99."""
    ours()
    theirs()
    found: dict[str, list[float]] = {"ours": [], what: []}
    for _ in range(calls):
        for name, run in (("ours", ours), (what, theirs)):
            started = time.perf_counter()
            run()
            found[name].append(1000 * (time.perf_counter() - started))
    rows = []
    for name, times in found.items():
        p50, p99 = np.percentile(times, [50, 99])
        said = f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"
        rows.append({"what": f"one image scored, {name}", "p50": p50, "p99": p99, "said": said})
    return rows


def memory(name: str) -> list[dict[str, Any]]:
    """The largest resident set of a process that fits a VAE for an epoch, and what it is before the fit; on Linux.

    Not `ru_maxrss`, which a process inherits from the one that starts it.
    """
    importlib.metadata.version(name)  # PackageNotFoundError is an ImportError
    code = (
        "import os; from benchmarks import bare, peers; from benchmarks.start import used; "
        "images = bare.noise_images(10_000); peak = lambda: used(os.getpid())['MB']; "
        f"before = peak(); {FITS[name]}; print(before, peak())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, peak = map(float, found.stdout.split()[-2:])
    said = f"{peak:,.0f} MiB, {before:,.0f} before the fit"
    return [{"what": f"memory of a fit, {name}", "MiB": peak, "before": before, "said": said}]


def installation(name: str) -> list[dict[str, Any]]:
    """Packages that an installation brings with it, without extras, and the size of their files."""
    needed, waiting = set(), [name]
    while waiting:
        one = importlib.metadata.distribution(waiting.pop())
        if one.metadata["Name"] in needed:
            continue
        needed.add(one.metadata["Name"])
        for text in one.requires or ():
            required = Requirement(text)
            if required.marker is None or required.marker.evaluate({"extra": ""}):
                waiting.append(required.name)
    size = sum(map(_size, needed))
    said = f"{len(needed)} packages, {size / 1e6:,.0f} MB"
    return [{"what": f"installation, {name}", "packages": len(needed), "bytes": size, "said": said}]


def absent(name: str) -> list[dict[str, Any]]:
    """A row that says why a library is not compared."""
    return [{"what": name, "error": f"not compared: {ABSENT[name]}"}]


def _size(name: str) -> int:
    files = [Path(str(one.locate())) for one in importlib.metadata.files(name) or ()]
    return sum(path.stat().st_size for path in files if path.is_file())
