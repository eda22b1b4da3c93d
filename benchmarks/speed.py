"""`python -m benchmarks speed`: the share of bare torch's speed that training and scoring reach.

Every number is a ratio of two runs in one process, one right after the other, in turn and several times; the median
counts. Absolute times depend on the machine and are only in the CSV.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import bare, speed_objectives, speed_regret
from benchmarks.settings import merged
from benchmarks.tables import print_table, write_csv
from knowngood.config import Elbo, Settings, TrainingOptions, parse_settings
from knowngood.errors import SettingsError
from knowngood.training.engine import make_engine

SHARED: dict[str, Any] = {
    "representation": "pixels",
    "model": {"name": "vae", "objective": "vae", "likelihood": "gaussian", "latent_dim": 32},
}
NETS: dict[str, Any] = {"MLP 784-512": {"name": "mlp", "hidden": [512]}, "conv 28×28": {"name": "conv"}}
BARS = {("training", 64): 0.7, ("training", 256): 0.85, ("scoring", None): 0.85}
STEPS_AN_EPOCH = 8
TRIAL_STEPS = 4
PARTS = ("training", "scoring", "objectives", "regret")
SCORINGS = {"reconstruction": 1, "elbo": Elbo().samples}  # and how often each decodes an image


@dataclass(frozen=True)
class Pair:
    """The library and a bare loop, for the same work on the same net. Both return images per second."""

    what: str
    net: str
    batch: int | None
    precision: str
    flops: float  # an image, of the bare work
    ours: Callable[[], float]
    bare: Callable[[], float]


def main(
    batches: tuple[int, ...] = (64, 256),
    repetitions: int = 5,
    seconds: float = 1.0,
    device: str = "auto",
    parts: tuple[str, ...] = PARTS,
    quick: bool = False,
    out: Path = Path("out/benchmarks/speed"),
) -> list[dict[str, Any]]:
    """Training and scoring compared with bare torch, objectives with their parents; prints and returns the table.

    Training: `knowngood.training.train` with its defaults (average weights, gradient clipping, schedule, logging; no
    files) against a loop of fused AdamW over the same net, batches and pixels held as float32. In float32, with which
    the bars are stated, and also in bf16 where the hardware multiplies it (the bare loop then uses autocast too).
    Scoring: `Detector.score_samples` of uint8 images against encode and decode, as often as the score decodes
    (`reconstruction` once, `elbo` once a draw), on float32 tensors, with the results thrown away.
    The bare loop takes whichever memory layout, or for scoring whichever batch size, is faster for it.
    Objectives and likelihood regret: see `speed_objectives` and `speed_regret`; ratios of times, not of rates.

    Args:
        repetitions: of each pair; ours and bare take turns.
        seconds: about how long one run of one side lasts.
        parts: any of training, scoring, objectives and regret.
        quick: two repetitions of a tenth of a second; only checks that it runs.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise SettingsError(f"parts has no '{unknown[0]}'; known: {', '.join(PARTS)}")
    if quick:
        repetitions, seconds = 2, 0.1
    kind = make_engine(TrainingOptions(precision="float32"), device).device
    precisions = ["float32"]
    if make_engine(TrainingOptions(), device).bf16:
        precisions.append("bf16")
    rows = []
    if {"training", "scoring"} & set(parts):
        rates = {name: bare.matmul_rate(kind, bare.DTYPES[name]) for name in precisions}
        rows = _beside_bare_torch(parts, batches, rates, repetitions, seconds, kind)
        _print(rows, rates)
    if "objectives" in parts:
        costs = speed_objectives.compare(precisions, repetitions, seconds, kind)
        speed_objectives.show(costs)
        rows += costs
    if "regret" in parts:
        costs = speed_regret.compare(repetitions, seconds, kind)
        speed_regret.show(costs)
        rows += costs
    print(f"{kind}, {torch.get_num_threads()} threads, torch {torch.__version__}, {platform.machine()}")
    print(f"peak memory of this process: {peak_memory()}")
    write_csv(out / "speed.csv", rows)
    return rows


def _beside_bare_torch(
    parts: tuple[str, ...],
    batches: tuple[int, ...],
    rates: dict[str, float],
    repetitions: int,
    seconds: float,
    device: torch.device,
) -> list[dict[str, Any]]:
    rows = []
    for name, net in NETS.items():
        shared = merged(SHARED, {"model": {"name": "vae", "net": net}, "device": device.type})
        for precision in rates if "training" in parts else ():
            for batch in batches:
                settings = parse_settings(merged(shared, {"training": {"precision": precision, "batch_size": batch}}))
                rows.append(_compare(_training(name, settings, device, seconds), repetitions, rates[precision]))
        for scoring in SCORINGS if "scoring" in parts else ():
            settings = parse_settings(
                merged(shared, {"training": {"precision": "float32", "epochs": 1}, "score": scoring})
            )
            rows.append(_compare(_scoring(name, settings, device, seconds), repetitions, rates["float32"]))
    return rows


