"""`python -m benchmarks growth`: how the cost of fit and score grows with images, pixels, D, batch, conditions, bank.

One quantity changes at a time. Costs are processor seconds, which other jobs of the machine change little. The
exponent e of cost ~ quantity^e is the least-squares slope of log cost on log quantity over the larger half of the
values, where fixed costs count least.
"""

from __future__ import annotations

import gc
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from benchmarks.settings import merged
from benchmarks.tables import print_table, write_csv
from knowngood import Detector
from knowngood.errors import SettingsError

Row = dict[str, Any]
SCORED = 64  # images
FEATURES: dict[str, Any] = {"representation": {"name": "features", "image_size": 128, "align": "none"}}
VAE: dict[str, Any] = {
    "representation": "pixels",
    "model": {"name": "vae", "likelihood": "gaussian", "latent_dim": 32, "net": {"name": "mlp", "hidden": [512]}},
    "training": {"epochs": 2, "patience": None},
}
BANK: dict[str, Any] = {"representation": "hog", "model": "memory_bank"}


class Case(NamedTuple):
    """One fit and one scoring run. The condition of an image is its number modulo `kinds`; scored images have none."""

    settings: dict[str, Any]
    images: int
    side: int
    kinds: int = 1
    scored: int = SCORED


class Part(NamedTuple):
    """What changes, over which values, and the case each of them makes."""

    what: str
    values: tuple[int, ...]
    case: Callable[[int], Case]


def _sides(settings: dict[str, Any], images: int) -> Callable[[int], Case]:
    return lambda side: Case(settings, images, side)


PARTS: dict[str, Part] = {
    "images-features": Part("images", (25, 50, 100, 200, 400), lambda n: Case(FEATURES, n, 128, scored=n)),
    "images-vae": Part("images", (500, 1000, 2000, 4000, 8000), lambda n: Case(VAE, n, 28, scored=n)),
    "images-hog": Part("images", (250, 500, 1000, 2000, 4000), lambda n: Case(BANK, n, 28, scored=1000)),
    "pixels-features": Part(
        "side, squared",
        (64, 96, 128, 192, 256),
        lambda side: Case(merged(FEATURES, {"representation": {"image_size": side}}), 25, side),
    ),
    "pixels-vae": Part("side, squared", (16, 28, 40, 56, 80), _sides(VAE, 1000)),
    "latent-vae": Part(
        "D", (8, 16, 32, 64, 128), lambda d: Case(merged(VAE, {"model": {"latent_dim": d}}), 2000, 28, scored=2000)
    ),
    "batch-vae": Part(
        "batch", (16, 32, 64, 128, 256), lambda b: Case(merged(VAE, {"training": {"batch_size": b}}), 4000, 28)
    ),
    "conditions-features": Part("conditions", (1, 2, 4, 8), lambda k: Case(FEATURES, 25 * k, 128, k)),
    "conditions-cvae": Part(
        "conditions",
        (1, 2, 4, 8),
        lambda k: Case(merged(VAE, {"model": {"objective": "cvae" if k > 1 else "vae"}}), 2000, 28, k, 1000),
    ),
    "bank-features": Part(
        "rows",
        (250, 500, 1000, 2000, 4000),
        lambda rows: Case(merged(FEATURES, {"model": {"name": "patch_gaussian", "neighbours": rows}}), 100, 128),
    ),
}


