"""`python -m benchmarks disentanglement`: which methods disentangle the generated factors, within one stated budget.

The images: the data set `factors`, the dSprites grid, at 32 px. A run learns from `steps` × 64 of them, drawn at
random from the whole grid by its seed, each drawn once and rendered when its batch is made; beyond 10,000 steps the
same 640,000 are seen again. All methods have one net, a Bernoulli likelihood, ten dimensions, batches of 64, Adam at a
constant rate, no averaged weights and no clipping, as in the literature. Nothing is held out: the metrics measure what
the codes of the grid's images contain about factors that no method is given. The exceptions are cvae and dcvae, which
get the shape as their condition c; dcvae's total correlation is that within a shape.

Each model is therefore evaluated within every shape separately, on scale, rotation, x and y, and the result is the mean
over the three shapes. Where the shape is not given, it is also evaluated on all five factors, as in the literature.
Metrics are of posterior means. Only the total correlation is of one draw from each posterior, since the means of
inactive dimensions carry no information. Every run is evaluated on the same images.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.grid import ALL, WITHIN, GridSource, encoder, judge
from benchmarks.runner import RESULTS, append, code_version, essence, read_results
from benchmarks.tables import print_table, write_csv
from knowngood.config import Settings, VAEOptions, nearest, parse_settings
from knowngood.data.datasets.factors import COUNT
from knowngood.data.datasets.sprites import SHAPES
from knowngood.errors import SettingsError, TrainingError
from knowngood.models.vae import ConditionalVAE
from knowngood.training import train
from knowngood.training.engine import make_engine

Row = dict[str, Any]

HERE = Path(__file__).parent
CODE = ("disentanglement.py", "grid.py", "generated_factors.py")

METHODS: dict[str, dict[str, Any]] = {  # weights as the methods' papers choose them on dSprites
    "factor_vae": {"gamma": 35.0},  # arXiv:1802.05983
    "tc_vae": {"beta": 6.0},  # arXiv:1802.04942
    "dcvae": {"beta": 6.0},  # as tc_vae, whose penalty is the same but for the shape
    "vae": {},
    "beta_vae": {"beta": 4.0},  # Higgins et al. 2017; the best of 1802.05983
    "cvae": {},
}
SHARED: dict[str, Any] = {
    "batch_size": 64,
    "lr_secondary": 1e-4,  # of the discriminator, as in the literature
    "schedule": "constant",
    "warmup": 0.0,
    "beta2": 0.999,
    "ema": None,
    "clip": None,
    "patience": None,
}
CHANNELS = {16: (32, 64), 32: (16, 32, 64), 64: (8, 16, 32, 64)}  # down to 4×4 maps of 64, as in the literature
DENSE = 128
LR = 1e-3
LONG, LONG_LR = 100_000, 1e-4  # from so many steps on the rate of the literature, which trains for 300,000
AN_EPOCH = 10_000  # most steps without seeing an image twice
ITEMS, GROUPS = 10_000, 800  # images for the metrics, and groups of 64 for the FactorVAE score
BUDGET = ("method", "steps", "minutes", "CPU ms a step", "threads", "on", "reconstruction, nats", "KL, nats", "active")
SHOWN = {
    "factor_vae_score": "FactorVAE score",
    "mig": "MIG",
    "sap": "SAP",
    "modularity": "modularity",
    "disentanglement": "DCI D",
    "completeness": "DCI C",
    "informativeness": "DCI I",
    "tc": "TC, nats",
}


def main(
    methods: tuple[str, ...] = tuple(METHODS),
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 10_000,
    size: int = 32,
    gamma: float | None = None,
    beta: float | None = None,
    lr: float | None = None,
    device: str = "cpu",
    quick: bool = False,
    show: bool = False,
    out: Path = Path("out/benchmarks/disentanglement"),
) -> list[Row]:
    """Train and evaluate every method with every seed, one seed after the other; prints the medians, returns the runs.

    A finished run is a line of `results.jsonl` and is not repeated; one that was stopped continues from its checkpoint
    in `runs/`, where its log and its last weights stay.

    Args:
        steps: of each run; beyond 10,000 a multiple of it.
        size: pixels, 64, 32 or 16.
        gamma: of factor_vae, instead of 35.
        beta: of tc_vae, dcvae and beta_vae, instead of 6, 6 and 4.
        lr: of the model; default 1e-3, and 1e-4 from 100,000 steps on. The discriminator's is 1e-4.
        quick: one seed, 60 steps, few test images; only checks that it runs.
        show: only the tables of finished measurements; nothing is trained.
    """
    items, groups = ITEMS, GROUPS
    if quick:
        seeds, steps, items, groups = seeds[:1], 60, 2_000, 200
    chosen = {name: settings_of(name, steps, size, gamma=gamma, beta=beta, lr=lr, device=device) for name in methods}
    out.mkdir(parents=True, exist_ok=True)
    done, rows = read_results(out / RESULTS), []
    failed: dict[str, str] = {}
    for seed in seeds:
        for name, settings in chosen.items():
            key = key_of(settings, seed, steps, size, items, groups)
            if key not in done and show:
                continue
            if key not in done:
                folder = out / "runs" / f"{name}-{seed}-{key[:8]}"
                try:
                    found = run(settings, seed, steps, size, items, groups, folder)
                except TrainingError as error:
                    _tell(f"{name}, seed {seed}: {error}")
                    failed[name] = str(error)
                    continue
                done[key] = append(out / RESULTS, {"key": key, "code": code_version(), "method": name, **found})
            rows.append(done[key])
            within = rows[-1][WITHIN]
            _tell(
                f"{name}, seed {seed}: FactorVAE score {within['factor_vae_score']:.3f}, MIG {within['mig']:.3f} "
                f"within shape, {rows[-1]['seconds']:.0f} s of training"
            )
    _show(rows, out)
    if never := failed.keys() - {row["method"] for row in rows}:
        raise TrainingError("\n".join(f"{name}: every run failed: {failed[name]}" for name in sorted(never)))
    return rows


def settings_of(
    name: str,
    steps: int,
    size: int,
    *,
    gamma: float | None = None,
    beta: float | None = None,
    lr: float | None = None,
    device: str = "cpu",
) -> Settings:
    """The settings of a run, with the given weights and rate where they apply and are not None.

    Raises:
        SettingsError: an unknown method, a size or a number of steps that cannot be had.
    """
    if name not in METHODS:
        raise SettingsError(f"unknown method '{name}'" + nearest(name, list(METHODS)))
    if size not in CHANNELS:
        raise SettingsError(f"size = {size}; the factor set has 64, 32 or 16 pixels")
    if steps < 1 or (steps > AN_EPOCH and steps % AN_EPOCH):
        raise SettingsError(f"steps = {steps:,}; expected at most {AN_EPOCH:,}, or a multiple of that")
    given = {"gamma": gamma, "beta": beta}
    weights = {weight: usual if given[weight] is None else given[weight] for weight, usual in METHODS[name].items()}
    net = {"name": "conv", "channels": CHANNELS[size], "dense": DENSE}
    objective = {"name": name, **weights}
    model = {"name": "vae", "objective": objective, "net": net, "likelihood": "bernoulli", "latent_dim": 10}
    own = {"lr": lr or (LONG_LR if steps >= LONG else LR), "epochs": max(1, steps // AN_EPOCH)}
    return parse_settings({"representation": "pixels", "model": model, "training": {**SHARED, **own}, "device": device})


def run(settings: Settings, seed: int, steps: int, size: int, items: int, groups: int, folder: Path) -> Row:
    """One model, trained (or trained further) and evaluated."""
    rows = np.random.default_rng(seed).choice(COUNT, min(steps, AN_EPOCH) * settings.training.batch_size, replace=False)
    source = GridSource(rows, size)
    model = make_model(settings, seed, size)
    fingerprint = f"factor set at {size} pixels, {len(rows)} images"
    clock: list[float] = []
    history = train(
        model,
        vae_options(settings).objective.build(),
        source,
        None,
        settings.training,
        seed=seed,
        device=settings.device,
        settings=settings.model_dump(mode="json"),
        run_dir=folder,
        resume=True,
        progress=sys.stderr.isatty(),
        on_step=lambda step: clock.append(time.process_time()),
        fingerprint=fingerprint,
    )
    engine = make_engine(settings.training, settings.device)
    last = next(row for row in reversed(history.steps) if row["split"] == "train")
    return {
        "seed": seed,
        "steps": last["step"],
        "size": size,
        "images": len(rows),
        "settings": settings.model_dump(mode="json"),
        "device": engine.device.type,
        "precision": "bf16" if engine.bf16 else "float32",
        "threads": torch.get_num_threads(),
        "seconds": history.seconds,
        "cpu_ms_a_step": 1000 * (clock[-1] - clock[0]) / (len(clock) - 1) if len(clock) > 1 else None,
        "reconstruction": last["reconstruction"],
        "kl": last["kl"],
        **judge(encoder(model, size, engine.device), items, groups, conditional=model.condition_dim > 0),
    }


def make_model(settings: Settings, seed: int, size: int) -> ConditionalVAE:
    """The untrained model of a seed; one that is conditional has the shape as its condition."""
    options = vae_options(settings)
    width = len(SHAPES) if options.objective.build().conditional else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConditionalVAE(options.model_copy(update={"prior": "standard"}), (1, size, size), width)


def vae_options(settings: Settings) -> VAEOptions:
    """The model's options."""
    assert isinstance(settings.model, VAEOptions)
    return settings.model


