"""The cost of an objective: the time of its training step divided by that of its parent objective.

All objectives of a net take turns in one process, several times; the result is the median of the ratios within a turn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from benchmarks import bare
from benchmarks.settings import merged
from benchmarks.tables import print_table
from knowngood.config import parse_settings

NETS: dict[str, Any] = {
    "MLP 784-512": {"name": "mlp", "hidden": [512]},
    "MLP 784-512-256": {"name": "mlp", "hidden": [512, 256]},
    "conv 28×28": {"name": "conv"},
}
PARENTS = {"dcvae": "cvae", "tc_vae": "vae", "factor_vae": "vae", "rf_vae": "vae"}
BARS = {("dcvae", "mlp"): 1.5, ("dcvae", "conv"): 1.25, ("factor_vae", "conv"): 2.0}
BATCH, LATENT, CLASSES = 256, 32, 10
IMAGES = 10 * BATCH  # so many of each class that every batch of few Mondrian groups is full: the most expensive case


def compare(
    precisions: list[str], repetitions: int, seconds: float, device: torch.device, batch: int = BATCH
) -> list[dict[str, Any]]:
    """A row for each objective, net and precision: `ratio` is its step's time over its parent's.

    `knowngood.training.train` with its defaults, without the first step. `dcvae` and
    `tc_vae` estimate TC by their default; `dcvae` and `cvae` are conditioned on ten equally frequent classes.
    """
    rows = []
    for net, options in NETS.items():
        for precision in precisions:
            runs = {
                name: _run(name, options, precision, batch, seconds, device)
                for name in dict.fromkeys((*PARENTS.values(), *PARENTS))
            }
            turns = [_turn(runs, turn) for turn in range(repetitions)]
            rows += [_row(name, net, options["name"], precision, batch, turns) for name in PARENTS]
            shown = ", ".join(f"{row['what']} {row['ratio']:.2f}" for row in rows[-len(PARENTS) :])
            print(f"{net}, batch {batch}, {precision}: {shown}", file=sys.stderr)
    return rows


def _run(
    name: str, net: dict[str, Any], precision: str, batch: int, seconds: float, device: torch.device
) -> Callable[[], float]:
    """Trains for about so many seconds and returns those of one step. It has run once, so kernels are warm."""
    model = {"name": "vae", "objective": name, "net": net, "likelihood": "gaussian", "latent_dim": LATENT}
    training = {"batch_size": batch, "precision": precision, "epochs": 1}
    given = {"representation": "pixels", "model": model, "training": training, "device": device.type}
    settings = parse_settings(given)
    pixels = bare.noise_images(IMAGES)
    rate = bare.our_training(pixels, settings, device, CLASSES)
    settings = parse_settings(merged(given, {"training": {"epochs": max(1, round(seconds * rate / IMAGES))}}))
    return lambda: batch / bare.our_training(pixels, settings, device, CLASSES)


def _turn(runs: dict[str, Callable[[], float]], turn: int) -> dict[str, float]:
    """Seconds a step of each objective; the order changes from turn to turn."""
    names = list(runs)
    first = turn % len(names)
    return {name: runs[name]() for name in names[first:] + names[:first]}


def _row(name: str, net: str, kind: str, precision: str, batch: int, turns: list[dict[str, float]]) -> dict[str, Any]:
    parent = PARENTS[name]
    ratios = [turn[name] / turn[parent] for turn in turns]
    return {
        "what": f"{name} ÷ {parent}",
        "net": net,
        "batch": batch,
        "precision": precision,
        "ratio": median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "bar": BARS.get((name, kind)),
        "milliseconds_a_step": 1e3 * median(turn[name] for turn in turns),
        "parent_milliseconds_a_step": 1e3 * median(turn[parent] for turn in turns),
    }


def show(rows: list[dict[str, Any]]) -> None:
    lines = [
        [
            row["what"],
            row["net"],
            str(row["batch"]),
            row["precision"],
            f"{row['ratio']:.2f}",
            f"{row['ratio_low']:.2f}–{row['ratio_high']:.2f}",
            "–" if row["bar"] is None else f"{row['bar']:.2f}",
        ]
        for row in rows
    ]
    columns = ["what", "net", "batch", "precision", "ratio", "range", "bar, at most"]
    print_table(columns, lines, "objective ÷ its parent, time of a training step")
