"""The numbers of `benchmark paper` put together: first over the classes held out, then over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.tables import Row, deviation, flat


class Measure(NamedTuple):
    """A column of the tables. best: +1, the highest is best; −1, the lowest; 0, neither."""

    name: str
    title: str
    best: int
    places: int
    about: str


MEASURES = (
    Measure("auroc", "AUROC", 1, 3, "of normal against anomalous test images, by the configured score"),
    Measure("auroc_a", "AUROC by A", 1, 3, "by A = ‖x − x̂‖₂, x̂ decoded from the posterior mean"),
    Measure("auroc_e", "AUROC by E", 1, 3, "by E, the negative ELBO"),
    Measure(
        "auroc_other", "another set", 1, 3, "of normal test images against another data set, by the configured score"
    ),
    Measure("wrong_a", "wrong class: A", 1, 3, "of images told their class against the same told another one, by A"),
    Measure("wrong_e", "wrong class: E", 1, 3, "the same by E given the class told"),
    Measure("wrong_mismatch", "wrong class: E(x|c) − E(x)", 1, 3, "the same by E(x|c) − E(x), which is −log p(c|x)"),
    Measure(
        "released", "released AUC", 0, 3, "of one known class against the others by A, mean over classes: always ½"
    ),
    Measure("a_normal", "A normal", -1, 2, "mean A of normal test images"),
    Measure("a_anomalous", "A anomalous", 1, 2, "mean A of anomalous test images"),
    Measure("e_normal", "E normal", -1, 1, "mean E of normal test images, in nats"),
    Measure("e_anomalous", "E anomalous", 1, 1, "mean E of anomalous test images, in nats"),
    Measure("training_seconds", "seconds", -1, 1, "spent in training steps; compares rows of one run only"),
    Measure("tc", "TC", -1, 3, "Gaussian total correlation of the posterior means of normal test images, in nats"),
    Measure("mig", "MIG", 1, 3, "mutual information gap of these means against the class, 20 bins"),
)
NAMES = tuple(measure.name for measure in MEASURES)
BASELINES = "baselines"


def by_dataset(cells: Iterable[Row]) -> list[Row]:
    """One row a data set and method, in the order of `cells`, which are rows of `cell_row`.

    A seed counts once all its classes are there: its value is the mean over them, that of the row the mean over such
    seeds, with their sample standard deviation in "…_sd". Before the first seed is complete the row holds the mean over
    the cells there are and is not `complete`. A measure that one of the cells lacks is None.

    Columns: dataset, preset, objective, method, cells, cells_asked, seeds, seeds_asked, complete, each measure and its
    "…_sd", variant, error (the first reason why a cell is not there).
    """
    rows = []
    for (dataset, method), mine in grouped(cells, lambda row: (row["dataset"], row["method"])).items():
        found = [cell for cell in mine if cell["error"] is None]
        seeds = grouped(mine, lambda row: row["seed"])
        whole = [some for some in seeds.values() if all(cell["error"] is None for cell in some)]
        asked = [cell for cell in mine if cell["seed"] is not None]
        row: Row = {"dataset": dataset, **named(method), "cells": len(found), "cells_asked": len(asked)}
        row |= {"seeds": len(whole), "seeds_asked": len(seeds.keys() - {None}), "complete": bool(whole)}
        for name in NAMES:
            values = [mean_of(some, name) for some in whole or ([found] if found else [])]
            row |= dict(zip((name, f"{name}_sd"), spread_of(values), strict=True))
        row["variant"] = next((cell["variant"] for cell in found if cell["variant"]), None)
        row["error"] = next((cell["error"] for cell in mine if cell["error"] is not None), None)
        rows.append(row)
    return rows


def by_class(cells: Iterable[Row]) -> list[Row]:
    """One row a data set, method and anomalous class: AUROC's mean and sample deviation over the seeds there are."""
    rows = []
    groups = grouped(cells, lambda row: (row["dataset"], row["method"], row["anomalous"]))
    for (dataset, method, anomalous), mine in groups.items():
        found = [cell["auroc"] for cell in mine if cell["error"] is None]
        mean, sd = spread_of(found)
        row = {"dataset": dataset, **named(method), "anomalous": anomalous, "seeds": len(found)}
        rows.append({**row, "seeds_asked": len(mine), "auroc": mean, "auroc_sd": sd})
    return rows


def over_datasets(rows: Sequence[Row]) -> list[Row]:
    """One row per method: AUROC on each data set that has results, the mean over them, and ranks.

    rows: of `by_dataset`. The mean is there once the row of every such data set is complete; `rank` is among all
    methods that have one, `rank_in_preset` among those of the same preset. Equal means share the better place.
    """
    datasets = list(dict.fromkeys(row["dataset"] for row in rows if row["cells"]))
    found = []
    for mine in grouped(rows, lambda row: row["method"]).values():
        at = {row["dataset"]: row["auroc"] if row["complete"] else None for row in mine}
        values = [at.get(name) for name in datasets]
        head = {name: mine[0][name] for name in ("preset", "objective", "method")}
        mean, _ = spread_of(values)
        found.append({**head, **dict(zip(datasets, values, strict=True)), "mean": mean})
    for row in found:
        mine = [other for other in found if other["preset"] == row["preset"]]
        row |= {"rank": place(row, found), "rank_in_preset": place(row, mine)}
    return found


def place(row: Row, among: Iterable[Row]) -> int | None:
    """1 + the number of rows with a higher mean; None without a mean."""
    if row["mean"] is None:
        return None
    return 1 + sum(other["mean"] is not None and other["mean"] > row["mean"] for other in among)


def named(method: str) -> dict[str, str]:
    """ "paper-mlp: dcvae" → preset, objective and method; a baseline has the preset "baselines"."""
    preset, colon, objective = method.partition(": ")
    return {
        "preset": preset if colon else BASELINES,
        "objective": objective if colon else method,
        "method": method,
    }


def cell_row(result: Row) -> Row:
    """One measurement as one row: that of `tables.flat`, with every column of `MEASURES`, preset and objective."""
    return {**named(result["method"]), **dict.fromkeys(NAMES), **flat(result)}


def grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return dict(found)


def mean_of(cells: Sequence[Row], name: str) -> float | None:
    """The mean; None where a cell lacks the value."""
    return spread_of([cell[name] for cell in cells])[0]


def spread_of(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None, None where a value is missing, no deviation for one value."""
    present = [value for value in values if value is not None]
    if not present or len(present) < len(values):
        return None, None
    return float(np.mean(present)), deviation(present)


def written(row: Row, measure: Measure) -> str:
    """ "0.987 ± 0.002", in brackets while no seed is complete; "–" where there is no value."""
    value, sd = row[measure.name], row[f"{measure.name}_sd"]
    if value is None:
        return "–"
    text = f"{value:.{measure.places}f}" + ("" if sd is None else f" ± {sd:.{measure.places}f}")
    return text if row["complete"] else f"({text})"
