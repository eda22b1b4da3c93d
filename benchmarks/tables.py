"""Measurements as tables: mean and spread over seeds, on the screen and as CSV."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
GROUP = ("protocol", "form", "dataset", "normal", "anomalous", "method")
MEANS = {
    "auroc": "AUROC",
    "average_precision": "AP",
    "fpr_at_95_tpr": "FPR95",
    "false_alarm_rate": "false alarms",
    "detection_rate": "detected",
}


def flat(result: Row) -> Row:
    """One measurement as one row of plain values."""
    row = {name: result.get(name) for name in (*GROUP, "seed", "variant")}
    metrics = result.get("metrics", {})
    row |= {name: metrics.get(name) for name in (*MEANS, "normals", "anomalies", "unreadable")}
    row["auroc_low"], row["auroc_high"] = metrics.get("auroc_interval", (None, None))
    row |= {f"auroc_{name}": value for name, value in result.get("auroc_of_parts", {}).items()}
    row |= {name: result.get(name) for name in ("alpha", "threshold", "calibration_normals", "fit_seconds")}
    times = ("training_seconds", "judge_seconds", "ms_image", "seconds")
    row |= {name: result[name] for name in times if name in result}
    row |= result.get("extra", {})
    row["expected_alarms_low"], row["expected_alarms_high"] = result.get("expected_alarms", (None, None))
    return row | {name: result.get(name) for name in ("key", "error")}


def summary(results: Iterable[Row], over: Sequence[str] = ("seed",)) -> list[Row]:
    """One row for each group of measurements that differ only in the columns `over`.

    Columns: those that make the group; n; mean and sd (n − 1 in the denominator, None for one) of every metric and of
    threshold, calibration_normals and fit_seconds; alpha; error, the first reason why a measurement is not there.
    """
    names = [name for name in GROUP if name not in over]
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in map(flat, results):
        groups[tuple(row[name] for name in names)].append(row)
    rows = []
    for group, members in groups.items():
        found = [row for row in members if row["error"] is None]
        row: Row = dict(zip(names, group, strict=True)) | {"n": len(found)}
        for name in (*MEANS, "threshold", "calibration_normals", "fit_seconds"):
            values = [float(r[name]) for r in found if r[name] is not None]
            row[name] = float(np.mean(values)) if values else None
            row[f"{name}_sd"] = deviation(values)
        row["alpha"] = found[0]["alpha"] if found else None
        row["error"] = next((r["error"] for r in members if r["error"] is not None), None)
        rows.append(row)
    return rows


def print_summary(rows: Sequence[Row], title: str) -> None:
    """The summary on stdout, one row per group; a group without measurements shows the error."""
    columns = ["data set", "normal", "method", "seeds", *MEANS.values(), "threshold", "fit, s"]
    lines = []
    for row in rows:
        head = [row["dataset"], row.get("normal", "mean"), row["method"], str(row["n"])]
        if not row["n"]:
            lines.append([*head, str(row["error"])])
            continue
        values = [spread(row[name], row[f"{name}_sd"]) for name in MEANS]
        lines.append([*head, *values, _short(row["threshold"]), _short(row["fit_seconds"])])
    print_table(columns, lines, title)


def print_pivot(rows: Sequence[Row], across: str, title: str) -> None:
    """AUROC with one line per method and one column per value of `across`, then the mean and the seconds of a fit."""
    values = list(dict.fromkeys(row[across] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = []
    for method in methods:
        mine = {row[across]: row for row in rows if row["method"] == method}
        cells = [mine.get(value, {}) for value in values]
        aurocs = [cell["auroc"] for cell in cells if cell.get("auroc") is not None]
        seconds = [cell["fit_seconds"] for cell in cells if cell.get("fit_seconds") is not None]
        mean = f"{np.mean(aurocs):.3f}" if len(aurocs) == len(values) else "–"
        shown = [spread(cell.get("auroc"), cell.get("auroc_sd")) for cell in cells]
        lines.append([method, *shown, mean, _short(float(np.mean(seconds)) if seconds else None)])
    print_table(["method", *map(str, values), "mean", "fit, s"], lines, title)


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation, n − 1 in the denominator; None for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def spread(mean: float | None, sd: float | None) -> str:
    """ ".987 ± .002", without the spread of one seed."""
    if mean is None:
        return "–"
    return f"{mean:.3f}" + ("" if sd is None else f" ± {sd:.3f}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """Text on stdout: a title, then columns padded with blanks. The last cell of a short row may run on."""
    full = [row for row in rows if len(row) == len(columns)]
    heads = [row[:-1] for row in rows if len(row) < len(columns)]
    widths = [
        max(len(row[i]) for row in [columns, *full, *(h for h in heads if len(h) > i)]) for i in range(len(columns))
    ]
    print(title)
    for row in [columns, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())
    print()


def write_csv(path: Path, rows: Sequence[Row]) -> Path:
    """All rows, with every column that any of them has; missing values are empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_tables(results: Sequence[Row], out: Path) -> list[Row]:
    """`cells.csv`, a row a measurement, and `table.csv`, the summary over seeds, which is returned."""
    rows = summary(results)
    write_csv(out / "cells.csv", [flat(result) for result in results])
    write_csv(out / "table.csv", rows)
    return rows


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
