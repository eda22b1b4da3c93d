"""`knowngood update`: a saved model takes new normal images, and is calibrated anew."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from knowngood.cli.bounds import Bounds, with_bounds
from knowngood.cli.console import AsJson, emit, for_machines, note, say
from knowngood.cli.inputs import (
    Anomalous,
    Device,
    Holdout,
    Model,
    Normal,
    Tolerance,
    as_words,
    check_order,
    load,
    open_selected,
)
from knowngood.cli.outputs import check_out, say_false_alarms, writing
from knowngood.cli.review_update import from_reviews
from knowngood.config import counted
from knowngood.detector.run_record import trained_on
from knowngood.detector.versions import model_at
from knowngood.errors import SettingsError

Data = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="a folder, manifest, .zip, .tar, idx or npz file, image, or named data set; with --reviews a folder of "
        "judged images, default MODEL-judged",
        show_default=False,
    ),
]


@with_bounds
def update(
    model: Model,
    data: Data = None,
    *,
    reviews: Annotated[
        bool,
        typer.Option("--reviews", help="learn from the reviews of judged images: false alarms, missed defects"),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="with --reviews: show what would come of it, and write nothing")
    ] = False,
    calibrate_on: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="normal images that calibrate; default: half of the new ones, which are kept out"
        ),
    ] = None,
    old: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="OLD",
            help="the data that a VAE was trained on; its training goes on with both. With --reviews: of any model; "
            "default as `train` recorded it",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="save the model here; default: a new version in MODEL"),
    ] = None,
    normal: Normal = None,
    anomalous: Anomalous = None,
    holdout: Holdout = None,
    tolerance: Tolerance = None,
    as_json: AsJson = False,
    device: Device = None,
    bounds: Bounds,
) -> None:
    """Let a model take new normal images, without the old ones where it can, and calibrate it anew.

    All p-values and thresholds come from new images from then on. The former version stays: `knowngood rollback` goes
    back to it. Images that are labelled anomalous are known defects, on features; else they are not used.

    With --reviews it learns from what people said of judged images: false alarms join the fit and never calibrate,
    defects are known defects.
    """
    chosen: dict[str, Any] = {"normal": normal, "anomalous": anomalous, "holdout": holdout}
    with for_machines(as_json):
        if reviews:
            if tolerance is not None:
                raise SettingsError(
                    f"--tolerance {tolerance:g} is of DATA; with --reviews it is as trained, leave it out"
                )
            from_reviews(model, data, old, calibrate_on, out, device, bounds, chosen, dry_run=dry_run)
            return
        if dry_run:
            raise SettingsError("--dry-run goes with --reviews")
        if data is None:
            raise SettingsError(
                "no DATA given: name the new images, or --reviews to learn from reviews of judged images"
            )
        check_order(model, data)
        check_out(model, out)
        from knowngood.config import VAEOptions

        with writing(folders=[out or model_at(model)]):
            detector = load(model, device, data, old, calibrate_on)
            if old is None and isinstance(detector.pipeline_.settings.model, VAEOptions):
                words = ["knowngood", "update", str(model), data, "--with", trained_on(model) or "OLD"]
                words += as_words(chosen)
                raise SettingsError(
                    "this model is a network: trained on new images alone it would forget the old ones. Give the data "
                    f"that it was trained on too: {shlex.join(words)}"
                )
            options = bounds.over(detector.pipeline_.settings.data)
            new, known, others = (
                None if source is None else open_selected(source, **chosen, data_options=options)
                for source in (data, old, calibrate_on)
            )
            assert new is not None
            detector.update(new, calibration_set=others, old=known, tolerance=tolerance, progress=True)
            folder = detector.save(out or model_at(model))
        taken, calibration = detector.about_["history"][-1]["items"], detector.pipeline_.calibration
        assert calibration is not None
        data_of = detector.about_["data"]
        say(
            f"updated with {counted(taken, 'normal image')} of {new.variant or new.name}, {data_of['normals']:,} in all"
        )
        say(f"calibrated on {len(calibration):,} of {data_of['calibrated_on']}")
        say_false_alarms(detector)
        if "labels" in detector.about_:
            note(detector.about_["labels"]["sentence"])
        note("the former calibration does not count any more, and `knowngood monitor` needs a new state")
        say(f"model   {folder}")
        emit(
            {
                "model": folder,
                "data": data,
                "taken": taken,
                "normals": data_of["normals"],
                "calibrate": len(calibration),
            }
        )
