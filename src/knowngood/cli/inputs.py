"""The data arguments that several commands share: opening, choosing by class, and naming condition columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from knowngood.cli import completion
from knowngood.cli.console import note
from knowngood.config import counted, nearest
from knowngood.config.words import as_share
from knowngood.detector.versions import holds_model, model_at
from knowngood.errors import DataError, SettingsError

if TYPE_CHECKING:
    from knowngood.config import DataOptions
    from knowngood.data import ImageSet
    from knowngood.detector.estimator import Detector
    from knowngood.detector.pipeline import Pipeline

ALL = "all"  # every split
SEVERAL = "repeatable; a value with a comma in double quotes: 'camera=\"A, left\"'"  # of --as
Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="a folder, manifest, .zip, .tar, idx, npz or parquet file, image, video, URL (s3://…), or named data set",
        show_default=False,
        autocompletion=completion.data_sets,
    ),
]
Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="a folder that `train` wrote", show_default=False, autocompletion=completion.models
    ),
]
Scorer = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="a folder that `train` wrote, or a file that `export` wrote",
        show_default=False,
        autocompletion=completion.models,
    ),
]
Normal = Annotated[
    str | None, typer.Option(metavar="CLASSES", help="classes that are normal: 1, 0-8, or NORMAL; default: as labelled")
]
Anomalous = Annotated[
    str | None, typer.Option(metavar="CLASSES", help="classes that are anomalous; by default all others")
]
Holdout = Annotated[
    str | None, typer.Option(metavar="CLASSES", help="classes to hold out as anomalous; all others are normal")
]


def error_or_infer(value: str | None) -> str | None:
    """What to do with unknown conditions, as given; refused before anything heavy loads. Raises SettingsError."""
    if value not in (None, "error", "infer"):
        raise SettingsError(f"--unknown {value}: expected error or infer")
    return value


Unknown = Annotated[
    str | None,
    typer.Option(
        callback=error_or_infer,
        metavar="error|infer",
        help="what to do with an unknown condition; default as trained",
    ),
]


def as_rate(text: str) -> float:
    """A rate as typed; refused before anything is scored by it. Raises BadParameter."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise typer.BadParameter(f"{text}; expected a number above 0 and below 1{as_share(text)}")
    return value


Alpha = Annotated[
    float | None,
    typer.Option(parser=as_rate, metavar="FLOAT", help="false-alarm rate of the verdicts; default as trained"),
]
Device = Annotated[str | None, typer.Option(metavar="auto|cpu|gpu|cuda|mps", help="where to compute; default cpu")]
Tolerance = Annotated[
    float | None,
    typer.Option(help="share of unreadable files to set aside; default as trained", min=0, max=1),
]
As = Annotated[
    list[str] | None,
    typer.Option("--as", metavar="COLUMN=VALUE", help=f"the condition of all these images: camera=B; {SEVERAL}"),
]
Split = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="the split to use; all: every image; default: test, where the data has it"),
]
KnownClass = Annotated[
    bool,
    typer.Option(
        "--known-class",
        help="give the model the true class; default: hidden, if normal and anomalous follow from it",
    ),
]


def check_company(flag: str, value: object, other: str, lacks: bool) -> None:
    """Raise SettingsError for an option that is given without the one it belongs to, such as "--out OUT"."""
    if value is not None and lacks:
        raise SettingsError(f"{flag} {value} goes with {other}; give that too, or leave {flag} out")


def with_values(images: ImageSet, values: dict[str, str], known: list[str]) -> ImageSet:
    """All images with these values in these condition columns.

    Raises:
        DataError: a column is none of those that are `known` to the model, so that its value would change nothing.
    """
    import numpy as np

    for column in values:
        if column not in known:
            hint = nearest(column, known) if known else "; it has none: leave --as out"
            raise DataError(f"--as {column}: the model has no such condition{hint}")
    return images.annotate(None, {column: np.full(len(images), value) for column, value in values.items()})


