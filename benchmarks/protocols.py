"""Protocols as data: which images train, calibrate and test, written down before any image is opened.

A protocol is a list of cells; a cell is one fit and one test. `form="test"` is what results are stated for.
`form="dev"` is for choosing settings: it takes training images only, and none that the test form tests on, so that
nothing is ever chosen by a test image. Every function's docstring states both forms in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmarks.picks import Pick, classes_of
from knowngood.config import nearest
from knowngood.data import ImageSet
from knowngood.errors import DataError, SettingsError

Form = Literal["test", "dev"]
TEN = tuple("0123456789")
LEARN, KEEP = (0, 1, 2, 3), (4,)  # folds of a dev form: to train on, to test on
LABELLED = 13  # beside the seed, for the draw of labelled anomalies


@dataclass(frozen=True)
class Cell:
    """One fit and one test of a protocol.

    normal, anomalous: in words, for tables. train, calibrate: picks of normal images; `calibrate` is empty where the
    detector sets aside a share of `train` by itself. conditions: columns given in training; at test all are hidden.
    settings: what the protocol itself fixes, over a method's own settings. labelled: picks of known anomalies, of which
    so many, drawn by the seed, join `train` that they are `labelled_share` of all training images; a greater share has
    those of a smaller one among its own.
    """

    protocol: str
    form: Form
    dataset: str
    seed: int
    normal: str
    anomalous: str
    train: tuple[Pick, ...]
    test: tuple[Pick, ...]
    calibrate: tuple[Pick, ...] = ()
    conditions: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    labelled: tuple[Pick, ...] = ()
    labelled_share: float = 0.0

    def to_record(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


class CellImages(NamedTuple):
    """The images of a cell. `train` and `calibrate` have the cell's conditions, `test` has none; none has splits.

    Known anomalies are in `train`, with the label 1.

    test_classes: (M,) text, the true classes of the test images, which no detector sees.
    """

    train: ImageSet
    test: ImageSet
    calibrate: ImageSet | None
    test_classes: np.ndarray


def resolve(cell: Cell, images: ImageSet) -> CellImages:
    """A cell's images out of the whole data set, all splits together in file order.

    Raises:
        DataError: a part is empty, the test has one label only, or an image is in two parts.
    """
    parts = {name: _gather(getattr(cell, name), images) for name in ("train", "test", "calibrate")}
    if cell.labelled:
        parts["train"] = _with_labelled(parts["train"], cell, images)
    used = np.concatenate([index for index, _ in parts.values()])
    twice = len(used) - len(np.unique(used))
    if twice:
        raise DataError(f"{cell.protocol} on {images.name}: {twice} images are in two parts of a cell")
    for name in ("train", "test", *(("calibrate",) if cell.calibrate else ())):
        if not len(parts[name][0]):
            raise DataError(f"{cell.protocol} on {images.name}, normal {cell.normal}: no image to {name}")
    if set(parts["test"][1].tolist()) != {0.0, 1.0}:
        raise DataError(
            f"{cell.protocol} on {images.name}, normal {cell.normal}: the test needs good and anomalous images"
        )
    kept = {column: images.conditions[column] for column in cell.conditions}
    found = {
        name: images.replace(conditions={} if name == "test" else kept, splits=None)[index].replace(labels=labels)
        for name, (index, labels) in parts.items()
    }
    calibrate = found["calibrate"] if cell.calibrate else None
    return CellImages(found["train"], found["test"], calibrate, classes_of(images)[parts["test"][0]])


def one_vs_rest(
    dataset: str, normal: Sequence[str] = TEN, *, seeds: Sequence[int] = (0,), form: Form = "test"
) -> list[Cell]:
    """One class is normal, all others are anomalous; a cell for each normal class k and seed.

    test: the training images of class k train; all test images are tested, class k normal, the others anomalous.
    dev: of the training images of class k, those at positions p (counted within the class) with p % 5 ≠ 4 train and
    the others are the normal test images; anomalous are every fifth (p % 5 = 4) of the training images of the other
    classes, counted together in file order.
    """
    cells = []
    for k in normal:
        if check_form(form) == "test":
            train = (Pick((k,), 0, split="train"),)
            test = (Pick((k,), 0, split="test"), Pick((k,), 1, others=True, split="test"))
        else:
            train = (Pick((k,), 0, split="train", folds=LEARN),)
            test = (Pick((k,), 0, split="train", folds=KEEP), Pick((k,), 1, others=True, split="train", folds=KEEP))
        cells += [Cell("one-vs-rest", form, dataset, seed, k, "the rest", train, test) for seed in seeds]
    return cells


def leave_one_out(
    dataset: str,
    held_out: Sequence[str] = TEN,
    *,
    classes: Sequence[str] = TEN,
    seeds: Sequence[int] = (0,),
    form: Form = "test",
    train_size: int | None = None,
    test_size: int | None = None,
) -> list[Cell]:
    """One class d is the anomaly; the class of the others is a condition, known in training and hidden at test.

    test: the training images of all classes but d train; all test images are tested, d anomalous, the others normal.
    dev: d is not used at all, neither its training nor its test images. The class after d (after the last comes the
    first) serves as the anomaly. Of the training images of the remaining classes, counted together in file order,
    those at positions p with p % 5 ≠ 4 train and the others are the normal test images; anomalous are every fifth
    (p % 5 = 4) of the stand-in's training images.

    Args:
        classes: all classes of the data set, in the order that "after" means.
        train_size: at most so many images train, the first in file order; the detector sets its shares for selection
            and calibration aside from these.
        test_size: at most so many normal and so many anomalous images are tested, the first in file order.
    """
    cells = []
    for d in held_out:
        if d not in classes:
            raise SettingsError(f"{dataset} has no class '{d}'{nearest(d, list(classes))}")
        if check_form(form) == "test":
            anomaly = d
            train = (Pick((d,), 0, others=True, split="train", most=train_size),)
            good = Pick((d,), 0, others=True, split="test", most=test_size)
            test = (good, Pick((d,), 1, split="test", most=test_size))
        else:
            anomaly = classes[(classes.index(d) + 1) % len(classes)]
            away = (d, anomaly)
            train = (Pick(away, 0, others=True, split="train", folds=LEARN, most=train_size),)
            good = Pick(away, 0, others=True, split="train", folds=KEEP, most=test_size)
            test = (good, Pick((anomaly,), 1, split="train", folds=KEEP, most=test_size))
        normal = f"not {d}" if anomaly == d else f"not {d}, {anomaly}"
        cells += [
            Cell("leave-one-out", form, dataset, seed, normal, anomaly, train, test, conditions=("class",))
            for seed in seeds
        ]
    return cells


def lineage(
    dataset: str, k: str = "1", *, seeds: Sequence[int] = (0,), form: Form = "test", size: int = 1000
) -> list[Cell]:
    """The one-normal-class convolutional VAE's own protocol, class k normal, with `size` = 1,000.

    Its files are read one after the other, training file first. Everything below lies in the training file, where
    MNIST and its kin have over 5,000 images of each class; a data set with too few is refused.

    test: the first 1,000 images of class k train; tested are the next 1,000 of class k (normal) and the first 1,000
    images of all other classes together, in file order (anomalous). The further images of class k calibrate: the
    threshold comes from training-side normals that were neither trained nor tested on.
    dev: the same 1,000 train; tested are images 2,000 to 2,999 of class k and images 1,000 to 1,999 of the others,
    counted from 0; the images of class k after those calibrate.

    The detector learns from all 1,000: none select.
    """
    round_ = 1 if check_form(form) == "test" else 2
    train = (Pick((k,), 0, split="train", stop=size),)
    test = (
        Pick((k,), 0, split="train", start=round_ * size, stop=(round_ + 1) * size),
        Pick((k,), 1, others=True, split="train", start=(round_ - 1) * size, stop=round_ * size),
    )
    calibrate = (Pick((k,), 0, split="train", start=(round_ + 1) * size),)
    fixed = {"calibration": {"select_fraction": 0.0}}
    return [
        Cell("lineage", form, dataset, seed, k, "the rest", train, test, calibrate, settings=fixed) for seed in seeds
    ]


def pneumonia(dataset: str, *, seeds: Sequence[int] = (0,), form: Form = "test") -> list[Cell]:
    """Chest X-rays, PNEUMONIA is anomalous; for the folders `chest-xray-224` and for `pneumoniamnist`.

    test: NORMAL images of the split "train" train; all images of the split "test" are tested. "val" is not used.
    dev: split "train" only. Of its NORMAL images four fifths train and one fifth is tested, beside one fifth of its
    PNEUMONIA images. In the folders fifths are of patients, numbered within the class by their first image in file
    order, patients with number % 5 = 4 tested; the file names identify them (see `patient`). PneumoniaMNIST does
    not identify patients: there fifths are of images.
    """
    by: Literal["image", "patient"] = "image" if dataset == "pneumoniamnist" else "patient"
    if check_form(form) == "test":
        train = (Pick(("NORMAL",), 0, split="train"),)
        test = (Pick(("NORMAL",), 0, split="test"), Pick(("PNEUMONIA",), 1, split="test"))
    else:
        train = (Pick(("NORMAL",), 0, split="train", folds=LEARN, by=by),)
        test = (
            Pick(("NORMAL",), 0, split="train", folds=KEEP, by=by),
            Pick(("PNEUMONIA",), 1, split="train", folds=KEEP, by=by),
        )
    return [Cell("pneumonia", form, dataset, seed, "NORMAL", "PNEUMONIA", train, test) for seed in seeds]


def check_form(form: str) -> str:
    """The form, or a SettingsError for anything but "test" and "dev"."""
    if form not in ("test", "dev"):
        raise SettingsError(f"form = '{form}'{nearest(form, ['test', 'dev'])}")
    return form


def _with_labelled(
    normals: tuple[np.ndarray, np.ndarray], cell: Cell, images: ImageSet
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and labels, as from `_gather`, including the labelled anomalies of the cell."""
    pool, _ = _gather(cell.labelled, images)
    wanted = round(cell.labelled_share / (1 - cell.labelled_share) * len(normals[0]))
    if wanted > len(pool):
        raise DataError(
            f"{cell.protocol} on {images.name}, normal {cell.normal}: the protocol needs {wanted:,} labelled "
            f"anomalies; there are {len(pool):,}"
        )
    drawn = np.random.default_rng([cell.seed, LABELLED]).permutation(pool)[:wanted]
    index = np.concatenate([normals[0], drawn])
    order = index.argsort(kind="stable")
    return index[order], np.concatenate([normals[1], np.ones(wanted)])[order]


def _gather(picks: Iterable[Pick], images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Positions (M,) and labels (M,) of all picks together, in file order."""
    found = [(pick.index(images), pick.label) for pick in picks]
    index = np.concatenate([part for part, _ in found] or [np.empty(0, np.int64)])
    labels = np.concatenate([np.full(len(part), float(label)) for part, label in found] or [np.empty(0)])
    order = index.argsort(kind="stable")
    return index[order], labels[order]
