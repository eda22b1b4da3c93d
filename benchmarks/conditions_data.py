"""Data of the conditions benchmark: normal images with true conditions to train on; tested ones of which some are told
a wrong value.

All tested images are normal by themselves: what is wrong with the wrong ones is only what they are said to be. The seed
draws which ones and what is said of them, and nothing else of a test set depends on it.

`form="test"` is what results are stated for; `form="dev"` is for choosing settings. It uses training images only, and
none that the test form tests on.

Sets:

- `mnist`, `fashion-mnist`, `kmnist`, or another set with classes: the class is told. Of 5 % of the tested images it is
  another class, drawn at random. test: the official split; of a set with test images only, those at even positions
  train and the others are tested, as `knowngood` opens it. dev: of the training images, those at positions p with
  p % 5 ≠ 4 train and the others are tested.
- `bottle+tile`: the normal images of `inspection_data`, both products in one model. 20 % of the tested images, so some
  forty, are said to be of the other product. test: the official split, without defects. dev: the third of the training
  images that its dev form holds out, by the seed.
- `pose`, `scale`: generated factors of 32 px (`knowngood.data.datasets.factors`). Of `pose` all are hearts turned by up
  to half a turn, and the rotation is told (a full turn ends where it began, and other shapes look the same before); of
  `scale`
  all shapes, and the scale is told together with the shape. Position and the other factors vary and are not told. Of
  5 % the value told is wrong by at least 20 % of its range. 9,600 images train and 6,400 are tested; dev: of these
  9,600, those at positions p with p % 5 ≠ 4 train and the others are tested.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.generated_factors import factor_rows
from benchmarks.inspection_data import BOTH, inspection_set
from benchmarks.picks import FOLDS, classes_of
from benchmarks.protocols import KEEP, Form, check_form
from benchmarks.runner import open_whole
from knowngood.data import ImageSet
from knowngood.data.datasets.factors import VALUES, FactorPixels, factor_codes
from knowngood.errors import DataError

CLASS = "class"
PRODUCT = "product"
FACTORS = {"pose": "rotation", "scale": "scale"}
LEVELS = {"pose": ((2,), range(6), range(20)), "scale": (range(3), range(6), range(40))}  # shape, scale, rotation
SIZE, TRAINED, TESTED = 32, 9_600, 6_400
SHARE, SHARE_OF_PARTS = 0.05, 0.2  # stated wrong
FARTHEST = 0.2  # of the range: a number that is stated wrong is at least so far away
PARTS_SIZE = 128  # pixels of a side
GROUPS = 8  # of neighbouring values of a condition that is a number, at most, for methods that need classes
TOLD = 17  # beside the seed, for the draw of what is stated wrong


@dataclass(frozen=True, eq=False)
class ToldSet:
    """One fit and one test.

    Attributes:
        name, form, seed: what was asked for.
        column: the condition that is stated wrong.
        train: normal images with their true conditions.
        test: normal images with the conditions that are told.
        wrong: (M,) bool, those of `test` that are told a wrong value.
    """

    name: str
    form: Form
    seed: int
    column: str
    train: ImageSet
    test: ImageSet
    wrong: np.ndarray

    def groups(self, images: ImageSet) -> np.ndarray:
        """(N,) numbers from 0 of the classes that images are told to be of; a number by its group of
        neighbouring values."""
        given, known = images.conditions[self.column], self.train.conditions[self.column]
        if known.dtype.kind != "f":
            return np.searchsorted(np.unique(known.astype(str)), given.astype(str))
        parts = np.array_split(np.unique(known), min(GROUPS, len(np.unique(known))))
        return np.searchsorted([part[0] for part in parts[1:]], given, side="right")


def told_set(name: str, *, form: Form = "test", seed: int = 0) -> ToldSet | str:
    """The data of one set, or the reason why they are missing, beginning with "missing"."""
    check_form(form)
    try:
        if name in FACTORS:
            return _wrongly(name, form, seed, FACTORS[name], *_factors(name, form))
        if name == BOTH:
            return _wrongly(name, form, seed, PRODUCT, *_parts(form, seed), share=SHARE_OF_PARTS)
        return _wrongly(name, form, seed, CLASS, *_classes(name, form))
    except DataError as error:
        return f"missing: {error}"


def wrong_values(values: np.ndarray, wrong: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Values (N,) with others, drawn from those that occur, where `wrong` (N,): another class, or a far number."""
    known, told = np.unique(values), values.copy()
    span = FARTHEST * (known[-1] - known[0]) if known.dtype.kind == "f" else None
    for i in np.flatnonzero(wrong):
        others = known[known != values[i]] if span is None else known[np.abs(known - values[i]) >= span * (1 - 1e-9)]
        told[i] = rng.choice(others)
    return told


def _wrongly(
    name: str, form: Form, seed: int, column: str, train: ImageSet, test: ImageSet, *, share: float = SHARE
) -> ToldSet:
    rng = np.random.default_rng([seed, TOLD])
    wrong = np.zeros(len(test), dtype=bool)
    wrong[rng.permutation(len(test))[: max(1, round(share * len(test)))]] = True
    told = {**test.conditions, column: wrong_values(test.conditions[column], wrong, rng)}
    return ToldSet(name, form, seed, column, train, test.replace(conditions=told), wrong)


def _classes(name: str, form: Form) -> tuple[ImageSet, ImageSet]:
    images = open_whole(name)
    plain = images.replace(conditions={CLASS: classes_of(images)}, labels=np.full(len(images), np.nan))
    if images.splits is None or not {"train", "test"} <= set(images.splits.tolist()):
        raise DataError(f"{name} has no splits 'train' and 'test', which this protocol needs")
    train, test = (plain[images.splits == split].replace(splits=None) for split in ("train", "test"))
    return (train, test) if form == "test" else _fifths(train)


def _fifths(train: ImageSet) -> tuple[ImageSet, ImageSet]:
    held_out = np.isin(np.arange(len(train)) % FOLDS, KEEP)
    return train[~held_out], train[held_out]


def _parts(form: Form, seed: int) -> tuple[ImageSet, ImageSet]:
    parts = inspection_set(BOTH, form=form, seed=seed, size=PARTS_SIZE)
    if isinstance(parts, str):
        raise DataError(parts.removeprefix("missing: "))
    return parts.train, parts.test[parts.labels == 0]


def _factors(name: str, form: Form) -> tuple[ImageSet, ImageSet]:
    """Random images of the grid, each once."""
    kept = [*map(np.array, LEVELS[name]), np.arange(32), np.arange(32)]
    rows = factor_rows(np.stack(np.meshgrid(*kept, indexing="ij"), axis=-1).reshape(-1, len(kept)))
    rows = np.random.default_rng(0).permutation(rows)[: TRAINED + TESTED]
    shape, scale, rotation = factor_codes(rows).T[:3]
    given = {"rotation": VALUES["rotation"][rotation]}
    if name == "scale":
        given = {"shape": VALUES["shape"][shape], "scale": VALUES["scale"][scale]}
    images = ImageSet(
        pixels=FactorPixels(rows, SIZE),
        ids=rows.astype(str),
        labels=np.full(len(rows), np.nan),
        conditions=given,
        name=name,
    )
    train, test = images[np.arange(TRAINED)], images[np.arange(TRAINED, TRAINED + TESTED)]
    return (train, test) if form == "test" else _fifths(train)
