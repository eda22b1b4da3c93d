"""The tracks of `benchmark accuracy`: which cells each has, and which methods are measured on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import protocols
from benchmarks.accuracy_protocols import OOD, SHARES, at_most, few_labels, out_of_distribution
from benchmarks.methods import Method, baselines
from benchmarks.pneumonia import DEFAULTS as X_RAY_PIXELS
from benchmarks.pneumonia import FOLDERS, SMALL
from benchmarks.protocols import Cell, Form
from benchmarks.recipes import PLAIN_VAE, RECIPES
from benchmarks.settings import chosen_settings, merged, shaped
from knowngood.config import nearest
from knowngood.errors import SettingsError

CHARACTERS = ("mnist", "fashion-mnist", "kmnist")
PNEUMONIA, FEW_LABELS = "pneumonia", "few-labels"
TRACKS: Mapping[str, tuple[str, ...]] = {  # with their data sets
    "one-vs-rest": CHARACTERS,
    "leave-one-out": CHARACTERS,
    OOD: CHARACTERS,
    PNEUMONIA: (SMALL, FOLDERS),
    FEW_LABELS: ("mnist", "fashion-mnist"),
}
CONTRAST = "contrast"
BASELINES: Mapping[str, tuple[str, ...]] = {
    "knn": ("pixel 5-NN",),
    "ppca": ("PPCA 32",),
    CONTRAST: ("low contrast", "high contrast", "unusual contrast"),
    "forest": ("isolation forest",),
    "svm": ("one-class SVM",),
}
VAE = "vae"
METHODS = (*RECIPES, VAE, *BASELINES)
QUICK_TRAIN, QUICK_TEST = 500, 200  # images a pick


class Batch(NamedTuple):
    """Cells that the same methods are measured on."""

    cells: list[Cell]
    methods: list[Method]


@dataclass(frozen=True)
class Asked:
    """The options of a command, the same for every track.

    classes: those that are normal or held out, one after the other; None: all that the data set has.
    config: a YAML file of settings over those of a recipe. training: epochs and device, over those of every VAE.
    """

    methods: Sequence[str] = METHODS
    seeds: Sequence[int] = (0,)
    form: Form = "test"
    classes: Sequence[str] | None = None
    config: Path | None = None
    training: Mapping[str, Any] | None = None
    quick: bool = False


def sources(track: str, datasets: Sequence[str] | None) -> tuple[str, ...]:
    """The data sets of a track: its own, or those of the requested ones that belong to it (X-rays to `pneumonia`)."""
    if datasets is None:
        return TRACKS[track]
    return tuple(name for name in datasets if (name in TRACKS[PNEUMONIA]) == (track == PNEUMONIA))


def batches(track: str, here: Mapping[str, Sequence[str]], asked: Asked) -> list[Batch]:
    """What a track measures on the data sets that are `here`, with all classes of each in their order.

    All cells of the first seed come first; within a seed the first class of every data set, then the second.

    Raises:
        SettingsError: a method or a class that is not known, or settings that cannot be read.
    """
    given: dict[str, Any] = {"seeds": asked.seeds, "form": asked.form}
    if track == PNEUMONIA:
        return [
            Batch(_quickly(protocols.pneumonia(name, **given), asked), _methods(track, asked, pixels_of=name))
            for name in here
        ]
    if track == OOD:
        cells = out_of_distribution(tuple(here), **given) if len(here) > 1 else []
        return [Batch(_quickly(cells, asked), _methods(track, asked))]
    cells = []
    for seed in asked.seeds:
        columns = [_of_classes(track, name, classes, seed, asked) for name, classes in here.items()]
        cells += [cell for row in zip_longest(*columns) for cell in row if cell is not None]
    cells = _quickly(cells, asked)
    if track != FEW_LABELS:
        return [Batch(cells, _methods(track, asked))]
    learners = replace(asked, methods=[name for name in asked.methods if name in RECIPES])
    return [
        Batch([cell for cell in cells if not cell.labelled], _methods(track, asked)),
        Batch([cell for cell in cells if cell.labelled], _methods(track, learners)),
    ]


def _of_classes(track: str, dataset: str, classes: Sequence[str], seed: int, asked: Asked) -> list[Cell]:
    """The cells of one data set and seed, class by class."""
    chosen = asked.classes or classes
    chosen = chosen[:1] if asked.quick else chosen
    given: dict[str, Any] = {"seeds": (seed,), "form": asked.form}
    if track == "one-vs-rest":
        return protocols.one_vs_rest(dataset, chosen, **given)
    if track == "leave-one-out":
        return protocols.leave_one_out(dataset, chosen, classes=classes, **given)
    return few_labels(dataset, chosen, classes=classes, shares=SHARES, **given)


def _methods(track: str, asked: Asked, *, pixels_of: str | None = None) -> list[Method]:
    """The requested methods. Contrast is for X-rays only; X-rays have the image size of their data set."""
    pixels = X_RAY_PIXELS[pixels_of] if pixels_of else {}
    training = asked.training or {}
    command = f"python -m benchmarks accuracy --tracks {track}"
    found = []
    for name in asked.methods:
        if name not in METHODS:
            raise SettingsError(f"unknown method '{name}'{nearest(name, list(METHODS))}")
        if name in RECIPES and track not in RECIPES[name]:
            continue
        if name in RECIPES:
            settings = merged(shaped(RECIPES[name][track], pixels), chosen_settings(None, asked.config, **training))
            found.append(Method(name, settings, command=command))
        elif name == VAE:
            found.append(
                Method("plain VAE", merged(shaped(PLAIN_VAE, pixels), chosen_settings(**training)), command=command)
            )
        elif name != CONTRAST or track == PNEUMONIA:
            found += baselines({"representation": {"name": "pixels", **pixels}}, names=BASELINES[name])
    return found


def _quickly(cells: list[Cell], asked: Asked) -> list[Cell]:
    return [at_most(cell, QUICK_TRAIN, QUICK_TEST) for cell in cells] if asked.quick else cells
