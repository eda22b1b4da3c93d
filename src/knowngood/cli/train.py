"""`knowngood train`: from data to a saved model, with the run's log and checkpoints beside it."""

from __future__ import annotations

import math
import shlex
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from knowngood.cli.completion import data_sets
from knowngood.cli.console import AsJson, emit, for_machines, note, say, silent
from knowngood.cli.findings import counted_lines
from knowngood.cli.inputs import Anomalous, Holdout, Normal, as_words, keep_conditions, open_selected
from knowngood.cli.options import with_settings
from knowngood.cli.outputs import note_dependent, say_false_alarms, this_command, writing
from knowngood.cli.processes import follows
from knowngood.cli.train_each import train_each
from knowngood.config import AutoOptions, PixelOptions, Settings, Shift, VAEOptions, counted
from knowngood.config.version import __version__
from knowngood.data.progress import in_words
from knowngood.detector.versions import OF_RUN
from knowngood.errors import DataError, Interrupted, SettingsError
from knowngood.files import write_json

if TYPE_CHECKING:
    from knowngood.data import ImageSet
    from knowngood.detector.estimator import Detector

SAID = ("too-few",)  # findings of which other lines say more
NO_PICTURES = "only a VAE on pixels reconstructs images"


@with_settings
def train(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="a folder, manifest, archive, idx, npz or parquet file, video, URL (s3://…), or named data set",
            show_default=False,
            autocompletion=data_sets,
        ),
    ] = None,
    *,
    settings: Settings,
    task: Annotated[str | None, typer.Option(metavar="DATA", help="DATA, given as an option")] = None,
    normal: Normal = None,
    anomalous: Anomalous = None,
    holdout: Holdout = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="a column to condition on; repeatable; default all; none: no condition"),
    ] = None,
    train_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="train on so many images at most, drawn at random; default all"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", "--outdir", metavar="DIR", help="default runs/<prefix><data>-<model>")
    ] = None,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="put before the name of the default output folder")] = "",
    num_generated_image: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", show_default=False, help="draw so many reconstructions of training images; default 0"
        ),
    ] = 0,
    film: Annotated[
        bool, typer.Option("--film", help="write a GIF of reconstructions of held-out images during the training")
    ] = False,
    each: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="a model for each value of this column, such as product, in OUT/<value>"),
    ] = None,
    fits: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="with --each: fits at a time; default one for each CPU")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="local|ADDRESS", help="with --each: fit on a Ray cluster; default processes")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on from the last checkpoint in the output folder")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="say what would be read, which recipe is taken and how long it takes; stop"),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Learn what normal images look like, calibrate, and save the model; the rest is chosen by the data.

    Only the train split is used where the data have one. Images labelled anomalous are few-shot labels, or are excluded
    with --labels ignore. Held-out classes are never used, and classes that --normal does not name only if --anomalous
    or --labels names them. Written are OUT/model (give OUT or this folder to `score`, `evaluate` and `info`), OUT/run
    (log, checkpoints, film) and OUT/command.json.
    """
    if each is None and (fits or cluster):
        raise SettingsError("--fits and --cluster are for many fits: give --each COLUMN with them")
    if each is not None and (film or num_generated_image or train_size or condition or dry_run):
        others = "--film, --num-generated-image, --train-size, --condition and --dry-run"
        raise SettingsError(f"--each {each} takes no {others}: it is many fits; leave them out")
    if prefix and out is not None:
        note(f"--prefix {prefix} changes nothing: --out {out} names the folder")
    source = _one_source(data, task)
    chosen: dict[str, Any] = {"normal": normal, "anomalous": anomalous, "holdout": holdout}
    several = settings.training.devices * settings.training.nodes > 1
    if several and out is None:
        raise SettingsError("several processes (--devices, --nodes) need --out DIR: they write to one folder")
    following = several and follows()
    as_given = out is not None and (following or dry_run)  # a dry run writes nothing
    folder = out if out and as_given else _output_folder(out, prefix, source, _method(settings), resume)
    if dry_run:
        with for_machines(as_json):
            _dry_run(source, chosen, settings, train_size, condition or [], folder)
        return
    with for_machines(as_json), silent() if following else writing(folders=[folder, folder / OF_RUN]):
        settings = _checked(settings, chosen, num_generated_image, film)
        if each is not None:
            images = open_selected(source, **chosen, strict=settings.data.strict, data_options=settings.data)
            train_each(images, settings, each, folder, workers=fits, address=cluster)
            return
        images, normals, settings, measurable = _opened(source, chosen, settings, train_size, condition or [])

        from knowngood.detector.card import false_alarms
        from knowngood.detector.estimator import Detector

        note(f"found {counted(len(normals), 'normal image')}; output in {folder}")
        if hasattr(images.pixels, "kept"):
            size = f"{settings.data.cache_gb:g} GB"
            note(f"copies of up to {size} are kept in a temporary folder until the end (--cache-gb)")
        detector = Detector.from_settings(settings)
        try:
            detector.fit(images, run_dir=folder / "run", resume=resume, progress=not following, film=film)
        except (KeyboardInterrupt, Interrupted):
            note(f"the same command with --out {shlex.quote(str(folder))} --resume goes on where it stopped")
            raise
        if following:  # the first process writes and tells
            return
        note(detector.about_["recipe"])
        detector.save(folder / OF_RUN)
        _mention_findings(detector, source)
        used = detector.about_["data"]["normals"]
        _write_command(folder, source, chosen, settings, used)
        conditions = ", ".join(column.name for column in detector.pipeline_.schema.columns)
        given = f", given {conditions}" if conditions else ""
        method = _method(detector.pipeline_.settings)
        say(f"trained {method} on {counted(used, 'normal image')} of {images.variant or images.name}{given}")
        if detector.pipeline_.calibrated_by == "cross":
            note_dependent(used, len(detector.pipeline_.calibration or ()))
        say_false_alarms(detector)
        say(f"model   {folder / 'model'}")
        record = {"model": folder / "model", "data": source, "normals": used, "recipe": detector.about_["recipe"]}
        record |= {"conditions": conditions.split(", ") if conditions else [], "alpha": detector.alpha}
        emit({**record, "false_alarms": false_alarms(detector.pipeline_), "seconds": detector.about_["seconds"]})
        if (folder / "run").exists():
            say(f"log     {folder / 'run'}")
        if detector.film_ is not None:
            from knowngood.evaluation.figures.reconstruction import film_frames
            from knowngood.evaluation.figures.style import save

            frames = film_frames(detector.film_, detector.training_["history"])
            say(f"film    {save(frames, folder / 'run' / 'reconstructions.gif')}")
        if num_generated_image and _reconstructs(detector.pipeline_.settings):
            note(f"drawing reconstructions of {counted(min(num_generated_image, len(normals)), 'image')}")
            _draw_reconstructions(folder / "reconstructions.png", detector, normals[:num_generated_image])
            say(f"drawn   {folder / 'reconstructions.png'}")
        elif num_generated_image:
            note(f"warning: --num-generated-image draws nothing: {NO_PICTURES}")
        if unable := _unable(detector):
            say(f"next    {unable}")
        elif measurable:
            words = [str(folder), source, *as_words(chosen)]
            say(f"next    knowngood evaluate {shlex.join([*words, '--report', str(folder / 'report.html')])}")
        else:
            say(f"next    knowngood score {shlex.quote(str(folder))} NEW_IMAGES --output results.csv")


def _opened(
    source: str, chosen: dict[str, Any], settings: Settings, train_size: int | None, columns: list[str]
) -> tuple[ImageSet, ImageSet, Settings, bool]:
    """What the fit is given, the normal images of it, the settings for these, and whether the rest can measure it."""
    images = open_selected(source, **chosen, strict=settings.data.strict, data_options=settings.data)
    rest = images.labels[:0] if images.splits is None else images.labels[images.splits == "test"]
    measurable = bool((rest == 1).any() and (rest == 0).any())
    images, normals = _to_train_on(images, settings, train_size, columns)
    if any(chosen.values()):
        if "unknown" not in settings.conditioning.model_fields_set:
            inferring = settings.conditioning.model_copy(update={"unknown": "infer"})
            settings = settings.model_copy(update={"conditioning": inferring})
    else:
        _mention_classes(normals)
    _mention_too_few(len(normals), settings)
    return images, normals, settings, measurable


def _mention_too_few(normals: int, settings: Settings) -> None:
    """Say before the fit that so few images cannot calibrate this alpha, where that is certain."""
    from knowngood.calibration import minimum_normals

    needed = minimum_normals(settings.alpha)
    share = settings.calibration.fraction if settings.calibration.method == "split" else 1.0
    if (most := int(share * normals)) < needed:
        enough = math.ceil(1e4 / (most + 1)) / 1e4
        note(
            f"warning: alpha = {settings.alpha:g} needs {needed:,} calibration images, of "
            f"{counted(normals, 'normal image')} at most {most:,} calibrate: nothing can be flagged. Give "
            f"{math.ceil(needed / share):,} normal images, or --alpha {enough:g} or more"
        )


def _dry_run(
    source: str,
    chosen: dict[str, str | None],
    settings: Settings,
    train_size: int | None,
    columns: list[str],
    folder: Path,
) -> None:
    """Say what `train` would do; nothing is written."""
    from knowngood.cli.dry_run import as_fitted, describe, estimate, lines
    from knowngood.detector.fit.auto import resolve

    images, normals, settings, _ = _opened(source, chosen, _checked(settings, chosen, 0, False), train_size, columns)
    readable = normals.declared()
    if not len(readable):
        raise DataError(f"{normals.name}: none of its images can be read; `knowngood inspect` says why")
    planned = as_fitted(readable, settings)
    resolved, recipe = resolve(settings, planned)
    seen = readable.replace(conditions={**readable.conditions, **planned.conditions})
    found = describe(images, seen, unread=len(normals) - len(readable))
    for line in lines(found):
        say(line)
    say(f"recipe  {recipe}")
    seconds = estimate(resolved, readable, planned)
    say(f"time    about {in_words(seconds)}, by a fit to a few of the images")
    say(f"output  {folder}; nothing was written")
    emit(
        {**found, "recipe": recipe, "settings": resolved.model_dump(mode="json"), "seconds": seconds, "output": folder}
    )


def _method(settings: Settings) -> str:
    """The model in a word: its objective if it is a VAE; empty if it is chosen by the data."""
    if isinstance(settings.model, str):
        return ""
    return getattr(settings.model, "objective", settings.model).name


def _reconstructs(settings: Settings) -> bool:
    """Whether this is a VAE on pixels, as far as it is known before the fit."""
    representation, model = settings.representation, settings.model
    return isinstance(representation, AutoOptions | PixelOptions) and isinstance(model, str | VAEOptions)


def _checked(settings: Settings, chosen: dict[str, str | None], drawn: int, film: bool) -> Settings:
    """The settings for these classes; what could only fail after the training is refused."""
    for flag, wanted in (("--num-generated-image", drawn), ("--film", film)):
        if wanted and not _reconstructs(settings):
            raise SettingsError(
                f"{flag}: {NO_PICTURES}; leave it out, or train with --representation pixels --model vae"
            )
    labels = settings.labels
    if chosen["holdout"] and isinstance(labels, Shift):
        raise SettingsError(
            f"--holdout {chosen['holdout']} keeps classes out of training, --labels {labels.name} would use "
            "them; name the classes that may be used by --anomalous"
        )
    if chosen["holdout"] or (chosen["normal"] and not chosen["anomalous"] and labels == "auto"):
        return settings.model_copy(update={"labels": "ignore"})  # nobody named what may be learned from
    return settings


def _one_source(data: str | None, task: str | None) -> str:
    if data and task and data != task:
        raise SettingsError(f"DATA is given twice: '{data}' and --task '{task}'; give one of them")
    source = data or task
    if not source:
        raise SettingsError(
            "no data given: name a folder, a manifest, an idx or npz file, or a data set (knowngood data list)"
        )
    return source


def _output_folder(out: Path | None, prefix: str, source: str, method: str, resume: bool) -> Path:
    if out is None:
        stem = f"{prefix}{Path(source).name or Path(source).resolve().name}" + f"-{method}" * bool(method)
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
    """What the fit is given, all of it, so that its audit finds leaks; and the normal images it will learn from.

    With a size, images that training excludes are left out as the normal ones beyond it are: none of them is looked at.
    """
    import numpy as np

    train = np.ones(len(images), bool)
    if images.splits is not None and "train" in images.splits:
        train = images.splits == "train"
    normals = np.flatnonzero(train & (images.labels != 1))
    if len(normals) < train.sum():
        role = "training excludes" if settings.labels == "ignore" else "training may use as few-shot labels"
        note(f"labelled anomalous: {counted(train.sum() - len(normals), 'image')}, which {role}")
    if len(normals) == 0:
        raise DataError(f"{images.name}: no normal image is left to train on; check the choice of classes")
    kept = np.ones(len(images), bool)
    if train_size is not None and train_size < len(normals):
        kept[np.random.default_rng(settings.random_state).permutation(normals)[train_size:]] = False
        normals = normals[kept[normals]]
        if settings.labels == "ignore":
            kept[train & (images.labels == 1)] = False
    group = settings.conditioning.group
    if columns:  # the group column is no condition
        kept_group = {name: values for name, values in images.conditions.items() if name == group}
        images = keep_conditions(images, columns).annotate(None, kept_group)
    return images[kept], images[normals]


def _mention_classes(images: ImageSet) -> None:
    from knowngood.data.values import text_of

    if "class" in images.conditions and not (images.labels == 0).all():
        classes = sorted({text for value in images.conditions["class"].tolist() if (text := text_of(value))})
        if len(classes) > 1:
            shown = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
            note(f"all {len(classes)} classes count as normal ({shown}); --normal or --holdout chooses among them")


def _mention_findings(detector: Detector, source: str) -> None:
    """What the audit found, as `inspect` shows it, use of labelled anomalies, and whether the rate is guaranteed."""
    from knowngood.calibration import minimum_normals

    found = [one for one in detector.training_["audit"] if one["severity"] != "note" and one["kind"] not in SAID]
    for line in counted_lines(found):
        note(line)
    if found:
        note(f"`knowngood inspect {shlex.quote(source)}` lists all of them")
    sentence = (detector.about_.get("labels") or {}).get("sentence")
    if sentence:
        note(sentence)
    calibration = detector.pipeline_.calibration
    needed = minimum_normals(detector.pipeline_.level())
    if calibration is not None and len(calibration) < needed <= detector.about_["data"]["normals"]:  # else it was said
        note(
            f"warning: alpha = {detector.alpha:g} needs {needed} calibration images, there are {len(calibration)}: "
            "nothing can be flagged. Give more normal images or a larger --alpha."
        )


def _unable(detector: Detector) -> str:
    """What to do where too few normal images calibrate for anything to be flagged; empty where they do."""
    from knowngood.calibration import minimum_normals

    pipeline, used = detector.pipeline_, detector.about_["data"]["normals"]
    n, needed = len(pipeline.calibration or ()), minimum_normals(pipeline.level())
    if n >= needed:
        return ""
    share = 1.0 if pipeline.calibrated_by == "cross" else pipeline.settings.calibration.fraction
    images, rate = max(math.ceil(needed / share), used + 1), math.ceil(1e4 / (n + 1)) / 1e4
    return (
        f"train on at least {images:,} normal images, or with --alpha {rate:g} or more: with {used:,} nothing can be "
        f"flagged at alpha = {detector.alpha:g} (docs/guide/calibration.md, How many images)"
    )


def _write_command(folder: Path, source: str, chosen: dict[str, Any], settings: Settings, n: int) -> None:
    record = {
        "command": this_command(),
        "knowngood": __version__,
        "data": source,
        "folder": str(Path.cwd()),  # that a relative path of the data is below
        **{key: value for key, value in chosen.items() if value},
        "images": n,
        "settings": settings.model_dump(mode="json"),
    }
    write_json(folder / "command.json", record)


def _draw_reconstructions(path: Path, detector: Detector, images: ImageSet) -> None:
    from knowngood.evaluation.figures.style import save
    from knowngood.evaluation.figures.subject import Subject
    from knowngood.evaluation.figures.triptych import triptychs

    pairs, _ = Subject({"model": detector}, images).pairs(images)
    save(triptychs(pairs, [str(name) for name in images.ids]), path)
