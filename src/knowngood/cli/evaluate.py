"""`knowngood evaluate`: how right a saved model is on labelled images, as numbers and as a report."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knowngood.cli.console import note, say, table
from knowngood.cli.inputs import (
    Anomalous,
    Data,
    Device,
    Holdout,
    KnownClass,
    Model,
    Normal,
    Split,
    Unknown,
    keep_split,
    load,
    open_selected,
)

if TYPE_CHECKING:
    from knowngood.evaluation.evaluate import Evaluation


def evaluate(
    model: Model,
    data: Data,
    *,
    normal: Normal = None,
    anomalous: Anomalous = None,
    holdout: Holdout = None,
    split: Split = "test",
    known_class: KnownClass = False,
    alpha: Annotated[
        float | None, typer.Option(min=0, max=1, help="false-alarm rate of the verdicts; default as trained")
    ] = None,
    unknown: Unknown = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="write a report: one HTML file")] = None,
    inspect: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write an inspection page: images with their maps, one HTML file"),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="write the metrics to this file")
    ] = None,
    device: Device = None,
) -> None:
    """Measure a model on labelled images: AUROC with its interval, average precision, false alarms, detections."""
    detector = load(model, device, unknown)
    images = keep_split(open_selected(data, normal=normal, anomalous=anomalous, holdout=holdout), split)
    classes = images.conditions.get("class")
    if (normal or anomalous or holdout) and not known_class and "class" in images.conditions:
        images = images.replace(conditions={k: v for k, v in images.conditions.items() if k != "class"})
        if any(column.name == "class" for column in detector.pipeline_.schema.columns):
            note("the class gives the labels, so the model does not see it: it is inferred (--known-class shows it)")
            unknown = unknown or "infer"

    from knowngood.evaluation import evaluate as evaluation
    from knowngood.evaluation.inspected import Thumbnails

    small = Thumbnails(detector, images) if inspect and detector.pipeline_.score.has_map else None
    found = evaluation.evaluate(
        detector,
        images,
        alpha=alpha,
        unknown=unknown,  # type: ignore[arg-type]
        explain=inspect is not None,
        each=[small] if small is not None else (),
    )
    _print(found)
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        record = {"model": str(model), "data": data, "split": split, "alpha": found.alpha, **found.metrics}
        json_file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        say(f"metrics {json_file}")
    title = f"{images.variant or images.name}" + (f", {holdout} held out" if holdout else "")
    command = shlex.join(["knowngood", *sys.argv[1:]])
    if report:
        from knowngood.evaluation.report import write_report

        report.parent.mkdir(parents=True, exist_ok=True)
        write_report(report, evaluation.report_inputs(detector, found, title=title, command=command, classes=classes))
        say(f"report  {report}")
    if inspect:
        from knowngood.evaluation.inspected import inspected
        from knowngood.evaluation.report import write_inspection

        said = found.table.attrs["explanations"]
        shown = {} if small is None else small.maps
        items = inspected(detector, images, found.table, said, unknown=unknown, maps=shown)  # type: ignore[arg-type]
        write_inspection(inspect, items, found.table, alpha=found.alpha, title=title, command=command)
        say(f"images  {inspect}")


def _print(found: Evaluation) -> None:
    metrics = found.metrics
    low, high = metrics["auroc_interval"]
    rows = [
        ("AUROC", f"{metrics['auroc']:.4f}", f"95 % interval {low:.4f} to {high:.4f}"),
        ("average precision", f"{metrics['average_precision']:.4f}", ""),
        ("false positives at 95 % found", f"{metrics['fpr_at_95_tpr']:.4f}", ""),
        (
            "false alarms",
            f"{metrics['false_alarm_rate']:.4f}",
            f"of {metrics['normals']:,} good; asked for {found.alpha:g}",
        ),
        ("anomalies found", f"{metrics['detection_rate']:.4f}", f"of {metrics['anomalies']:,} anomalous"),
    ]
    table(["metric", "value", ""], rows)
    if metrics["unreadable"]:
        note(f"{metrics['unreadable']:,} images could not be read and are left out")
