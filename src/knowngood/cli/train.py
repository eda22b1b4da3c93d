"""`knowngood train`: from data to a saved model, with the run's log and checkpoints beside it."""

from __future__ import annotations

import json
import shlex
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from knowngood import __version__
from knowngood.cli.console import note, on_terminal, say
from knowngood.cli.inputs import Anomalous, Holdout, Normal, keep_conditions, open_selected
from knowngood.cli.options import with_settings
from knowngood.config import Settings
from knowngood.errors import DataError, SettingsError

if TYPE_CHECKING:
    from knowngood.data import ImageSet
    from knowngood.detector.estimator import Detector


@with_settings
def train(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA", help="a folder, manifest, idx or npz file, or named data set", show_default=False
        ),
    ] = None,
    *,
    settings: Settings,
    task: Annotated[str | None, typer.Option(metavar="DATA", help="another way to say DATA")] = None,
    normal: Normal = None,
    anomalous: Anomalous = None,
    holdout: Holdout = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="a column to condition on, repeatable; default all; none for no condition"),
    ] = None,
    train_size: Annotated[
        int | None, typer.Option(min=1, help="train on this many images at most, drawn by the seed")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "--outdir", metavar="DIR", help="default runs/<prefix><data>-<objective>")
    ] = None,
    prefix: Annotated[str, typer.Option(help="put before the name of the default output folder")] = "",
    num_generated_image: Annotated[
        int, typer.Option(min=0, help="draw this many training images with their reconstructions")
    ] = 0,
    film: Annotated[
        Path | None, typer.Option(metavar="FILE.gif", help="write how held-out images are reconstructed as it learns")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on from the last checkpoint in the output folder")
    ] = False,
) -> None:
    """Learn what good images look like, calibrate on good images kept aside, and save the model.

    Only the train split is used where the data has one. Images labelled anomalous teach what is odd, or are left out
    with --labelled ignore; held-out classes never teach, those that --normal does not name only by --labelled. Writes
    OUT/model (give OUT or this folder to `score`, `evaluate` and `info`), OUT/run (log and checkpoints) and
    OUT/command.json.
    """
    source = _one_source(data, task)
    chosen = {"normal": normal, "anomalous": anomalous, "holdout": holdout}
    folder = _output_folder(out, prefix, source, settings.objective.name, resume)

    if num_generated_image and (settings.representation != "pixels" or settings.features != "none"):
        raise SettingsError(
            "--num-generated-image draws reconstructions, and those of edges or features are no pictures; leave it "
            "out, or train on pixels"
        )
    if holdout and settings.labelled not in ("auto", "ignore"):
        raise SettingsError(
            f"--holdout {holdout} keeps classes away from training, --labelled {settings.labelled.name} would "
            "teach them; name the classes that may teach by --anomalous"
        )
    if holdout or (normal and not anomalous and settings.labelled == "auto"):  # no one names what may teach
        settings = settings.model_copy(update={"labelled": "ignore"})
    images = open_selected(source, **chosen, strict=settings.strict)
    labelled = bool((images.labels == 1).any() and (images.labels == 0).any())
    images, good = _to_train_on(images, settings, train_size, condition or [])
    if any(chosen.values()):
        if "unknown" not in settings.model_fields_set:
            settings = settings.model_copy(update={"unknown": "infer"})
    else:
        _mention_classes(good)

    from knowngood.calibration import minimum_normals
    from knowngood.detector.estimator import Detector

    note(f"training {settings.objective.name} on {len(good):,} good images; the log grows in {folder / 'run'}")
    detector = Detector.from_settings(settings)
    try:
        detector.fit(images, run_dir=folder / "run", resume=resume, progress=on_terminal(), film=film)
    except KeyboardInterrupt:
        note(f"interrupted; the same command with --out {shlex.quote(str(folder))} --resume goes on where it stopped")
        raise
    detector.save(folder / "model")
    for finding in detector.training_["audit"]:
        if finding["severity"] == "error":
            note(f"set aside or to look at: {finding['path_or_id']}: {finding['reason']}")
    if "labelled" in detector.about_:
        note(detector.about_["labelled"]["sentence"])
    calibration = detector.pipeline_.calibration
    if calibration is not None and len(calibration) < minimum_normals(settings.alpha):
        needed = minimum_normals(settings.alpha)
        note(
            f"warning: alpha = {settings.alpha:g} needs {needed} calibration normals, there are "
            f"{len(calibration)}: nothing can be flagged. Give more good images or a larger --alpha."
        )
    used = detector.about_["data"]["normals"]
    _write_command(folder, source, chosen, settings, used)
    conditions = ", ".join(column.name for column in detector.pipeline_.schema.columns)
    given = f", given {conditions}" if conditions else ""
    say(f"trained {settings.objective.name} on {used:,} good images of {images.variant or images.name}{given}")
    say(f"model   {folder / 'model'}")
    say(f"log     {folder / 'run'}")
    if film is not None:
        say(f"film    {film}")
    if num_generated_image:
        _draw_reconstructions(folder / "reconstructions.png", detector, good[:num_generated_image])
        say(f"drawn   {folder / 'reconstructions.png'}")
    if labelled:
        words = [str(folder), source, *(word for key, value in chosen.items() if value for word in (f"--{key}", value))]
        say(f"next    knowngood evaluate {shlex.join([*words, '--report', str(folder / 'report.html')])}")
    else:
        say(f"next    knowngood score {shlex.quote(str(folder))} NEW_IMAGES --output results.csv")