def open_selected(
    data: str,
    *,
    normal: str | None = None,
    anomalous: str | None = None,
    holdout: str | None = None,
    strict: bool = False,
    data_options: DataOptions | None = None,
    remarks: bool = True,
) -> ImageSet:
    """Open a data argument within the bounds of these options, and keep the classes that were asked for.

    Args:
        remarks: say on stderr what was set aside though it can be read, such as images beside the folders of classes.
    """
    from knowngood.data import open_images
    from knowngood.data.readers.limits import Limits
    from knowngood.data.select import select
    from knowngood.data.values import listing

    images = open_images(data, strict=strict, limits=None if data_options is None else Limits.of(data_options))
    aside = [one for one in images.rejected if one.severity == "warning"]
    if remarks and aside:
        n, first = counted(len(aside), "file"), f"{aside[0].path_or_id}: {aside[0].reason}"
        note(
            f"set aside, or with a remark: {n} of {images.name}; `knowngood inspect {quote(data)}` lists all ({first})"
        )
    others = [one for one in images.rejected if remarks and one.kind == "ignored"]
    for reason in dict.fromkeys(one.reason for one in others):
        note(f"not read: {listing([one.path_or_id for one in others if one.reason == reason], most=3)}: {reason}")
    if any(classes is not None for classes in (normal, anomalous, holdout)):  # an empty text names no class: refused
        images = select(images, normal=normal, anomalous=anomalous, holdout=holdout)
    return images


def note_pace(images: ImageSet, seconds: float) -> None:
    """Of images that are fetched: what limited a run of so many seconds, on stderr."""
    if (pace := getattr(images.pixels, "pace", None)) is not None:
        note(pace.sentence(seconds))


def keep_split(images: ImageSet, name: str | None, default: str = "test") -> tuple[ImageSet, str]:
    """The named split, or without a name the default one where the data has it, else all images; and what it is.

    Raises:
        DataError: the data has no such split; the message names those it has.
    """
    known = set() if images.splits is None else set(images.splits.tolist())
    name = name or (default if default in known else ALL)
    return (images if name == ALL and ALL not in known else images.split(name)), name


def as_words(chosen: Mapping[str, str | None]) -> list[str]:
    """These options, if given, as words of a command."""
    return [word for name, value in chosen.items() if value for word in (f"--{name}", value)]


def keep_conditions(images: ImageSet, columns: list[str]) -> ImageSet:
    """Only these condition columns; `none` alone means no condition.

    Raises:
        DataError: the data has no such column; the message names the nearest one.
    """
    wanted = [part.strip() for column in columns for part in column.split(",") if part.strip()]
    if wanted == ["none"]:
        return images.replace(conditions={})
    for column in wanted:
        if column not in images.conditions:
            raise DataError(f"the data has no column '{column}'" + nearest(column, list(images.conditions)))
    return images.replace(conditions={column: images.conditions[column] for column in wanted})


def hidden_class(unknown: str | None, *detectors: Detector) -> str | None:
    """What to do with unknown conditions once the class is hidden: if a model has it as a condition, it is inferred."""
    if not any(column.name == "class" for detector in detectors for column in detector.pipeline_.schema.columns):
        return unknown
    note("the class gives the labels, so it is hidden from the model and inferred (--known-class shows it)")
    return unknown or "infer"


def check_order(model: Path, data: str | Path | None) -> None:
    """Raise SettingsError where the model stands in the place of the data, and no model in its own."""

    def is_model(path: Path) -> bool:
        return path.is_file() if path.suffix.lower() == ".onnx" else holds_model(path)

    if data is not None and is_model(Path(data)) and not is_model(model):
        raise SettingsError(f"{data} is a model and {model} is none; give the model first: {data} {model}")


def load(model: Path, device: str | None, *data: str | None) -> Detector:
    """The saved detector. `data` are what it is needed for.

    Raises:
        ArtifactError: no usable model at `model`. DataError: no such data. SettingsError: both are swapped. This is
            said before anything heavy loads.
    """
    from knowngood.data.open import check_there

    check_order(model, data[0] if data else None)
    model_at(model)
    for source in data:
        if source is not None:
            check_there(source)
    from knowngood.detector.estimator import Detector

    return Detector.load(model, device=device or "cpu")


def load_pipeline(model: Path) -> Pipeline:
    """The fitted parts of a saved model, for what needs no item scored: a backbone of the user's own may be missing.

    Raises ArtifactError: no usable model at `model`.
    """
    from knowngood.detector.model_folder import read, unpack

    model_at(model)
    return unpack(read(model), str(model))[0]
