"""`knowngood inspect`: what is wrong with a data set, before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knowngood.cli.bounds import Bounds, with_bounds
from knowngood.cli.console import STDOUT, for_machines, say, table, write_records
from knowngood.cli.findings import finding_lines
from knowngood.cli.inputs import Anomalous, Data, Holdout, Normal, as_words, load, open_selected
from knowngood.cli.outputs import keep_apart, writing
from knowngood.cli.suspicious import list_suspicious
from knowngood.config import counted
from knowngood.errors import DataError, SettingsError

if TYPE_CHECKING:
    import numpy as np

    from knowngood.data import ImageSet

_SHOWN = 5
ENOUGH = 4  # normal images for a Gaussian at each location, the recipe for photographs
_SEVERITIES = ("error", "warning", "note")


@with_bounds
def inspect(
    data: Data,
    *,
    normal: Normal = None,
    anomalous: Anomalous = None,
    holdout: Holdout = None,
    suspicious: Annotated[
        bool, typer.Option("--suspicious", help="list the normal images with the highest scores, for a person to check")
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="with --suspicious: a trained model; default: one is fitted to DATA, in folds",
        ),
    ] = None,
    most: Annotated[int, typer.Option("--most", min=1, help="with --suspicious: how many images to list")] = 20,
    strict: Annotated[bool, typer.Option("--strict", help="refuse if any file is unreadable")] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(help="share of unreadable files to set aside; default .01, 0 when strict", min=0, max=1),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="write every finding to this file; -: to stdout, alone", metavar="FILE"),
    ] = None,
    bounds: Bounds,
) -> None:
    """List what is wrong with the data, file by file. Exit status 3 if training would refuse the data.

    It refuses more unreadable files and images with two labels than --tolerance allows, and too few normal images.
    Other errors (duplicates across splits, unusable masks) are for you to mend; with --tolerance 0 it refuses them too.

    With --suspicious list the normal images that look most anomalous instead. Anomalies among the images that calibrate
    make a model miss others; it suffices to check those with the highest scores.
    """
    alone = json_file == STDOUT
    with for_machines(alone), writing(None if alone else json_file):
        if model is not None and not suspicious:
            raise SettingsError("--model goes with --suspicious; add that, or leave --model out")
        detector = None if model is None else load(model, None, data)
        options = bounds.over(None if detector is None else detector.pipeline_.settings.data)
        chosen = {"normal": normal, "anomalous": anomalous, "holdout": holdout}
        images = open_selected(data, **chosen, strict=strict, data_options=options, remarks=False)
        keep_apart([data], images, files={"--json": None if json_file == STDOUT else json_file})
        if suspicious:
            list_suspicious(images, data, as_words(chosen), model, detector, most, json_file)
            return
        from knowngood.data.audit import audit

        found = audit(images)
        if json_file:
            write_records(json_file, found.to_records())
        say(f"{images.variant or images.name}: {counted(len(found.images), 'readable image')}")
        for line in _understood(found.images):
            say(line)
        if found.findings:
            counts = Counter((one.kind, one.severity) for one in found.findings)
            rows = [(kind, severity, n) for (kind, severity), n in counts.items()]
            rows.sort(key=lambda row: (_SEVERITIES.index(row[1]), -row[2], row[0]))
            table(["finding", "severity", "count"], rows)
            for line in finding_lines(found.to_records(), _SHOWN):
                say(line)
            if max(counts.values()) > _SHOWN:
                say(f"At most {_SHOWN} of a kind are shown; --json FILE writes all {len(found.findings):,}.")
        else:
            say("no problems found")
        found.check((0.0 if strict else 0.01) if tolerance is None else tolerance)
        _refuse_too_few(found.images)


def _refuse_too_few(images: ImageSet) -> None:
    """Raises DataError: fewer normal images than `train` needs with the recipe that it chooses for them."""
    if images.splits is not None and "train" in images.splits:
        images = images.split("train")
    normals = images[images.labels != 1]
    if len(normals) < ENOUGH:
        from knowngood.detector.fit.auto import PHOTOGRAPH

        photographs = len(normals) > 0 and normals.pixels.shapes()[:, :2].min() >= PHOTOGRAPH
        needed = ENOUGH if photographs else 2
        if len(normals) < needed:
            raise DataError(
                f"{images.name}: {counted(len(normals), 'normal image')} to train on; `knowngood train` needs at least "
                f"{needed} here, and more for a guaranteed false-alarm rate: docs/guide/calibration.md, How many images"
            )


def _understood(images: ImageSet) -> list[str]:
    """Splits, labels, condition columns and masks as read from the layout, with their counts."""
    import numpy as np

    labels = ["normal" if label == 0 else "anomalous" if label == 1 else "no label" for label in images.labels]
    columns = {"split": images.splits, "label": np.array(labels), **images.conditions}
    lines = []
    if images.masks is not None:
        lines.append(f"masks: of {counted(sum(mask is not None for mask in images.masks), 'image')}")
    for name, values in columns.items():
        if values is not None:
            lines.append(f"{name}: {_values_text(name, values)}")
    return lines


def _values_text(name: str, values: np.ndarray) -> str:
    """The most frequent values; the range of numbers that make bins; the first of values that name the images."""
    from knowngood.data.columns import Column, identifies

    counts = Counter(map(str, values.tolist())).most_common()
    if len(counts) > _SHOWN and identifies(values):
        return f"another value for each image, such as {counts[0][0]}; no condition unless it is asked for"
    with suppress(DataError):  # a value is missing
        if Column.fit(name, values, len(values), ("model",)).kind == "continuous":
            return f"{min(values.tolist()):g} to {max(values.tolist()):g}, {len(counts):,} values"
    shown = ", ".join(f"{value} ({n:,})" for value, n in counts[:_SHOWN])
    return shown + (f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else "")
