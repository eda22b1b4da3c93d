"""`knowngood evaluate`: metrics of a saved model on labelled images, and a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knowngood.cli.bounds import Bounds, with_bounds
from knowngood.cli.console import STDOUT, emit, for_machines, note, say, table
from knowngood.cli.inputs import (
    Alpha,
    Anomalous,
    As,
    Data,
    Device,
    Holdout,
    KnownClass,
    Model,
    Normal,
    Split,
    Unknown,
    hidden_class,
    keep_split,
    load,
    note_pace,
    open_selected,
    with_values,
)
from knowngood.cli.outputs import keep_apart, link, note_unread, this_command, unread_in, writing
from knowngood.config import counted
from knowngood.data.column_values import as_values
from knowngood.detector.versions import model_at
from knowngood.files import write_json

if TYPE_CHECKING:
    from knowngood.evaluation.evaluate import Evaluation


@with_bounds
def evaluate(
    model: Model,
    data: Data,
    *,
    normal: Normal = None,
    anomalous: Anomalous = None,
    holdout: Holdout = None,
    split: Split = None,
    known_class: KnownClass = False,
    alpha: Alpha = None,
    as_condition: As = None,
    unknown: Unknown = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="write a report: one HTML file")] = None,
    inspect: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write an inspection page: images with their maps, one HTML file"),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="write the metrics to this file; -: to stdout, alone")
    ] = None,
    device: Device = None,
    bounds: Bounds,
) -> None:
    """Measure a model on labelled images: AUROC with its interval, average precision, false alarms, detections."""
    alone = json_file == STDOUT
    with for_machines(alone), writing(report, inspect, None if alone else json_file):
        detector = load(model, device, data)
        options = bounds.over(detector.pipeline_.settings.data)
        images = open_selected(data, normal=normal, anomalous=anomalous, holdout=holdout, data_options=options)
        _mention_other_classes(model, data, {"normal": normal, "holdout": holdout})
        images, split = keep_split(images, split)
        images = with_values(images, as_values(as_condition), detector.pipeline_.given_columns)
        outputs = {"--report": report, "--inspect": inspect, "--json": None if alone else json_file}
        keep_apart([data], images, files=outputs)
        classes = images.conditions.get("class")
        if (normal or anomalous or holdout) and not known_class and classes is not None:
            images = images.replace(conditions={k: v for k, v in images.conditions.items() if k != "class"})
            unknown = hidden_class(unknown, detector)

        from knowngood.evaluation.evaluate import evaluate as measured

        mapped = inspect is not None and detector.pipeline_.score.has_map
        found = measured(detector, images, alpha=alpha, unknown=unknown, explain=inspect is not None, maps=mapped)  # type: ignore[arg-type]
        note_pace(images, found.seconds)
        _print(found)
        if json_file:
            record = {"model": str(model), "data": data, "split": split, "alpha": found.alpha, **found.metrics}
            record["batch"] = found.table.attrs.get("batch")
            if alone:
                emit(record)
            else:
                write_json(json_file, record)
                say(f"metrics {json_file}")
        title = f"{images.variant or images.name}" + (f", {holdout} held out" if holdout else "")
        if report:
            from knowngood.evaluation.report import report_inputs, write_report

            files = {
                "all images with their maps": inspect,
                "metrics as JSON": None if alone else json_file,
                "the model": model_at(model),
            }
            links = [(words, link(place, report)) for words, place in files.items() if place is not None]
            about = {"title": title, "command": this_command(), "classes": classes, "links": links}
            write_report(report, report_inputs(detector, found, **about))
            say(f"report  {report}")
        if inspect:
            from knowngood.evaluation.report import inspected, write_inspection

            explanations = found.table.attrs["explanations"]
            items = inspected(detector, images, found.table, explanations, found.maps)
            links = [("The report", link(report, inspect))] if report else []
            about = {"alpha": found.alpha, "title": title, "command": this_command(), "links": links}
            write_inspection(inspect, items, found.table, **about)
            say(f"images  {inspect}")


def _mention_other_classes(model: Path, data: str, chosen: dict[str, str | None]) -> None:
    """Warn where other classes are normal, or held out, than in the training on the same data."""
    from knowngood.detector.run_record import command_of

    record = command_of(model)
    if record.get("data") != data or not any(chosen.values()):
        return
    for name, now in chosen.items():
        was = record.get(name)
        if now != was:
            said = [f"--{name} {value}" if value else f"no --{name}" for value in (was, now)]
            note(
                f"warning: the model was trained with {said[0]} and is evaluated with {said[1]}: what it learned as "
                "normal counts as anomalous, or the other way round. Give the same, unless that is what you measure"
            )


def _print(found: Evaluation) -> None:
    metrics = found.metrics
    low, high = metrics["auroc_interval"]
    asked = f"of {metrics['normals']:,} normal; asked for {found.alpha:g}"
    if "false_alarm_range" in metrics:
        least, most = metrics["false_alarm_range"]
        rate = metrics["false_alarm_rate"]
        where = "below" if rate < least else "above" if rate > most else "within"
        asked += f", {where} the 95 % interval expected, {least:.4f} to {most:.4f}"
    rows = [
        ("AUROC", f"{metrics['auroc']:.4f}", f"95 % interval {low:.4f} to {high:.4f}"),
        ("average precision", f"{metrics['average_precision']:.4f}", ""),
        ("false positives at 95 % detected", f"{metrics['fpr_at_95_tpr']:.4f}", ""),
        ("false alarms", f"{metrics['false_alarm_rate']:.4f}", asked),
        ("anomalies detected", f"{metrics['detection_rate']:.4f}", f"of {metrics['anomalies']:,} anomalous"),
    ]
    if "wrong" in metrics:
        auroc = metrics.get("auroc_mismatch")
        value = "" if auroc is None else f"{auroc:.4f}"
        rows.append(("AUROC of the mismatch", value, f"{metrics['wrong']:,} wrong for what they are said to be"))
    table(["metric", "value", ""], rows)
    if (fitted := metrics["fitted"]) and "fitted" not in found.table.attrs:  # else a warning says it
        from knowngood.evaluation.results import of_training

        note(f"warning: {of_training(fitted, metrics['normals'])}")
    if metrics["unreadable"]:
        note(f"unreadable and excluded: {counted(metrics['unreadable'], 'image')}")
        note_unread(unread_in(found.table))
