"""Tables of the inspection benchmark: what methods find, and what they cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.tables import deviation, print_table, spread

Row = dict[str, Any]
GROUP = ("form", "set", "method")
FOUND = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "pixel_average_precision": "pixel AP",
    "aupro": "AUPRO",
    "detected": "detected",
    "false_alarms": "false alarms",
}
COSTS = {
    "fit_seconds": "fit, s",
    "ms_image": "ms an image",
    "ms_map": "ms more for its map",
    "model_mb": "model, MB",
    "peak_mib": "peak, MiB",
}
EXPECTED = ("alarms_low", "alarms_high")
COUNTS = ("train", "good", "anomalous", "calibration_normals", "alpha")


def rows_of(records: Sequence[Row]) -> list[Row]:
    """One row of plain values for each score and product of a record."""
    rows = []
    for record in records:
        for found in record.get("rows", [{"set": record["set"], "method": record["method"]}]):
            values = {**record, **found}
            names = (*GROUP, "seed", *FOUND, *EXPECTED, *COSTS, *COUNTS, "key", "error")
            rows.append({name: values.get(name) for name in names})
    return rows


def summary(records: Sequence[Row]) -> list[Row]:
    """Mean and sd (n − 1 in the denominator, None for one) over seeds, a row a set and method, in order.

    Columns: form, set, method; n; every metric and cost with its sd; alarms_low and alarms_high, where the false-alarm
    rate is expected; numbers of images; error, the first reason why a measurement is not there.
    """
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows_of(records):
        groups[tuple(row[name] for name in GROUP)].append(row)
    table = []
    for group, members in groups.items():
        found = [row for row in members if row["error"] is None]
        row: Row = dict(zip(GROUP, group, strict=True)) | {"n": len(found)}
        for name in (*FOUND, *COSTS):
            values = [float(one[name]) for one in found if one[name] is not None]
            row |= {name: float(np.mean(values)) if values else None, f"{name}_sd": deviation(values)}
        for name in (*EXPECTED, *COUNTS):
            values = [float(one[name]) for one in found if one[name] is not None]
            row[name] = float(np.mean(values)) if values else None
        row["error"] = next((one["error"] for one in members if one["error"] is not None), None)
        table.append(row)
    return table


def print_tables(table: Sequence[Row], form: str) -> None:
    """Both tables on stdout; a failed measurement shows its error."""
    quality, costs = [], []
    for row in table:
        head = [row["set"], row["method"], str(row["n"])]
        if not row["n"]:
            quality.append([*head, str(row["error"])])
            continue
        quality.append([*head, *(spread(row[name], row[f"{name}_sd"]) for name in FOUND), _expected(row)])
        if row["fit_seconds"] is not None:
            costs.append([*head, *(_short(row[name]) for name in COSTS)])
    print_table(["set", "method", "runs", *FOUND.values(), "expected"], quality, f"Inspection, {form} form")
    print_table(["set", "method", "runs", *COSTS.values()], costs, "What it costs")


def _expected(row: Row) -> str:
    return "–" if row["alarms_low"] is None else f"{row['alarms_low']:.3f} to {row['alarms_high']:.3f}"


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
