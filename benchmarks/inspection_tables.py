"""Tables of the inspection benchmark: what methods rank, decide and find of each kind of defect, and what they cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.tables import deviation, print_table, spread

Row = dict[str, Any]
GROUP = ("form", "set", "method")
RANKED = {
    "image_auroc": "image AUROC",
    "image_average_precision": "image AP",
    "pixel_auroc": "pixel AUROC",
    "pixel_average_precision": "pixel AP",
    "aupro": "AUPRO .30",
    "aupro_05": "AUPRO .05",
}
DECIDED = {"f1": "F1", "detected": "detected", "false_alarms": "false alarms"}
COSTS = {
    "fit_seconds": "fit, s",
    "ms_image": "ms an image",
    "ms_map": "ms more for its map",
    "model_mb": "model, MB",
    "peak_mib": "peak, MiB",
}
BY_KIND = {"image_auroc": "image AUROC", "detected": "detected", "aupro": "AUPRO .30"}
RATE, EXPECTED = ("rate_low", "rate_high"), ("alarms_low", "alarms_high")
COUNTS = ("train", "good", "anomalous", "calibration_normals", "alpha")
WIDTH = 120  # characters of a line


def rows_of(records: Sequence[Row]) -> list[Row]:
    """One row of plain values for each score and product of a record."""
    rows = []
    for record in records:
        for found in record.get("rows", [{"set": record["set"], "method": record["method"]}]):
            values = {**record, **found}
            names = (*GROUP, "seed", *RANKED, *DECIDED, *RATE, *EXPECTED, *COSTS, *COUNTS, "key", "error")
            rows.append({name: values.get(name) for name in names})
    return rows


def summary(records: Sequence[Row]) -> list[Row]:
    """Mean and sd (n − 1 in the denominator, None for one) over seeds, a row a set and method, in order.

    Columns: form, set, method; n; every metric and cost with its sd; rate_low and rate_high, the interval of the
    false-alarm rate; alarms_low and alarms_high, where it is expected; numbers of images; error, the first reason why
    a measurement is not there.
    """
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows_of(records):
        groups[tuple(row[name] for name in GROUP)].append(row)
    table = []
    for group, members in groups.items():
        found = [row for row in members if row["error"] is None]
        row: Row = dict(zip(GROUP, group, strict=True)) | {"n": len(found)}
        for name in (*RANKED, *DECIDED, *COSTS):
            values = [float(one[name]) for one in found if one[name] is not None]
            row |= {name: float(np.mean(values)) if values else None, f"{name}_sd": deviation(values)}
        for name in (*RATE, *EXPECTED, *COUNTS):
            values = [float(one[name]) for one in found if one[name] is not None]
            row[name] = float(np.mean(values)) if values else None
        row["error"] = next((one["error"] for one in members if one["error"] is not None), None)
        table.append(row)
    return table


def by_kind(records: Sequence[Row]) -> list[Row]:
    """Form, set, method, kind and the means over seeds of what is found of each class of defects, in order."""
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for record in records:
        for found in record.get("rows", ()):
            for kind, values in found.get("kinds", {}).items():
                groups[record["form"], found["set"], found["method"], kind].append(values)
    table = []
    for group, members in groups.items():
        row: Row = dict(zip((*GROUP, "kind"), group, strict=True))
        for name in ("n", *BY_KIND):
            values = [one[name] for one in members if one.get(name) is not None]
            row[name] = float(np.mean(values)) if values else None
        table.append(row)
    return table


def print_tables(table: Sequence[Row], kinds: Sequence[Row], form: str) -> None:
    """For each set what is ranked, decided and found of each kind, then the costs; a failed measurement shows why."""
    for name in dict.fromkeys(row["set"] for row in table):
        ranked, decided = [], []
        own = [row for row in table if row["set"] == name]
        for row in own:
            head = [row["method"], str(row["n"])]
            if not row["n"]:
                ranked.append([*head, str(row["error"])])
                continue
            ranked.append([*head, *_spreads(row, RANKED)])
            if row["f1"] is not None:
                decided.append([*head, *_spreads(row, DECIDED), _interval(row, RATE), _interval(row, EXPECTED)])
        print_table(["method", "runs", *RANKED.values()], ranked, f"Inspection, {form} form: {name}")
        if decided:
            alpha, good, bad = (next((row[key] for row in own if row[key]), 0) for key in ("alpha", *COUNTS[1:3]))
            title = f"{name}: decisions at α = {alpha:g} on {good:.0f} normal and {bad:.0f} anomalous images"
            print_table(["method", "runs", *DECIDED.values(), "95 % interval", "expected"], decided, title)
        _print_kinds([row for row in kinds if row["set"] == name], name)
    costs = [
        [row["set"], row["method"], str(row["n"]), *(_short(row[name]) for name in COSTS)]
        for row in table
        if row["n"] and row["fit_seconds"] is not None
    ]
    print_table(["set", "method", "runs", *COSTS.values()], costs, "What it costs")


def _print_kinds(rows: Sequence[Row], name: str) -> None:
    """Methods down, kinds across; as many tables as the width of a line asks for."""
    cells = {(row["method"], row["kind"]): row for row in rows}
    methods, kinds = (list(dict.fromkeys(row[key] for row in rows)) for key in ("method", "kind"))
    for metric, title in BY_KIND.items():
        shown = [method for method in methods if any(cells[method, kind][metric] is not None for kind in kinds)]
        for some in _fitting(kinds, max(map(len, ["method", *shown]))):
            lines = [[method, *(_rounded(cells[method, kind][metric]) for kind in some)] for method in shown]
            if lines:
                print_table(["method", *map(_kind, some)], lines, f"{name}: {title} by kind of defect")


def _fitting(kinds: Sequence[str], first: int) -> list[list[str]]:
    """Runs of kinds whose columns fit a line behind a first column of that width."""
    runs, left = [], 0
    for kind in kinds:
        width = 2 + max(len(_kind(kind)), 5)
        if width > left:
            runs.append([])
            left = WIDTH - first
        runs[-1].append(kind)
        left -= width
    return runs


def _kind(kind: str) -> str:
    return kind.removeprefix("synthetic ")


def _spreads(row: Row, names: Iterable[str]) -> list[str]:
    return [spread(row[name], row[f"{name}_sd"]) for name in names]


def _rounded(value: float | None) -> str:
    return spread(value, None)


def _interval(row: Row, ends: tuple[str, str]) -> str:
    low, high = (row[end] for end in ends)
    return "–" if low is None else f"{low:.3f} to {high:.3f}"


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
