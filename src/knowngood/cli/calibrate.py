"""`knowngood calibrate`: new thresholds for a saved model, from normal images that it was not fitted to."""

from __future__ import annotations

import shlex
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knowngood.cli.bounds import Bounds, with_bounds
from knowngood.cli.console import AsJson, emit, for_machines, note, say, table
from knowngood.cli.inputs import (
    ALL,
    SEVERAL,
    Anomalous,
    Data,
    Device,
    Holdout,
    Model,
    Normal,
    Tolerance,
    as_words,
    check_order,
    keep_split,
    load,
    open_selected,
)
from knowngood.cli.outputs import check_out, note_dependent, say_false_alarms, writing
from knowngood.config import counted
from knowngood.data.column_values import as_values
from knowngood.detector.versions import model_at
from knowngood.errors import DataError

if TYPE_CHECKING:
    from knowngood.detector.estimator import Detector


@with_bounds
def calibrate(
    model: Model,
    data: Data,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="save the model here; default: a new version in MODEL"),
    ] = None,
    normal: Normal = None,
    anomalous: Anomalous = None,
    holdout: Holdout = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="calibrate on this split alone; default: every image")
    ] = None,
    as_group: Annotated[
        list[str] | None,
        typer.Option(
            "--as",
            metavar="COLUMN=VALUE",
            help=f"keep the present calibration and add this group to it: camera=B; {SEVERAL}",
        ),
    ] = None,
    tolerance: Tolerance = None,
    as_json: AsJson = False,
    device: Device = None,
    bounds: Bounds,
) -> None:
    """Calibrate a model on normal images that it was not fitted to, for example of a new camera, and save it.

    All p-values and thresholds come from these images from then on. With --as only images with that value in that
    column are compared with them, and all others as before; the model need not know the column. Nothing is fitted
    again. Without --out it is a new version in MODEL, which comes into use; `knowngood rollback` goes back. Images that
    are labelled anomalous are not used; files that cannot be read are set aside by name.
    """
    group = as_values(as_group) or None
    check_order(model, data)
    check_out(model, out)
    with for_machines(as_json), writing(folders=[out or model_at(model)]):
        detector = load(model, device, data)
        options = bounds.over(detector.pipeline_.settings.data)
        images = open_selected(data, normal=normal, anomalous=anomalous, holdout=holdout, data_options=options)
        images, _ = keep_split(images, split, default=ALL)
        normals = images[images.labels != 1]
        if len(normals) < len(images):
            note(f"left out: {counted(len(images) - len(normals), 'image')} labelled anomalous")
        if not len(normals):
            raise DataError(f"{images.name}: no normal image is left to calibrate on; check the choice of classes")
        from knowngood.data import ImageSet
        from knowngood.detector.decide import limit, limit_in

        lost = _lost(detector, group)
        detector.calibrate(normals, as_group=group, tolerance=tolerance)
        used = detector.about_["history"][-1]["items"]
        if lost:
            note(f"replaced: the calibration by {lost}")
        folder = detector.save(out or model_at(model))
        pipeline = detector.pipeline_
        assert pipeline.calibration is not None
        say(f"calibrated on {counted(used, 'normal image')} of {images.variant or images.name}")
        if group is None:
            note_dependent(used, len(pipeline.calibration))
        groups = [
            (row["condition"] or "all", row["normals"], limit(pipeline)) for row in pipeline.calibration.summary()
        ]
        groups += [(one.name, len(one.calibration), limit_in(pipeline, one.calibration)) for one in pipeline.added]
        few = "nothing is flagged: too few images"
        rows = [(name, f"{n:,}", f"{above:.6g}" if isfinite(above) else few) for name, n, above in groups]
        table(["Mondrian group", "images", f"flagged at α = {detector.alpha:g}: anomaly_score above"], rows)
        say_false_alarms(detector)
        say(f"model   {folder}")
        if group is None and split is None and isinstance(images, ImageSet):
            check = shlex.join([data, *as_words({"normal": normal, "anomalous": anomalous, "holdout": holdout})])
            check = f"knowngood inspect {check} --suspicious --model {shlex.quote(str(folder))}"
            say(f"next    {check}")
            say("        the highest scores of these images set the threshold: check by eye that they are normal")
        record = {"model": folder, "data": data, "images": used, "alpha": detector.alpha}
        record["groups"] = [{"group": name, "images": n, "flagged_above": above} for name, n, above in groups]
        emit(record)


def _lost(detector: Detector, group: dict[str, str] | None) -> str:
    """The calibration that a new one replaces: how many images, and where they came from."""
    pipeline, data = detector.pipeline_, detector.about_["data"]
    added = [one for one in pipeline.added if group is None or one.values == group]
    parts = [f"{counted(len(one.calibration), 'image')} of {one.source} ({one.name})" for one in added]
    if group is None and pipeline.calibration is not None:
        n, name = f"{len(pipeline.calibration):,}", data["name"]
        origin = {"set": f"images of {data.get('calibrated_on', name)}", "cross": f"training images of {name}"}
        parts.insert(0, f"{n} {origin.get(pipeline.calibrated_by, f'images set aside from the training of {name}')}")
    return ", and ".join(parts)
