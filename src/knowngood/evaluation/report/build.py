"""The report as HTML: one self-contained file that makes no request."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from knowngood.config import counted
from knowngood.evaluation.report import sections
from knowngood.evaluation.report.gallery import gallery
from knowngood.evaluation.report.inputs import ReportInputs
from knowngood.evaluation.report.verdict import judge
from knowngood.evaluation.report.words import flattened, number, percent
from knowngood.files import write_text

MOST_ROWS = 5000
MOST_FINDINGS = 500
MOST_SUSPICIOUS = 10


def write_report(path: str | Path, inputs: ReportInputs) -> Path:
    """Write one HTML file that makes no request; the same inputs give the same bytes.

    At most `MOST_ROWS` images and `MOST_FINDINGS` findings are listed, with a note, so that the file stays small.

    Raises:
        DataError: a gallery id is not in the table, or an image and its reconstruction differ in shape.
    """
    return write_page(path, render(inputs))


def write_page(path: str | Path, text: str) -> Path:
    """Write HTML text, and the folder where there is none."""
    write_text(path, text)
    return Path(path)


def templates() -> Environment:
    """The page templates; what they are given is escaped."""
    loader = PackageLoader("knowngood.evaluation.report", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters.update(thousands=lambda n: f"{n:,}", number=number)
    return environment


def render(inputs: ReportInputs) -> str:
    """The report as HTML text."""
    verdict = judge(inputs)
    context: dict[str, Any] = {
        "title": inputs.title,
        "verdict": verdict,
        "labelled": inputs.labelled,
        "attainable": inputs.attainable,
        "shifted": inputs.calibration.get("threshold") is not None and len(verdict.conditions) > 1,
        "separation": sections.separation(inputs) + sections.by_group(inputs),
        "model": sections.model(inputs),
        "false_alarms": sections.false_alarms(inputs, verdict),
        "training": sections.training(inputs),
        "metrics": _metrics(inputs.metrics),
        "findings": list(inputs.audit)[:MOST_FINDINGS],
        "suspicious": list(inputs.suspicious)[:MOST_SUSPICIOUS],
        "audit_summary": _audit_summary(inputs.audit),
        "command": inputs.command,
        "links": inputs.links,
        "settings": flattened(inputs.settings),
        "environment": flattened(inputs.environment),
        **gallery(inputs),
        **_results(inputs),
    }
    anchors = [
        ("gallery", "Gallery", context["most"] or context["least"]),
        ("separation", "Separation", context["separation"]),
        ("false-alarms", "False alarms", True),
        ("results", "All results", True),
        ("model", "Model", context["model"]),
        ("training", "Training", context["training"]),
        ("audit", "Data audit", True),
        ("reproduce", "Reproduce", True),
    ]
    context["sections"] = [(anchor, name) for anchor, name, there in anchors if there]
    return templates().get_template("report.html.j2").render(context)


def _results(inputs: ReportInputs) -> dict[str, Any]:
    """The table of all results: up to `MOST_ROWS` as data for the script."""
    ids, scores, conditions, labels = inputs.texts("id"), inputs.scores, inputs.texts("condition"), inputs.labels
    p, flagged, scored = inputs.p_values, inputs.flagged, inputs.scored
    order = np.argsort(np.where(scored, -scores, np.inf), kind="stable")[:MOST_ROWS]
    known = sorted(set(conditions[order]))
    position = {name: i for i, name in enumerate(known)}
    names = [inputs.normal_name, inputs.anomalous_name]
    rows = [
        [
            str(ids[i]),
            _rounded(scores[i], 5),
            _rounded(p[i], 3),
            int(flagged[i]) if scored[i] else 2,
            int(labels[i]) if np.isfinite(labels[i]) else None,
            position[conditions[i]],
        ]
        for i in order
    ]
    typical, smallest = np.median(np.abs(scores[scored])) if scored.any() else 1, np.nanmin(p, initial=1)
    decimals = [_decimals(typical, 4), _decimals(smallest, 2)]
    conditioned = len(set(conditions)) > 1
    data = {"rows": rows, "conditions": known, "names": names, "decimals": decimals}
    data |= {"labelled": inputs.labelled, "conditioned": conditioned}
    return {"data": data, "listed": len(rows), "total": len(ids), "conditioned": conditioned}


def _rounded(value: Any, digits: int) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def _decimals(size: float, digits: int) -> int:
    """Decimals that give a value of this size `digits` significant digits, so that a column's points line up."""
    return min(max(digits - 1 - math.floor(math.log10(size)), 0), 8) if 0 < size < math.inf else 0


def _metrics(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, text) of the measures, the AUROC with its interval; rates as per cent. Counts are in the summary."""
    names = {
        "auroc": "AUROC",
        "auroc_mismatch": "AUROC of the mismatch with the stated condition",
        "fpr_at_95_tpr": "normal images flagged when 95 % of anomalies are detected",
        "detection_rate": "anomalies detected at the requested rate",
        "false_alarm_rate": "normal images flagged at the requested rate",
    }
    shown = []
    for name, value in metrics.items():
        if not isinstance(value, float):
            continue
        text = percent(round(value, 4)) if "rate" in name or name.startswith("fpr") else f"{value:.4f}"
        if name == "auroc" and (interval := metrics.get("auroc_interval")) is not None:
            text += f" (95 % interval {interval[0]:.4f}–{interval[1]:.4f})"
        words = names.get(name, name.replace("_", " "))
        shown.append((words[0].upper() + words[1:], text))
    return shown


def _audit_summary(records: Sequence[Mapping[str, Any]]) -> str:
    kinds = Counter(str(record["kind"]) for record in records)
    listed = ", ".join(f"{n:,} × {kind}" for kind, n in kinds.most_common())
    text = f"{counted(len(records), 'finding')}: {listed}."
    return text + (f" The first {MOST_FINDINGS:,} are listed." if len(records) > MOST_FINDINGS else "")