def key_of(settings: Settings, seed: int, steps: int, size: int, items: int, groups: int) -> str:
    """Hash (hex) of all that the numbers of a run depend on."""
    engine = make_engine(settings.training, settings.device)
    where = [engine.device.type, engine.bf16]
    code = [code_version(), *(essence((HERE / name).read_text(encoding="utf-8")) for name in CODE)]
    content = [settings.model_dump(mode="json"), seed, steps, size, items, groups, where, code]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def _show(rows: Sequence[Row], out: Path) -> None:
    """`cells.csv`, a row a run; `table.csv`, medians, smallest and largest; and the tables on the screen."""
    by_method = {name: [row for row in rows if row["method"] == name] for name in METHODS}
    found = {name: runs for name, runs in by_method.items() if runs}
    write_csv(out / "cells.csv", [_flat(row) for row in rows])
    write_csv(out / "table.csv", [_summary(runs) for runs in found.values()])
    for part, title in ((WITHIN, "scale, rotation, x and y within each shape"), (ALL, "all five factors")):
        lines = [
            [name, str(len(runs)), *(_spread([row[part][metric] for row in runs]) for metric in SHOWN)]
            for name, runs in found.items()
            if runs[0][part] is not None
        ]
        if lines:
            print_table(["method", "seeds", *SHOWN.values()], lines, f"Median over seeds (range): {title}")
    lines = [
        [
            name,
            f"{runs[0]['steps']:,}",
            _spread([row["seconds"] / 60 for row in runs], 1),
            _spread([row["cpu_ms_a_step"] for row in runs if row["cpu_ms_a_step"]], 0),
            str(runs[0]["threads"]),
            f"{runs[0]['device']}, {runs[0]['precision']}",
            _spread([row["reconstruction"] for row in runs], 1),
            _spread([row["kl"] for row in runs], 1),
            _spread([row[WITHIN]["active"] for row in runs], 1),
        ]
        for name, runs in found.items()
    ]
    if lines:
        print_table(BUDGET, lines, "Budget of a run, and where training ended")


def _flat(row: Row) -> Row:
    names = ("method", "seed", "steps", "size", "device", "precision", "threads", "seconds", "cpu_ms_a_step")
    names += ("reconstruction", "kl")
    parts = {f"{name}, {part}": value for part in (WITHIN, ALL) for name, value in (row[part] or {}).items()}
    return {**{name: row[name] for name in names}, **parts, "key": row["key"]}


def _summary(runs: Sequence[Row]) -> Row:
    flat = [_flat(row) for row in runs]
    line: Row = {"method": flat[0]["method"], "n": len(flat)}
    for name, value in flat[0].items():
        if isinstance(value, float):
            values = [row[name] for row in flat if row[name] is not None]
            line |= {name: median(values), f"{name}, least": min(values), f"{name}, most": max(values)}
    return line


def _spread(values: Sequence[float], digits: int = 2) -> str:
    """ "0.61 (0.55–0.70)", without the range of one run; "–" for none."""
    if not values:
        return "–"
    middle, low, high = (f"{value:.{digits}f}" for value in (median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low}–{high})"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
