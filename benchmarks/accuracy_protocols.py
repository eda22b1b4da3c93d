"""Two more protocols as data: other data sets as anomalies, and a few labelled anomalies. See `protocols`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.picks import Pick
from benchmarks.protocols import KEEP, LEARN, TEN, Cell, Form, check_form
from knowngood.config import nearest
from knowngood.errors import SettingsError

OOD = "ood"
SHARES = (0.0, 0.01, 0.05, 0.1)


def out_of_distribution(datasets: Sequence[str], *, seeds: Sequence[int] = (0,), form: Form = "test") -> list[Cell]:
    """One data set is normal, the others are anomalous; a cell for each data set, with all pairs that start with it.

    The cells are of all data sets joined (`joined.open_joined`), where the class of an image is the set it comes from.
    Classes within a set are not known, neither in training nor at test.

    test: the training images of one set train; its test images are normal, the test images of every other anomalous.
    dev: of the training images of one set those at positions p with p % 5 ≠ 4 train and the others are the normal test
    images; anomalous is every fifth (p % 5 = 4) of the training images of each other set.
    """
    if len(set(datasets)) < 2:
        raise SettingsError(f"{OOD}: {', '.join(datasets) or 'no data set'}; expected at least two data sets")
    together = "+".join(datasets)
    cells = []
    for seed in seeds:
        for own in datasets:
            others = [name for name in datasets if name != own]
            if check_form(form) == "test":
                train = (Pick((own,), 0, split="train"),)
                test = (Pick((own,), 0, split="test"), *(Pick((name,), 1, split="test") for name in others))
            else:
                train = (Pick((own,), 0, split="train", folds=LEARN),)
                good = Pick((own,), 0, split="train", folds=KEEP)
                test = (good, *(Pick((name,), 1, split="train", folds=KEEP) for name in others))
            cells.append(Cell(OOD, form, together, seed, own, ", ".join(others), train, test))
    return cells


def few_labels(
    dataset: str,
    normal: Sequence[str] = TEN,
    *,
    classes: Sequence[str] = TEN,
    shares: Sequence[float] = SHARES,
    seeds: Sequence[int] = (0,),
    form: Form = "test",
) -> list[Cell]:
    """Class k is normal; of the class after it (after the last comes the first) some images are labelled anomalies.

    The labelled ones are drawn by the seed, so many that they are `share` of all training images. Share 0 is the same
    without any.

    test: the training images of class k train, with labelled ones of class k + 1; all test images are tested, class k
    normal, all others anomalous, as in `protocols.one_vs_rest`.
    dev: of the training images of class k, those at positions p (counted within the class) with p % 5 ≠ 4 train and the
    others are the normal test images. Of the training images of class k + 1 those with p % 5 ≠ 4 may be labelled
    and the others are tested, and every fifth (p % 5 = 4) of those of all other classes, counted together.

    Args:
        classes: all classes of the data set, in the order that "after" means.
    """
    cells = []
    for k in normal:
        if k not in classes:
            raise SettingsError(f"{dataset} has no class '{k}'{nearest(k, list(classes))}")
        after = classes[(classes.index(k) + 1) % len(classes)]
        if check_form(form) == "test":
            train = (Pick((k,), 0, split="train"),)
            labelled = (Pick((after,), 1, split="train"),)
            test = (Pick((k,), 0, split="test"), Pick((k,), 1, others=True, split="test"))
        else:
            train = (Pick((k,), 0, split="train", folds=LEARN),)
            labelled = (Pick((after,), 1, split="train", folds=LEARN),)
            test = (
                Pick((k,), 0, split="train", folds=KEEP),
                Pick((after,), 1, split="train", folds=KEEP),
                Pick((k, after), 1, others=True, split="train", folds=KEEP),
            )
        for share in shares:
            known = {"labelled": labelled, "labelled_share": share} if share else {}
            name = few_labels_name(share)
            cells += [Cell(name, form, dataset, seed, k, "the rest", train, test, **known) for seed in seeds]
    return cells


def few_labels_name(share: float) -> str:
    """ "few-labels 5 %" """
    return f"few-labels {100 * share:g} %"


def at_most(cell: Cell, train: int, test: int) -> Cell:
    """The same cell with at most `train` training and `test` test images per pick, the first in file order."""

    def first(picks: tuple[Pick, ...], most: int) -> tuple[Pick, ...]:
        return tuple(replace(pick, most=most if pick.most is None else min(most, pick.most)) for pick in picks)

    return replace(cell, train=first(cell.train, train), test=first(cell.test, test))
