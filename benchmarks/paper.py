"""`python -m benchmarks paper`: the methods of the dCVAE paper's comparison on its data sets, one class held out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from benchmarks import paper_tables, picks, protocols, runner
from benchmarks.commands import command_line
from benchmarks.methods import Method
from benchmarks.paper_page import write_page
from benchmarks.paper_tables import MEASURES
from benchmarks.protocols import Cell, Form
from benchmarks.settings import chosen_settings, merged
from benchmarks.tables import print_table, write_csv
from benchmarks.workers import cores
from knowngood.config import VAEOptions, choices, nearest, parse_settings
from knowngood.config.presets import read_preset
from knowngood.errors import DataError, SettingsError

OBJECTIVES = ("vae", "cvae", "beta_vae", "factor_vae", "rf_vae", "dcvae")
WITH_BETA, WITH_DISCRIMINATOR = ("beta_vae", "dcvae"), ("factor_vae", "rf_vae")
# Our defaults, on this net; objectives are compared by what they minimise.
OURS: dict[str, dict[str, Any]] = {
    "ours-mlp": {"representation": "pixels", "model": {"name": "vae", "net": "mlp"}, "score": "elbo"},
    "ours": {"representation": "pixels", "model": "vae", "score": "elbo"},
}
QUICK: dict[str, Any] = {"classes": 3, "train_size": 5000, "test_size": 500, "epochs": 2, "width": 256}
EXTRA = "benchmarks.paper_measures:measure_more"
# AUROC in the paper's class-conditional table, whose protocol it does not define.
PUBLISHED = {
    "emnist": {"dcvae": 0.790, "vae": 0.672, "cvae": 0.660, "factor_vae": 0.629, "beta_vae": 0.651, "rf_vae": 0.550},
    "kmnist": {"dcvae": 0.610, "vae": 0.511, "cvae": 0.424, "factor_vae": 0.492, "beta_vae": 0.500, "rf_vae": 0.495},
}


def main(
    datasets: tuple[str, ...] = ("mnist", "fashion-mnist", "kmnist", "emnist"),
    objectives: tuple[str, ...] = OBJECTIVES,
    all: bool = False,
    presets: tuple[str, ...] = ("paper-mlp", "ours-mlp"),
    baselines: tuple[str, ...] = ("PPCA 32",),
    held_out: tuple[str, ...] | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    form: Form = "test",
    train_size: int | None = None,
    test_size: int | None = None,
    beta: float = 2.0,
    discriminator_width: int = 1000,
    epochs: int | None = None,
    config: Path | None = None,
    scoring: str | None = None,
    device: str | None = None,
    jobs: int | None = None,
    quick: bool = False,
    show: bool = False,
    out: Path = Path("out/benchmarks/paper"),
) -> list[dict[str, Any]]:
    """The paper's objectives under its settings and under ours, on `protocols.leave_one_out`.

    Writes cells.csv (a row a measurement), table.csv (a row a data set and method), classes.csv (by class held out),
    ranking.csv (over data sets) and paper.html, also when it is interrupted; prints and returns the rows of table.csv.

    Args:
        all: every objective there is, instead of `objectives`.
        presets: settings that all objectives share: names of presets, "ours-mlp" for the library's defaults on the net
            mlp, "ours" for its defaults.
        held_out: the classes to hold out, one after the other; default all that the data set has.
        train_size, test_size: as in the protocol; default all images.
        beta: β of beta_vae and of dcvae, as in the paper's command.
        discriminator_width: of the six layers of factor_vae's and rf_vae's discriminators.
        epochs, config, scoring, device: over every preset.
        jobs: number of processes that measure at the same time; default one a core.
        quick: three classes, one seed, 5,000 training images, two epochs, small discriminators, to see that it runs; no
            number of it means anything.
        show: write the tables of finished measurements, measure nothing.
    """
    command = command_line("paper", main, locals())
    objectives = tuple(choices(VAEOptions, "objective")) if all else objectives
    if quick:
        seeds, epochs, train_size, test_size = seeds[:1], QUICK["epochs"], QUICK["train_size"], QUICK["test_size"]
        discriminator_width = min(discriminator_width, QUICK["width"])
    shared = {"epochs": epochs, "score": scoring, "device": device, "conditioning": {"unknown": "infer"}}
    options = {name: {"beta": beta} for name in WITH_BETA}
    options |= {name: {"discriminator_width": discriminator_width} for name in WITH_DISCRIMINATOR}
    methods, refused = methods_of(objectives, presets, baselines, config, options, shared)
    sizes = {"train_size": train_size, "test_size": test_size}
    cells, absent = cells_of(datasets, held_out, seeds, form, sizes, QUICK["classes"] if quick else None)
    results = [gone(form, name, method.name, why) for name, why in absent.items() for method in methods]
    there = dict.fromkeys(cell.dataset for cell in cells)
    results += [gone(form, name, method, why) for name in there for method, why in refused.items()]
    for name in there:
        stated = ", ".join(f"{objective} {value:.3f}" for objective, value in PUBLISHED.get(name, {}).items())
        if stated:
            results.append(gone(form, name, "the paper", f"AUROC {stated}; the protocol is not stated"))
    try:
        found = runner.run(cells, methods, out, jobs=cores() if jobs is None else jobs, measuring=not show)
    except KeyboardInterrupt:
        found = runner.run(cells, methods, out, measuring=False)
        report(found + results, out, command, form, quick, sizes)
        raise
    return report(found + results, out, command, form, quick, sizes)


def methods_of(
    objectives: Sequence[str],
    presets: Sequence[str],
    baselines: Sequence[str],
    config: Path | None,
    options: dict[str, dict[str, Any]],
    shared: dict[str, Any],
) -> tuple[list[Method], dict[str, str]]:
    """A method for each preset and objective, then the baselines; and why some cannot be, by name.

    Args:
        options: of objectives, by name.
        shared: settings over those of every preset.

    Raises:
        SettingsError: an objective, preset or baseline that is not known, or settings that fit no objective at all.
    """
    known = choices(VAEOptions, "objective")
    methods, refused = [], {}
    for preset in presets:
        for name in objectives:
            if name not in known:
                raise SettingsError(f"unknown objective '{name}'{nearest(name, list(known))}")
            base = {} if preset in OURS else read_preset(preset, {"model": {"objective": name}})
            over = {"model": {"name": "vae", "objective": {"name": name, **options.get(name, {})}}, **shared}
            settings = merged(OURS.get(preset, {}), base, chosen_settings(None, config, **over))
            method = Method(f"{preset}: {name}", settings, command="python -m benchmarks paper", extra=EXTRA)
            try:
                parse_settings(settings)
            except SettingsError as error:
                refused[method.name] = str(error)
                continue
            methods.append(method)
    if refused and not methods:
        raise SettingsError(next(iter(refused.values())))
    return methods + [Method(name, chosen_settings(None, config), baseline=name) for name in baselines], refused


def cells_of(
    datasets: Sequence[str],
    held_out: Sequence[str] | None,
    seeds: Sequence[int],
    form: Form,
    sizes: dict[str, int | None],
    most: int | None,
) -> tuple[list[Cell], dict[str, str]]:
    """Cells in an order that keeps what is done balanced, and why data sets are missing, by name.

    All of the first seed come first; within a seed the first class of every data set, then the second.
    """
    absent: dict[str, str] = {}
    classes: dict[str, list[str]] = {}
    for name in datasets:
        try:
            classes[name] = class_names(name)
        except DataError as error:
            absent[name] = f"missing: {error}"
    cells = []
    for seed in seeds:
        columns = [
            protocols.leave_one_out(name, held_out or own[:most], classes=own, seeds=(seed,), form=form, **sizes)
            for name, own in classes.items()
        ]
        cells += [cell for row in zip_longest(*columns) for cell in row if cell is not None]
    return cells, absent


def class_names(dataset: str) -> list[str]:
    """The classes of a data set, numbers in their order.

    Raises:
        DataError: it is not here, or names no classes.
    """
    return picks.class_names(runner.open_whole(dataset, download=False))


def gone(form: str, dataset: str, method: str, why: str) -> dict[str, Any]:
    """The record of a method on a data set where there is nothing to measure."""
    head = {"protocol": "leave-one-out", "form": form, "dataset": dataset, "normal": None, "anomalous": None}
    return {**head, "method": method, "seed": None, "error": why}


def report(
    results: Sequence[dict[str, Any]], out: Path, command: str, form: str, quick: bool, sizes: dict[str, int | None]
) -> list[dict[str, Any]]:
    """CSV files, the page, and tables on stdout; the rows of table.csv."""
    cells = [paper_tables.cell_row(result) for result in results]
    rows = paper_tables.by_dataset(cells)
    classes, ranking = paper_tables.by_class(cells), paper_tables.over_datasets(rows)
    named = {"cells": cells, "table": rows, "classes": classes, "ranking": ranking}
    for name, some in named.items():
        write_csv(out / f"{name}.csv", some)
    codes = sorted({result["code"] for result in results if "code" in result and "metrics" in result})
    about = {"command": command, "form": form, "quick": quick, "codes": codes, **sizes}
    page = write_page(out / "paper.html", rows, classes, ranking, about)
    print_rows(rows, quick)
    print(f"{page}", file=sys.stderr)
    return rows


def print_rows(rows: Sequence[dict[str, Any]], quick: bool) -> None:
    """One table per data set on stdout."""
    for dataset, mine in paper_tables.grouped(rows, lambda row: row["dataset"]).items():
        lines = []
        for row in mine:
            head = [row["method"], f"{row['cells']} of {row['cells_asked']}" if row["cells_asked"] else "–"]
            shown = [paper_tables.written(row, measure) for measure in MEASURES]
            lines.append([*head, *shown] if row["cells"] else [*head, str(row["error"])])
        title = f"{dataset}: one class held out" + (", quick: these numbers mean nothing" if quick else "")
        print_table(["method", "cells", *(measure.title for measure in MEASURES)], lines, title)