def with_epochs(settings: Settings, epochs: int) -> Settings:
    """The settings with another number of epochs."""
    return settings.model_copy(update={"training": settings.training.model_copy(update={"epochs": epochs})})


def _training(name: str, settings: Settings, device: torch.device, seconds: float) -> Pair:
    pixels = bare.noise_images(settings.training.batch_size * STEPS_AN_EPOCH)
    layouts = [torch.contiguous_format] + ([torch.channels_last] if name.startswith("conv") else [])
    trials = {layout: bare.train(pixels, settings, TRIAL_STEPS, device, layout) for layout in layouts}
    layout = max(trials, key=lambda key: trials[key])
    epochs = max(1, round(seconds * trials[layout] / len(pixels)))
    settings = with_epochs(settings, epochs)
    return Pair(
        what="training",
        net=name,
        batch=settings.training.batch_size,
        precision=settings.training.precision,
        flops=bare.training_flops(settings, settings.training.batch_size),
        ours=lambda: bare.our_training(pixels, settings, device),
        bare=lambda: bare.train(pixels, settings, epochs * STEPS_AN_EPOCH, device, layout),
    )


def _scoring(name: str, settings: Settings, device: torch.device, seconds: float) -> Pair:
    from knowngood.detector.estimator import Detector

    assert not isinstance(settings.score, str)
    decodes = SCORINGS[settings.score.name]
    detector = Detector.from_settings(settings).fit(bare.noise_images(512))
    model, trial = detector.model_, bare.noise_images(512)
    rates = {size: bare.forward(model, trial, size, decodes, device) for size in (128, 512)}
    size = max(rates, key=lambda key: rates[key])
    pixels = bare.noise_images(512 * min(128, max(1, round(seconds * rates[size] / 512))))
    return Pair(
        what=f"scoring, {settings.score.name}",
        net=name,
        batch=None,
        precision="float32",
        flops=bare.forward_flops(settings, decodes),
        ours=lambda: bare.our_scoring(detector, pixels),
        bare=lambda: bare.forward(model, pixels, size, decodes, device),
    )


def _compare(pair: Pair, repetitions: int, rate: float) -> dict[str, Any]:
    """Both sides in turn, alternating which runs first; medians. `rate` is the machine's, in FLOP/s."""
    pair.ours()  # allocators and kernels are warm from here on
    pair.bare()
    ours, other = [], []
    for repetition in range(repetitions):
        for side in (0, 1) if repetition % 2 else (1, 0):
            (ours if side else other).append((pair.ours if side else pair.bare)())
    ratios = [a / b for a, b in zip(ours, other, strict=True)]
    kind = pair.what.split(",")[0]
    print(
        f"{pair.what}, {pair.net}, batch {pair.batch or '–'}, {pair.precision}: {median(ratios):.2f}", file=sys.stderr
    )
    return {
        "what": pair.what,
        "net": pair.net,
        "batch": pair.batch,
        "precision": pair.precision,
        "ratio": median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "bar": BARS.get((kind, pair.batch)) if pair.precision == "float32" else None,
        "share_of_matmul_rate": median(ours) * pair.flops / rate,
        "bare_share_of_matmul_rate": median(other) * pair.flops / rate,
        "images_per_second": median(ours),
        "bare_images_per_second": median(other),
        "flops_an_image": pair.flops,
    }


def _print(rows: list[dict[str, Any]], rates: dict[str, float]) -> None:
    lines = [
        [
            row["what"],
            row["net"],
            str(row["batch"] or "–"),
            row["precision"],
            f"{row['ratio']:.2f}",
            f"{row['ratio_low']:.2f}–{row['ratio_high']:.2f}",
            "–" if row["bar"] is None else f"{row['bar']:.2f}",
            f"{row['share_of_matmul_rate']:.1%}",
            f"{row['bare_share_of_matmul_rate']:.1%}",
        ]
        for row in rows
    ]
    columns = ["what", "net", "batch", "precision", "ratio", "range", "bar", "of matmul rate", "bare loop's"]
    print_table(columns, lines, "knowngood ÷ bare torch, images a second")
    measured = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s {name}" for name, rate in rates.items())
    print(f"matrix products of 2,048 × 2,048, measured in this run: {measured}")


def peak_memory() -> str:
    """The largest resident set so far, and the largest allocation on a CUDA device."""
    try:
        import resource
    except ImportError:  # Windows
        return "not known on this system"
    unit = 1 if sys.platform == "darwin" else 1024
    text = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:,.0f} MiB"
    if torch.cuda.is_available():
        text += f", on the device {torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB"
    return text