def main(
    parts: tuple[str, ...] = tuple(PARTS),
    repetitions: int = 2,
    quick: bool = False,
    out: Path = Path("out/benchmarks/growth"),
) -> list[Row]:
    """Processor seconds of fit and scoring, and exponents. Prints the table, writes it and a picture, returns the rows.

    Args:
        parts: what changes; the names are in the table.
        repetitions: of every measurement; the least counts.
        quick: the two smallest values of each part, once; only checks that it runs.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise SettingsError(f"parts has no '{unknown[0]}'; known: {', '.join(PARTS)}")
    rows = []
    for name in parts:
        part = PARTS[name]
        measured(part.case(part.values[0]))  # so that nothing is imported or compiled while it counts
        for value in part.values[:2] if quick else part.values:
            found = [measured(part.case(value)) for _ in range(1 if quick else repetitions)]
            fit, score = (min(each) for each in zip(*found, strict=True))
            rows.append({"part": name, "quantity": part.what, "value": value, "fit": fit, "score": score})
            print(f"{name} {value}: fit {fit:.2f} s, score {score:.3f} s", file=sys.stderr)
    write_csv(out / "growth.csv", rows)
    write_curves(rows, out / "growth.png")
    columns = ("what changes", "values", "fit, s", "exponent", "score, s", "exponent")
    print_table(columns, list(lines(rows)), "Processor seconds, and exponents of the larger half")
    return rows


def measured(case: Case) -> tuple[float, float]:
    """Processor seconds of a fit and of scoring, each from arrays in memory."""
    every = pictures(max(case.images, case.scored), case.side)
    x = every[: case.images]
    conditions = {"kind": np.arange(len(x)) % case.kinds} if case.kinds > 1 else None
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that few images calibrate
        start = time.process_time()
        detector = Detector(**merged({"conditioning": {"unknown": "infer"}}, case.settings)).fit(
            x, conditions=conditions
        )
        middle = time.process_time()
        detector.score_samples(every[: case.scored])
    return middle - start, time.process_time() - middle


def pictures(n: int, side: int) -> np.ndarray:
    """(n, side, side) uint8: blurred noise, different each time it is drawn but for the seed."""
    rng = np.random.default_rng(0)
    coarse = rng.random((n, 1 + side // 8, 1 + side // 8), dtype=np.float32)
    fine = coarse.repeat(8, 1).repeat(8, 2)[:, :side, :side]
    noise = rng.random((n, side, side), dtype=np.float32)
    return (200 * fine + 55 * noise).astype(np.uint8)


def exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log cost on log value over the larger half of the values, at least two."""
    last = slice(-max(2, (len(values) + 1) // 2), None)
    return float(np.polyfit(np.log(values[last]), np.log(costs[last]), 1)[0])


def lines(rows: Sequence[Row]) -> Iterator[list[str]]:
    """A line of the table for each part."""
    for name in dict.fromkeys(row["part"] for row in rows):
        some = [row for row in rows if row["part"] == name]
        values = [float(row["value"]) ** (2 if "squared" in row["quantity"] else 1) for row in some]
        line = [name, ", ".join(str(row["value"]) for row in some)]
        for cost in ("fit", "score"):
            costs = [row[cost] for row in some]
            line += [", ".join(f"{one:.3g}" for one in costs), f"{exponent(values, costs):.2f}"]
        yield line


def write_curves(rows: Sequence[Row], path: Path) -> Path:
    """A PNG with a panel for each part: costs over the quantity, both logarithmic; the grey line is proportional."""
    names = list(dict.fromkeys(row["part"] for row in rows))
    across = 4
    down = -(-len(names) // across)
    figure = Figure(figsize=(2.6 * across, 2.3 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False)
    for panel in panels.flat[len(names) :]:
        panel.set_visible(False)
    for panel, name in zip(panels.flat, names, strict=False):
        some = [row for row in rows if row["part"] == name]
        values = np.array([row["value"] for row in some], float)
        for cost, colour in (("fit", "#0072b2"), ("score", "#d55e00")):
            panel.loglog(values, [row[cost] for row in some], "o-", color=colour, markersize=3, label=cost)
        power = 2 if "squared" in some[0]["quantity"] else 1
        panel.loglog(values, some[-1]["fit"] * (values / values[-1]) ** power, color="#999999", linewidth=0.6)
        panel.set_title(name, fontsize=9)
        panel.set_xlabel(some[0]["quantity"].removesuffix(", squared"), fontsize=8)
        panel.set_xticks(values, [f"{value:g}" for value in values])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.tick_params(labelsize=7)
    panels.flat[0].legend(fontsize=7)
    figure.supylabel("processor seconds", fontsize=8)
    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
