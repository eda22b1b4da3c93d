"""`python -m benchmarks accuracy`: detection accuracy, track by track, with baselines in the same run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import accuracy_tables as tables
from benchmarks import joined, runner
from benchmarks.commands import command_line
from benchmarks.picks import class_names
from benchmarks.protocols import Form, check_form
from benchmarks.tables import write_csv
from benchmarks.tracks import METHODS, PNEUMONIA, TRACKS, Asked, Batch, batches, sources
from knowngood.config import nearest
from knowngood.errors import DataError, SettingsError

Row = dict[str, Any]
QUICK_EPOCHS = 2


def main(
    tracks: tuple[str, ...] = tuple(TRACKS),
    datasets: tuple[str, ...] | None = None,
    classes: tuple[str, ...] | None = None,
    methods: tuple[str, ...] = METHODS,
    seeds: tuple[int, ...] = (0, 1, 2),
    form: Form = "test",
    config: Path | None = None,
    epochs: int | None = None,
    device: str | None = None,
    jobs: int = 1,
    quick: bool = False,
    show: bool = False,
    out: Path = Path("out/benchmarks/accuracy"),
) -> list[Row]:
    """AUROC, false alarms and costs of the recipes and of baselines on every track.

    Writes cells.csv (a row a measurement; of the track ood, a row a pair), classes.csv (by class or pair),
    few_labels.csv and table.csv, also when it is interrupted. Prints the tables in Markdown; returns the rows of
    table.csv.

    Args:
        tracks: one-vs-rest, leave-one-out, ood, pneumonia, few-labels.
        datasets: instead of those of each track; X-rays go to pneumonia, all others to the other tracks.
        classes: those that are normal, or held out, one after the other; default all that a data set has.
        methods: recipes (ours, auto, pixels, hog-neighbours), vae, knn, ppca, contrast (on X-rays), forest, svm.
        config: settings over those of the recipes, a YAML file.
        epochs, device: over those of all VAEs.
        jobs: number of processes that measure at the same time; seconds are then not reliable.
        quick: one class, one seed, two epochs on a few images; only checks that it runs; its numbers mean nothing.
        show: only the tables of finished measurements; nothing is measured.
    """
    command = command_line("accuracy", main, locals())
    check_form(form)
    for name in tracks:
        if name not in TRACKS:
            raise SettingsError(f"unknown track '{name}'{nearest(name, list(TRACKS))}")
    training = {"epochs": QUICK_EPOCHS if quick else epochs, "device": device}
    asked = Asked(
        methods=methods,
        seeds=seeds[:1] if quick else seeds,
        form=form,
        classes=classes,
        config=config,
        training={name: value for name, value in training.items() if value is not None},
        quick=quick,
    )
    planned, absent = plan(tracks, datasets, asked)
    try:
        found = [one for batch in planned for one in run(batch, out, jobs=jobs, measuring=not show)]
    except KeyboardInterrupt:
        found = [one for batch in planned for one in run(batch, out, measuring=False)]
        report(found + absent, out, command, quick)
        raise
    return report(found + absent, out, command, quick)


def run(batch: Batch, out: Path, *, jobs: int = 1, measuring: bool = True) -> list[Row]:
    """`runner.run` on a batch, with joined data sets too."""
    return runner.run(batch.cells, batch.methods, out, opener=joined.open_named, jobs=jobs, measuring=measuring)


def plan(tracks: Sequence[str], datasets: Sequence[str] | None, asked: Asked) -> tuple[list[Batch], list[Row]]:
    """All batches, and a record for each track and data set that is not here.

    Raises:
        SettingsError: no track has a data set to take.
    """
    wanted = {track: sources(track, datasets) for track in dict.fromkeys(tracks)}
    by_class = [name for track, names in wanted.items() if track != PNEUMONIA for name in names]
    known, missing = classes_of(by_class)
    known |= {name: [] for name in wanted.get(PNEUMONIA, ())}  # whose two classes the protocol knows
    planned, absent = [], []
    for track, names in wanted.items():
        here = {name: known[name] for name in names if name in known}
        planned += [batch for batch in batches(track, here, asked) if batch.cells and batch.methods]
        absent += [_gone(track, name, missing[name], asked.form) for name in names if name in missing]
    if not planned and not absent:
        raise SettingsError(
            f"nothing to measure on {', '.join(datasets or ())} in {', '.join(tracks)} by {', '.join(asked.methods)}; "
            f"ood needs two data sets, {PNEUMONIA} takes {' and '.join(TRACKS[PNEUMONIA])}, the others all but these; "
            "contrast is for X-rays alone"
        )
    return planned, absent


def classes_of(datasets: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The classes of each data set in their order, and why others are missing."""
    known: dict[str, list[str]] = {}
    missing: dict[str, str] = {}
    for name in dict.fromkeys(datasets):
        try:
            known[name] = class_names(joined.open_named(name))
        except DataError as error:
            missing[name] = f"missing: {error}"
    return known, missing


def report(results: Sequence[Mapping[str, Any]], out: Path, command: str, quick: bool) -> list[Row]:
    """CSV files, and tables on stdout; the rows of table.csv."""
    cells = [row for result in results for row in tables.cell_rows(dict(result))]
    rows, labels = tables.by_track(cells), tables.few_labels(cells)
    named = {"cells": cells, "classes": tables.by_class(cells), "few_labels": labels, "table": rows}
    for name, some in named.items():
        write_csv(out / f"{name}.csv", some)
    print(f"    {command}\n" + ("\nQuick: these numbers mean nothing.\n" if quick else ""))
    print(tables.markdown(rows))
    if labels:
        print("\n" + tables.labels_markdown(labels))
    print(f"{', '.join(f'{name}.csv' for name in named)} are in {out}", file=sys.stderr)
    return rows


def _gone(track: str, dataset: str, why: str, form: str) -> Row:
    head = {"protocol": track, "form": form, "dataset": dataset, "normal": None, "anomalous": None}
    return {**head, "method": "all", "seed": None, "error": why}
