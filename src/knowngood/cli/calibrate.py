"""`knowngood calibrate`: new thresholds for a saved model, from normal images that it was not fitted to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from knowngood.cli.console import note, say, table
from knowngood.cli.inputs import Anomalous, Data, Device, Holdout, Model, Normal, load, model_folder, open_selected
from knowngood.errors import DataError, SettingsError


def calibrate(
    model: Model,
    data: Data,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="save the model here; default: replace MODEL")
    ] = None,
    normal: Normal = None,
    anomalous: Anomalous = None,
    holdout: Holdout = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="use this split only, where the data have splits")
    ] = None,
    device: Device = None,
) -> None:
    """Calibrate a model on normal images that it was not fitted to, for example of a new camera, and save it.

    All p-values and thresholds come from these images from then on. Nothing is fitted again. Without --out the
    calibrated model replaces MODEL. Images that are labelled anomalous are not used.
    """
    if out is not None and out.resolve() != model_folder(model).resolve() and out.exists() and any(out.iterdir()):
        raise SettingsError(f"--out {out}: this folder is not empty; choose another one")
    detector = load(model, device)
    images = open_selected(data, normal=normal, anomalous=anomalous, holdout=holdout)
    if split is not None:
        if images.splits is None or split not in set(images.splits):
            known = "no splits" if images.splits is None else ", ".join(sorted(set(map(str, images.splits))))
            raise DataError(f"{images.name}: no split '{split}' (the data have {known})")
        images = images.split(split)
    normals = images[images.labels != 1]
    if len(normals) < len(images):
        note(f"{len(images) - len(normals):,} images labelled anomalous are left out")
    if not len(normals):
        raise DataError(f"{images.name}: no normal image is left to calibrate on; check the choice of classes")
    detector.calibrate(normals)
    folder = detector.save(out or model_folder(model))
    calibration = detector.pipeline_.calibration
    assert calibration is not None
    say(f"calibrated on {len(calibration):,} normal images of {images.variant or images.name}")
    rows = [
        (row["condition"] or "all", f"{row['normals']:,}", f"{row['threshold']:.6g}") for row in calibration.summary()
    ]
    table(["Mondrian group", "images", f"threshold at α = {calibration.alpha:g}"], rows)
    say(f"model   {folder}")
