"""The page of `benchmark paper`: all tables in one self-contained HTML file."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

import knowngood
from benchmarks.paper_tables import MEASURES, grouped, written
from benchmarks.tables import Row, spread

Cell = tuple[str, bool]  # text, whether it is the best of its column among the rows of its preset
WORDS = {
    "test": "Training images of all classes but the held-out one train. All test images are tested; those of the "
    "held-out class are the anomalies.",
    "dev": "The held-out class is not used. The next class is the anomaly. Of the training images of the other "
    "classes four fifths train and one fifth is tested.",
}


def write_page(
    path: Path, rows: Sequence[Row], classes: Sequence[Row], ranking: Sequence[Row], about: Mapping[str, Any]
) -> Path:
    """Write the page.

    Args:
        rows, classes, ranking: of `paper_tables.by_dataset`, `by_class` and `over_datasets`.
        about: command, form, quick, codes (hashes of the code that measured), train_size and test_size.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(rows, classes, ranking, about), encoding="utf-8")
    return path


def render(rows: Sequence[Row], classes: Sequence[Row], ranking: Sequence[Row], about: Mapping[str, Any]) -> str:
    """The page as HTML text."""
    done, asked = sum(row["cells"] for row in rows), sum(row["cells_asked"] for row in rows)
    whole = min((row["seeds"] for row in rows if row["cells"]), default=0)
    wanted = max((row["seeds_asked"] for row in rows), default=0)
    datasets = [
        {
            "name": name,
            "variant": next((row["variant"] for row in mine if row["variant"]), None),
            "measured": any(row["cells"] for row in mine),
            "groups": _measures(mine),
            "pivot": _pivot([row for row in classes if row["dataset"] == name]),
            "errors": list(dict.fromkeys((row["method"], row["error"]) for row in mine if row["error"])),
        }
        for name, mine in grouped(rows, lambda row: row["dataset"]).items()
    ]
    context = {
        "about": about,
        "words": WORDS[about["form"]],
        "done": done,
        "asked": asked,
        "seeds": f"{whole} of {wanted}",
        "measures": MEASURES,
        "datasets": datasets,
        "ranking": _ranking(ranking),
        "versions": _versions(about),
    }
    loaders = [PackageLoader("benchmarks", "templates"), PackageLoader("knowngood.evaluation.report", "templates")]
    environment = Environment(loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("paper.html.j2").render(context)


def _measures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of each preset, with the best complete value of every column marked."""
    groups = []
    for preset, mine in grouped(rows, lambda row: row["preset"]).items():
        best = {m.name: _best(mine, m.name, m.best) for m in MEASURES}
        lines = []
        for row in mine:
            cells = [(written(row, m), row["complete"] and _is(row[m.name], best[m.name])) for m in MEASURES]
            lines.append({**row, "shown": cells})
        groups.append({"preset": preset, "rows": lines})
    return groups


def _pivot(rows: Sequence[Row]) -> dict[str, Any]:
    """AUROC with one line per method and one column per held-out class; the best per column and preset is marked."""
    columns = list(dict.fromkeys(row["anomalous"] for row in rows if row["anomalous"] is not None))
    groups = []
    for preset, mine in grouped(rows, lambda row: row["preset"]).items():
        best = {c: _best([row for row in mine if row["anomalous"] == c], "auroc", 1) for c in columns}
        lines = []
        for objective, own in grouped(mine, lambda row: row["objective"]).items():
            at = {row["anomalous"]: row for row in own}
            found = [at.get(c, {"auroc": None, "auroc_sd": None}) for c in columns]
            cells = [
                (spread(cell["auroc"], cell["auroc_sd"]), _is(cell["auroc"], best[c]))
                for c, cell in zip(columns, found, strict=True)
            ]
            if any(cell["auroc"] is not None for cell in found):
                lines.append({"objective": objective, "shown": cells})
        groups.append({"preset": preset, "rows": lines})
    return {"columns": columns, "groups": groups}


def _ranking(rows: Sequence[Row]) -> dict[str, Any]:
    """Over data sets: AUROC on each and the mean, the best of all rows marked, and ranks."""
    fixed = ("preset", "objective", "method", "mean", "rank", "rank_in_preset")
    columns = [name for name in rows[0] if name not in fixed] if rows else []
    best = {name: _best(rows, name, 1) for name in (*columns, "mean")}
    lines = []
    for row in sorted(rows, key=lambda row: (row["rank"] is None, row["rank"] or 0)):
        cells = [(spread(row[name], None), _is(row[name], best[name])) for name in (*columns, "mean")]
        alone = sum(other["preset"] == row["preset"] for other in rows) == 1
        places = [str(row["rank"] or "–"), "–" if alone else str(row["rank_in_preset"] or "–")]
        lines.append({**row, "shown": cells, "places": places})
    return {"columns": columns, "rows": lines}


def _best(rows: Sequence[Row], name: str, sign: int) -> float | None:
    values = [row[name] for row in rows if row[name] is not None and row.get("complete", True)]
    return max(values, key=lambda value: sign * value) if values and sign and len(rows) > 1 else None


def _is(value: float | None, best: float | None) -> bool:
    return value is not None and value == best


def _versions(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [("knowngood", knowngood.__version__), ("python", platform.python_version())]
    found += [(name, version(name)) for name in ("torch", "numpy")]
    return [*found, ("machine", platform.machine()), ("code that measured", ", ".join(about["codes"]) or "–")]
