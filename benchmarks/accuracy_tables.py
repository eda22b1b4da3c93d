"""The numbers of `benchmark accuracy` put together: first over classes or pairs, then over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.accuracy_protocols import OOD, SHARES, few_labels_name
from benchmarks.paper_tables import grouped, mean_of, spread_of
from benchmarks.tables import Row, flat

MEASURES = ("auroc", "false_alarm_rate", "fit_seconds", "ms_image")
TITLES = ("track", "data set", "method", "seeds", "AUROC", "lowest", "false alarms at .05", "fit, s", "ms an image")
LEAVE_ONE_OUT = "leave-one-out"
UNLABELLED = few_labels_name(0)


def cell_rows(result: Row) -> list[Row]:
    """A measurement as one row, that of `tables.flat`; of the track ood as one row a pair, with the pair's AUROC.

    `case` is the part of the data set of a row: "mnist → kmnist" for a model of MNIST tested on KMNIST, else the normal
    class, or the held-out class.
    """
    row = {"ms_image": None, **flat(result)}
    if result["protocol"] == OOD and "metrics" in result:
        return [
            {**row, "anomalous": name, "auroc": auroc, "case": f"{row['normal']} → {name}"}
            for name, auroc in result["auroc_of_anomalies"].items()
        ]
    return [{**row, "case": row["anomalous" if result["protocol"] == LEAVE_ONE_OUT else "normal"]}]


def by_track(cells: Sequence[Row]) -> list[Row]:
    """One row a track, data set and method, in the order of `cells`, which are rows of `cell_rows`.

    A seed counts once all its cells are there. Its AUROC is the mean over classes, or of the track ood that of the
    worst pair; its false-alarm rate, seconds and milliseconds are means. The values of the row are means over such
    seeds, with their sample standard deviation in "…_sd"; before the first seed is complete they are of the cells there
    are, and the row is not `complete`.

    Columns: track, dataset, method, cells, cells_asked, seeds, seeds_asked, complete, each of `MEASURES` and its
    "…_sd", lowest and lowest_auroc (the class or pair with the lowest mean AUROC, where there are several), variant,
    error (the first reason why a cell is not there).
    """
    rows = []
    for (track, dataset, method), mine in _by_method(cells).items():
        found = [cell for cell in mine if cell["error"] is None]
        seeds = grouped(mine, lambda row: row["seed"])
        whole = [some for some in seeds.values() if all(cell["error"] is None for cell in some)]
        row: Row = {"track": track, "dataset": dataset, "method": method, "cells": len(found), "cells_asked": len(mine)}
        row |= {"seeds": len(whole), "seeds_asked": len(seeds), "complete": bool(whole)}
        for name in MEASURES:
            over = _lowest if (track, name) == (OOD, "auroc") else mean_of
            values = [over(some, name) for some in whole or ([found] if found else [])]
            row |= dict(zip((name, f"{name}_sd"), spread_of(values), strict=True))
        cases = grouped(found, lambda row: row["case"])
        means = {case: mean_of(some, "auroc") or 0.0 for case, some in cases.items()}
        row["lowest"] = min(means, key=lambda case: means[case]) if len(means) > 1 else None
        row["lowest_auroc"] = means.get(row["lowest"])
        row["variant"] = next((cell["variant"] for cell in found if cell["variant"]), None)
        row["error"] = next((cell["error"] for cell in mine if cell["error"] is not None), None)
        rows.append(row)
    return rows


def by_class(cells: Sequence[Row]) -> list[Row]:
    """One row a track, data set, method and class or pair: AUROC's mean and deviation over the seeds there are."""
    rows = []
    for (track, dataset, method), mine in _by_method(cells).items():
        for case, some in grouped(mine, lambda row: row["case"]).items():
            found = [cell["auroc"] for cell in some if cell["error"] is None]
            mean, sd = spread_of(found)
            head = {"track": track, "dataset": dataset, "method": method, "case": case, "seeds": len(found)}
            rows.append({**head, "seeds_asked": len(some), "auroc": mean, "auroc_sd": sd})
    return rows


def few_labels(cells: Sequence[Row]) -> list[Row]:
    """One row per data set, method and share of labelled anomalies: each cell beside the same one without labels.

    Columns: track, dataset, method; cells, of which both are there; below, how many of them have a lower AUROC with
    labels than without; gain, the mean difference; worst, the smallest difference.
    """
    done = {
        (c["protocol"], c["dataset"], c["method"], c["case"], c["seed"]): c["auroc"] for c in cells if not c["error"]
    }
    rows = []
    names = [few_labels_name(share) for share in SHARES if share]
    for (track, dataset, method), mine in _by_method([c for c in cells if c["protocol"] in names]).items():
        both = [
            (cell["auroc"], done[UNLABELLED, dataset, method, cell["case"], cell["seed"]])
            for cell in mine
            if not cell["error"] and (UNLABELLED, dataset, method, cell["case"], cell["seed"]) in done
        ]
        gains = [taught - untaught for taught, untaught in both]
        head = {"track": track, "dataset": dataset, "method": method, "cells": len(gains)}
        below = sum(gain < 0 for gain in gains)
        rows.append({**head, "below": below, "gain": spread_of(gains)[0], "worst": min(gains, default=None)})
    return rows


# Markdown ------------------------------------------------------------------------------------------------------------


def markdown(rows: Sequence[Row]) -> str:
    """The table of `by_track`. Numbers in brackets come before the first seed is complete."""
    lines = []
    for row in rows:
        head = [row["track"], row["dataset"], row["method"], str(row["seeds"])]
        if not row["cells"]:
            lines.append([*head, str(row["error"]), *[""] * (len(TITLES) - 5)])
            continue
        lowest = f"{row['lowest']}: {_number(row['lowest_auroc'])}" if row["lowest"] else "–"
        costs = [_costs(row[name]) for name in ("fit_seconds", "ms_image")]
        lines.append([*head, _shown(row, "auroc"), lowest, _shown(row, "false_alarm_rate"), *costs])
    return _table(TITLES, lines)


def labels_markdown(rows: Sequence[Row]) -> str:
    """The table of `few_labels`."""
    titles = ("labelled", "data set", "method", "cells", "below the cell without labels", "mean gain", "worst")
    lines = [
        [row["track"], row["dataset"], row["method"], str(row["cells"]), str(row["below"])]
        + ["–" if row[name] is None else f"{row[name]:+.4f}" for name in ("gain", "worst")]
        for row in rows
    ]
    return _table(titles, lines)


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [list(titles), ["---"] * len(titles), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows)


def _shown(row: Row, name: str) -> str:
    """ ".987 ± .002", in brackets while no seed is complete."""
    sd = row[f"{name}_sd"]
    text = _number(row[name]) + ("" if sd is None else f" ± {_number(sd)}")
    return text if row["complete"] else f"({text})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".removeprefix("0")


def _costs(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _lowest(cells: Sequence[Row], name: str) -> float | None:
    return min((cell[name] for cell in cells), default=None)


def _by_method(cells: Sequence[Row]) -> dict[Any, list[Row]]:
    return grouped(cells, lambda row: (row["protocol"], row["dataset"], row["method"]))
