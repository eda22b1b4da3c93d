"""`knowngood figure NAME MODEL DATA --out FILE`: draw one figure of a saved model."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from knowngood.cli import completion
from knowngood.cli.bounds import Bounds, with_bounds
from knowngood.cli.console import say, table
from knowngood.cli.inputs import (
    Anomalous,
    Device,
    Holdout,
    KnownClass,
    Normal,
    Split,
    Unknown,
    hidden_class,
    keep_split,
    load,
    open_selected,
)
from knowngood.cli.outputs import keep_apart, writing
from knowngood.config import nearest
from knowngood.errors import SettingsError
from knowngood.evaluation.figures import COMPARING, FIGURES

if TYPE_CHECKING:
    from knowngood.detector.estimator import Detector

FORMATS = (".png", ".svg", ".pdf")
MOVING = ".gif"


@with_bounds
def figure(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="its name; without one, list them", autocompletion=completion.one_of(FIGURES)
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL", help="a folder that `train` wrote", show_default=False, autocompletion=completion.models
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="images: a folder, manifest, idx or npz file, or named data set; `loss` needs none",
            show_default=False,
            autocompletion=completion.data_sets,
        ),
    ] = None,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help=".png, .svg or .pdf; .gif for interpolation")
    ] = None,
    also: Annotated[
        list[Path] | None, typer.Option(metavar="MODEL", help=f"a further model ({', '.join(COMPARING)}); repeatable")
    ] = None,
    items: Annotated[str | None, typer.Option(metavar="IDS", help="ids of images, separated by commas")] = None,
    dims: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS", help="latent dimensions, such as 3,7; traversal of an image: surprising"),
    ] = None,
    conditions: Annotated[str | None, typer.Option(metavar="VALUES", help="conditions, such as 3,7")] = None,
    projection: Annotated[
        str | None, typer.Option(metavar="auto|raw|pca|tsne", help="projection of the latent codes into the plane")
    ] = None,
    by: Annotated[str | None, typer.Option(metavar="COLUMN", help="group by this column; default class")] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="positions along each dimension or path")] = None,
    reach: Annotated[
        float | None, typer.Option(min=0.01, help="distance from the prior mean, in its standard deviations")
    ] = None,
    bins: Annotated[int | None, typer.Option(min=1, help="bins of the histogram")] = None,
    most: Annotated[int | None, typer.Option(min=1, help="largest number of images, rows, bars or panels")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="seed of draws and t-SNE")] = None,
    normal: Normal = None,
    anomalous: Anomalous = None,
    holdout: Holdout = None,
    split: Split = None,
    known_class: KnownClass = False,
    unknown: Unknown = None,
    device: Device = None,
    bounds: Bounds,
) -> None:
    """Draw one figure of a model: reconstructions, latent space, scores. Without a name: list them."""
    if name is None:
        table(["name", "what it shows"], [[known, what] for known, (_, what) in FIGURES.items()])
        return
    if name not in FIGURES:
        raise SettingsError(f"unknown figure '{name}'" + nearest(name, list(FIGURES)))
    if model is None:
        raise SettingsError(f"figure {name}: name the model, a folder that `knowngood train` wrote")
    if also and name not in COMPARING:
        raise SettingsError(
            f"figure {name} is of one model: leave --also {also[0]} out; {' and '.join(COMPARING)} compare several"
        )
    if out is None:
        raise SettingsError(f"figure {name}: name the file, for example --out {name}.png")
    walk = name == "traversal" and dims == "surprising"
    given = {
        "items": _words(items),
        "dims": dims if walk else _numbers(dims),
        "conditions": _words(conditions),
        "projection": projection,
    }
    given |= {"by": by, "steps": steps, "reach": reach, "bins": bins, "most": most, "seed": seed}
    options = {option: value for option, value in given.items() if value is not None}
    draw = getattr(importlib.import_module(f"knowngood.evaluation.figures.{FIGURES[name][0]}"), name)
    _check_options(name, draw, options, [*given], out)
    if out.suffix.lower() == MOVING:
        options["moving"] = True

    with writing(out):
        models, images, hidden = _models([model, *(also or [])], device, data), None, ()
        if data is not None:
            limits = bounds.over(next(iter(models.values())).pipeline_.settings.data)
            images = open_selected(data, normal=normal, anomalous=anomalous, holdout=holdout, data_options=limits)
            keep_apart([data], images, files={"--out": out})
            images, _ = keep_split(images, split)
            if (normal or anomalous or holdout) and not known_class and "class" in images.conditions:
                hidden, unknown = ("class",), hidden_class(unknown, *models.values())

        from knowngood.evaluation.figures.style import save
        from knowngood.evaluation.figures.subject import Subject

        save(draw(Subject(models, images, hidden, unknown), **options), out)  # type: ignore[arg-type]
    say(f"figure  {out}")


def _check_options(name: str, draw: Callable[..., Any], options: dict[str, Any], public: list[str], out: Path) -> None:
    """Refuse options that this figure does not take, and a format that cannot hold it."""
    known = [parameter for parameter in inspect.signature(draw).parameters if parameter in public]
    for option in options:
        if option not in known:
            takes = ", ".join(f"--{other}" for other in known) or "no options of its own"
            raise SettingsError(f"figure {name} takes no --{option}; it takes {takes}")
    formats = (*FORMATS, MOVING) if "moving" in inspect.signature(draw).parameters else FORMATS
    if out.suffix.lower() not in formats:
        raise SettingsError(f"--out {out}: figure {name} can be written as {', '.join(formats)}, not '{out.suffix}'")


def _models(paths: Sequence[Path], device: str | None, data: str | None) -> dict[str, Detector]:
    """By the name of their folder, numbered where that comes twice."""
    models: dict[str, Detector] = {}
    for path in paths:
        label, n = path.resolve().name, 2
        while label in models:
            label, n = f"{path.resolve().name} ({n})", n + 1
        models[label] = load(path, device, data)
    return models


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str | None) -> list[int] | None:
    words = _words(text)
    if words is None:
        return None
    try:
        return [int(word) for word in words]
    except ValueError:
        raise SettingsError(f"--dims {text}: expected whole numbers separated by commas, such as 3,7") from None
