"""What is said of a batch beside its rows: that it does not fit, has another shape, or was fitted to."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from knowngood.data import ImageSet
from knowngood.data.shape_range import ShapeRange
from knowngood.data.values import in_one
from knowngood.detector.batch import batch_remark
from knowngood.detector.decide import Decisions
from knowngood.detector.image_statistics import ASPECT, SIZE
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.errors import BatchWarning

if TYPE_CHECKING:
    from pandas import DataFrame

LOOKED_AT = 64  # items compared with those fitted to, before all of them are
FEW = 10  # items, of which it is not said that they were fitted to
REMARKS = ("batch", "aspect", "small", "fitted")  # in `.attrs` of a table


class Remarks(NamedTuple):
    """Facts as plain data with a `sentence` each, None where there is nothing to say.

    batch: see `batch_remark`. aspect, small: see `ShapeRange.facts`. fitted: most items were fitted to. notes: on
    items by position, see `ShapeRange.notes`.
    """

    batch: dict[str, Any] | None = None
    aspect: dict[str, Any] | None = None
    small: dict[str, Any] | None = None
    fitted: dict[str, Any] | None = None
    notes: Mapping[int, str] = {}

    @property
    def found(self) -> dict[str, dict[str, Any]]:
        """Those there are, by name."""
        return {name: one for name in REMARKS if (one := getattr(self, name)) is not None}

    @property
    def text(self) -> str:
        """All sentences."""
        return in_one(one["sentence"] for one in self.found.values())

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
    known, (at, shapes) = shape_range(pipeline), _shapes(items, decisions)
    fitted, which = fitted_remark(pipeline, items)
    batch = batch_remark(pipeline, items, decisions, alpha, which)
    return Remarks(batch, **known.facts(shapes, items.ids[at]), fitted=fitted, notes=_notes(known, at, shapes))


def shape_notes(pipeline: Pipeline, items: Items, decisions: Decisions) -> list[str | None]:
    """What is not normal of the shape of each item, see `ShapeRange.notes`; None if all is."""
    notes = _notes(shape_range(pipeline), *_shapes(items, decisions))
    return [notes.get(i) for i in range(len(items))]


def _notes(known: ShapeRange, at: np.ndarray, shapes: np.ndarray) -> dict[int, str]:
    return {int(at[i]): note for i, note in known.notes(shapes).items()}


def shape_range(pipeline: Pipeline) -> ShapeRange:
    """The shapes of the calibration images; no aspect ratios where parts are cropped by their pose."""
    statistics = [one for one in (pipeline.statistics, *(group.statistics for group in pipeline.added)) if one]
    aspects, sides = ([found for one in statistics if (found := one.range_of(name))] for name in (ASPECT, SIZE))
    matters = aspects and getattr(pipeline.representation, "pose", None) is None
    aspect = (min(low for low, _ in aspects), max(high for _, high in aspects)) if matters else None
    return ShapeRange(aspect, min((low for low, _ in sides), default=None))


def _shapes(items: Items, decisions: Decisions) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n,) and shapes (n, 2), height and width in pixels, of the images that could be read.

    None of images that are fetched: to read their headers again is to fetch them again.
    """
    at = np.flatnonzero(~np.isnan(decisions.p_values))
    if not isinstance(items, ImageSet) or _fetched(items) or not len(at):
        return np.zeros(0, int), np.zeros((0, 2), int)
    return at, items[at].shapes()[:, :2]


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
