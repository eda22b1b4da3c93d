"""What is said of a batch beside its rows: that it does not fit, has another shape, or was fitted to."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from knowngood.config import counted
from knowngood.data import ImageSet
from knowngood.data.values import listing
from knowngood.detector.batch import batch_remark
from knowngood.detector.decide import Decisions
from knowngood.detector.image_statistics import ASPECT, SIZE
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.errors import BatchWarning

if TYPE_CHECKING:
    from pandas import DataFrame

CLEAR = 1.1  # factor by which an aspect ratio lies outside those of the calibration images
SMALLER = 2.0  # factor by which an image is smaller than the smallest of them, a side
LOOKED_AT = 64  # items compared with those fitted to, before all of them are
FEW = 10  # items, of which it is not said that they were fitted to
NAMED = 3  # images in a sentence
REMARKS = ("batch", "aspect", "small", "fitted")  # in `.attrs` of a table

Found = tuple[dict[str, Any] | None, dict[int, str]]  # a remark, and notes on items by position


class Remarks(NamedTuple):
    """Facts as plain data with a `sentence` each, None where there is nothing to say.

    batch: see `batch_remark`. aspect: images of another aspect ratio than the calibration images. small: images
    that are far smaller. fitted: most items were fitted to. notes: of the items that a remark is about, by position.
    """

    batch: dict[str, Any] | None = None
    aspect: dict[str, Any] | None = None
    small: dict[str, Any] | None = None
    fitted: dict[str, Any] | None = None
    notes: dict[int, str] = {}  # noqa: RUF012

    @property
    def found(self) -> dict[str, dict[str, Any]]:
        """Those there are, by name."""
        return {name: one for name in REMARKS if (one := getattr(self, name)) is not None}

    @property
    def text(self) -> str:
        """All sentences."""
        return " ".join(one["sentence"].rstrip(".") + "." for one in self.found.values())

    def warn(self, stacklevel: int = 2) -> None:
        """Give each sentence as a `BatchWarning`."""
        for one in self.found.values():
            warnings.warn(one["sentence"], BatchWarning, stacklevel=stacklevel + 1)

    def added_to(self, table: DataFrame) -> DataFrame:
        """The table of these items with the facts in `.attrs`, and a column `note` where an item has one."""
        table.attrs.update(self.found)
        if self.notes:
            table["note"] = [self.notes.get(i) for i in range(len(table))]
        return table


def remarks_on(pipeline: Pipeline, items: Items, decisions: Decisions, alpha: float | None = None) -> Remarks:
    """What is to be said of items on which these decisions were made."""
    read = ~np.isnan(decisions.p_values)
    (aspect, notes), (small, more) = aspect_remark(pipeline, items, read), small_remark(pipeline, items, read)
    fitted, which = fitted_remark(pipeline, items)
    for i, note in more.items():
        notes[i] = f"{notes[i]}; {note}" if i in notes else note
    return Remarks(batch_remark(pipeline, items, decisions, alpha, which), aspect, small, fitted, notes)


def aspect_remark(pipeline: Pipeline, items: Items, read: np.ndarray) -> Found:
    """Of images whose aspect ratio lies 10 % outside those of the calibration images, and a note on each by position.

    They are judged all the same, stretched to the size that the model sees. Not looked for where parts are cropped by
    their pose, and where images are fetched, which reading their headers would do again. Keys: sentence; images, how
    many; ids; low and high, the aspect ratios (width over height) of the calibration images.

    Args:
        read: (N,) which items could be read.
    """
    known = None if getattr(pipeline.representation, "pose", None) is not None else _known(pipeline, items, ASPECT)
    if known is None:
        return None, {}
    at = np.flatnonzero(read)
    height, width = items[at].shapes()[:, :2].astype(float).T  # type: ignore[union-attr]
    aspect, (low, high) = width / height, known
    other = (aspect < low / CLEAR) | (aspect > high * CLEAR)
    at, aspect = at[other], aspect[other]
    if not len(at):
        return None, {}
    expected = f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
    notes = {int(i): f"aspect ratio {ratio:.3g}, expected {expected}" for i, ratio in zip(at, aspect, strict=True)}
    found = " to ".join(dict.fromkeys(f"{ratio:.3g}" for ratio in (aspect.min(), aspect.max())))
    sentence = (
        f"{_share(at, items)} another aspect ratio (width / height) than the normal images, {found} instead of "
        f"{expected}, and may be flagged for it alone: {_named(at, items)}. Crop or pad to the shape of the normal "
        "images, or fit to images of their shape"
    )
    return {"sentence": sentence, "images": len(at), "ids": items.ids[at].tolist(), "low": low, "high": high}, notes


def small_remark(pipeline: Pipeline, items: Items, read: np.ndarray) -> Found:
    """Of images less than half as large as the smallest calibration image, likewise: they lack what is fine.

    Keys: sentence; images; ids; low, the side in pixels of a square as large as the smallest calibration image.
    """
    known = _known(pipeline, items, SIZE)
    if known is None:
        return None, {}
    at = np.flatnonzero(read)
    side = np.sqrt(items[at].shapes()[:, :2].astype(float).prod(axis=1))  # type: ignore[union-attr]
    less = side < known[0] / SMALLER
    at, side = at[less], side[less]
    if not len(at):
        return None, {}
    notes = {int(i): f"{one:.0f} px a side, expected {known[0]:.0f} or more" for i, one in zip(at, side, strict=True)}
    sentence = (
        f"{_share(at, items)} far fewer pixels than the normal images, {side.min():.0f} a side instead of "
        f"{known[0]:.0f} or more, and may be flagged for the detail that is missing: {_named(at, items)}. Give images "
        "of their size, or fit to small ones"
    )
    return {"sentence": sentence, "images": len(at), "ids": items.ids[at].tolist(), "low": known[0]}, notes


def _known(pipeline: Pipeline, items: Items, name: str) -> tuple[float, float] | None:
    """The range of a statistic over calibration images; None where there is none, or items are not to be looked at."""
    if not isinstance(items, ImageSet) or _fetched(items):
        return None
    statistics = [pipeline.statistics, *(group.statistics for group in pipeline.added)]
    found = [one.range_of(name) for one in statistics if one is not None]
    known = [one for one in found if one is not None]
    return (min(one[0] for one in known), max(one[1] for one in known)) if known else None


def _share(at: np.ndarray, items: Items) -> str:
    return f"{len(at):,} of {counted(len(items), 'image')} {'has' if len(at) == 1 else 'have'}"


def _named(at: np.ndarray, items: Items) -> str:
    return listing(items.ids[at].tolist(), most=NAMED)


def fitted_remark(pipeline: Pipeline, items: Items) -> tuple[dict[str, Any] | None, np.ndarray | None]:
    """That at least half of ten or more items were fitted to, by their content; and (N,) which, if so.

    Items labelled normal count where there are any, else all that are not labelled anomalous. Of many an even sample is
    looked at before all of them are. Images that are fetched are not looked at. Keys: sentence; items, how many count;
    fitted; labelled.
    """
    labelled = bool((items.labels == 0).any())
    at = np.flatnonzero(items.labels == 0 if labelled else items.labels != 1)
    if pipeline.fitted_to is None or _fetched(items) or len(at) < FEW:
        return None, None
    some = at[np.unique(np.linspace(0, len(at) - 1, min(LOOKED_AT, len(at))).round().astype(int))]
    if 2 * np.isin(items[some].digests(), pipeline.fitted_to).sum() < len(some):
        return None, None
    which = np.zeros(len(items), dtype=bool)
    which[at] = np.isin(items[at].digests(), pipeline.fitted_to)
    fitted, what = int(which.sum()), f"{items.items} labelled normal" if labelled else items.items
    sentence = (
        f"{fitted:,} of {len(at):,} {what} were trained on: these do not score as new ones do, so their p-values and "
        f"the share that is flagged say nothing about new {items.items}. Give {items.items} that were not trained on"
    )
    return {"sentence": sentence, "items": len(at), "fitted": fitted, "labelled": labelled}, which


def with_remarks(
    table: DataFrame,
    pipeline: Pipeline,
    items: Items,
    decisions: Decisions,
    alpha: float | None = None,
    stacklevel: int = 2,
) -> DataFrame:
    """The table of these decisions with what is to be said of the items, of which warnings are given."""
    remarks = remarks_on(pipeline, items, decisions, alpha)
    remarks.warn(stacklevel + 1)
    return remarks.added_to(table)


def _fetched(items: Items) -> bool:
    """Whether to read the items again is to fetch them again."""
    return hasattr(getattr(items, "pixels", None), "pace")