def _one_source(data: str | None, task: str | None) -> str:
    if data and task and data != task:
        raise SettingsError(f"DATA is given twice: '{data}' and --task '{task}'; give one of them")
    source = data or task
    if not source:
        raise SettingsError(
            "no data given: name a folder, a manifest, an idx or npz file, or a data set (knowngood data list)"
        )
    return source


def _output_folder(out: Path | None, prefix: str, source: str, objective: str, resume: bool) -> Path:
    if out is None:
        stem = f"{prefix}{Path(source).name or Path(source).resolve().name}-{objective}"
        last = free = Path("runs") / stem
        for n in count(2):
            if not free.exists():
                return last if resume else free
            last, free = free, Path("runs") / f"{stem}-{n}"
    assert out is not None
    if (out / "model").exists() and not resume:
        raise SettingsError(f"--out {out}: this folder already holds a model; choose another folder or remove it")
    if (out / "run").exists() and not resume:
        raise SettingsError(f"--out {out}: this folder holds an unfinished run; add --resume, or choose another folder")
    return out


def _to_train_on(
    images: ImageSet, settings: Settings, train_size: int | None, columns: list[str]
) -> tuple[ImageSet, ImageSet]:
    """What the fit is given, all of it, so that its audit finds leaks; and the good images it will learn from."""
    import numpy as np

    train = np.ones(len(images), bool)
    if images.splits is not None and "train" in images.splits:
        train = images.splits == "train"
    good = np.flatnonzero(train & (images.labels != 1))
    if len(good) < train.sum():
        from knowngood.detector.fit.given import labelled_term
        from knowngood.detector.fit.patch_fitting import teaches_score

        teach = teaches_score(settings) or labelled_term(settings, settings.objective.build()) is not None
        role = "teach what is odd" if teach else "are left out of training"
        note(f"{train.sum() - len(good):,} images labelled anomalous {role}")
    if len(good) == 0:
        raise DataError(f"{images.name}: no good image is left to train on; check the choice of classes")
    kept = np.ones(len(images), bool)
    if train_size is not None and train_size < len(good):
        kept[np.random.default_rng(settings.random_state).permutation(good)[train_size:]] = False
        good = good[kept[good]]
    images = keep_conditions(images, columns) if columns else images
    return images[kept], images[good]


def _mention_classes(images: ImageSet) -> None:
    if "class" in images.conditions and not (images.labels == 0).all():
        classes = sorted({str(value) for value in images.conditions["class"]})
        if len(classes) > 1:
            shown = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
            note(f"all {len(classes)} classes count as good ({shown}); --normal or --holdout chooses among them")


def _write_command(folder: Path, source: str, chosen: dict[str, Any], settings: Settings, n: int) -> None:
    record = {
        "command": shlex.join(["knowngood", *sys.argv[1:]]),
        "knowngood": __version__,
        "data": source,
        **{key: value for key, value in chosen.items() if value},
        "images": n,
        "settings": settings.model_dump(mode="json"),
    }
    (folder / "command.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _draw_reconstructions(path: Path, detector: Detector, images: ImageSet) -> None:
    import numpy as np

    from knowngood.evaluation.figures import triptychs

    pipeline = detector.pipeline_
    images = images.replace(
        conditions={column.name: images.conditions[column.name] for column in pipeline.schema.columns}
    )
    seen, made = (np.moveaxis(part, 1, -1) for part in pipeline.reconstruct(images))
    triptychs(list(zip(seen, made, strict=True)), [str(name) for name in images.ids]).savefig(path, bbox_inches="tight")
