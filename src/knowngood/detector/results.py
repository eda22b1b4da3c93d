"""What is said of items, as tables and batches: a row an item, or a row a region."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from knowngood.calibration import Region, benjamini_hochberg, verdict
from knowngood.calibration.map_scale import MapScale
from knowngood.config import counted
from knowngood.data.columns import Column
from knowngood.data.conditions import Unknown
from knowngood.data.progress import track
from knowngood.detector.decide import Decisions, condition_names, decide
from knowngood.detector.explain.explanation import Explanation
from knowngood.detector.map_scale import map_scales
from knowngood.detector.maps import check_maps, check_regions, image_maps, image_regions
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.detector.scoring import Scored, score_batches
from knowngood.detector.stated_conditions import stated_columns, wrong_words
from knowngood.errors import DataError

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Detected:
    """A batch of N items, scored.

    index: (N,) positions in the whole set. maps: (H, W) each, None for an image that cannot be read or where maps were
    not asked for; scales: how these are coloured; regions: likewise. level: α of the verdicts. checked: the columns
    whose stated values are checked.
    """

    index: np.ndarray
    items: Items
    decisions: Decisions
    maps: list[np.ndarray | None]
    scales: list[MapScale | None]
    regions: list[list[Region] | None]
    level: float
    checked: Sequence[Column] = ()

    @cached_property
    def table(self) -> DataFrame:
        """Rows as `Detector.detect` gives them."""
        return table_of(self.items, self.decisions, self.level, checked=self.checked)

    def __repr__(self) -> str:
        there = [name for name in ("maps", "regions") if any(one is not None for one in getattr(self, name))]
        fields = ", ".join(["table", "decisions", *there])
        return f"<{counted(len(self.index), 'item')} from {int(self.index[0])} on: {fields}>"


def detected(
    pipeline: Pipeline,
    items: Items,
    *,
    unknown: Unknown | None = None,
    alpha: float | None = None,
    maps: bool = False,
    regions: bool = False,
    min_area: int = 1,
    start: int = 0,
    refuse: bool = True,
) -> Iterator[Detected]:
    """Score items a batch at a time: decisions, and maps and regions if asked for. One pass over the images.

    Args:
        start: the first item to score, at which a batch begins.
        refuse: raise at the end if not one item can be read.

    Raises:
        SettingsError: the model has no maps or no regions. DataError: not one item can be read.
    """
    if maps:
        check_maps(pipeline)
    if regions:
        check_regions(pipeline)
    level, columns = pipeline.settings.alpha if alpha is None else alpha, pipeline.checked_columns
    for batch, decisions in _each(pipeline, items, unknown, alpha, maps or regions, start, refuse):
        n = len(batch.items)
        pictures: list[np.ndarray | None] = [None] * n
        found: list[list[Region] | None] = [None] * n
        for i, one in image_maps(pipeline, batch, decisions.row) if batch.grids is not None else ():
            pictures[i] = one if maps else None
            found[i] = image_regions(pipeline, decisions, i, one, alpha, min_area) if regions else None
        index = np.arange(batch.first, batch.first + n)
        scales = map_scales(pipeline, decisions, pictures, alpha)
        yield Detected(index, batch.items, decisions, pictures, scales, found, level, columns)


def decided(pipeline: Pipeline, items: Items, unknown: Unknown | None = None, alpha: float | None = None) -> Decisions:
    """The decisions on all items; see `detected`."""
    return Decisions.concat([decisions for _, decisions in _each(pipeline, items, unknown, alpha)])


def _each(
    pipeline: Pipeline,
    items: Items,
    unknown: Unknown | None,
    alpha: float | None,
    maps: bool = False,
    start: int = 0,
    refuse: bool = True,
) -> Iterator[tuple[Scored, Decisions]]:
    """Each batch with its decisions, with progress. Raises DataError at the end if not one item can be read."""
    unread, reason = 0, ""
    batches = score_batches(pipeline, items, unknown=unknown, maps=maps, start=start, alternatives=True)
    for batch in track(batches, "scoring", len(items) - start, size=lambda batch: len(batch.items)):
        decisions = decide(pipeline, batch, alpha)
        for i, why in decisions.errors.items():
            unread, reason = unread + 1, reason or f"{batch.items.ids[i]}: {why}"
        yield batch, decisions
    if refuse and unread and unread == len(items):
        raise DataError(f"no item can be scored (of {len(items):,}); the first, {reason}")


def flagged(p_values: np.ndarray, level: float, fdr: float | None = None) -> np.ndarray:
    """(N,) bool: p ≤ level, or by the false-discovery rate `fdr` (Benjamini–Hochberg) instead."""
    if fdr is None:
        return p_values <= level
    found, read = np.zeros(len(p_values), dtype=bool), ~np.isnan(p_values)
    found[read] = benjamini_hochberg(p_values[read], fdr)
    return found


def table_of(
    items: Items,
    decisions: Decisions,
    level: float,
    *,
    checked: Sequence[Column] = (),
    fdr: float | None = None,
    abstain: float | None = None,
    explanations: list[Explanation] | None = None,
    labelled: bool | None = None,
    errors: bool | None = None,
) -> DataFrame:
    """The table of `Detector.detect`; `explanations` are of some of the items, `checked` the checked columns.

    labelled, errors: whether there are columns `label` and `error`; None: where an item has one.
    """
    import pandas as pd

    why, joint, stated = decisions.errors, decisions.joint_p_values, decisions.stated
    flags = flagged(joint, level, fdr)
    columns = {
        "id": items.ids,
        "anomaly_score": decisions.anomaly_score,
        "p_value": decisions.p_values,
        "is_anomalous": flags,
        "condition": [None if i in why else text for i, text in enumerate(condition_names(decisions))],
        **decisions.parts,
    }
    if abstain is not None or stated is not None:
        words = verdict(np.nan_to_num(joint, nan=1.0), level, abstain).astype(object)  # of unread ones below
        words[(words == "anomalous") & ~flags] = "normal" if abstain is None else "unsure"
        words[flags] = "anomalous"
        if stated is not None:
            largest = level if fdr is None else float(joint[flags].max(initial=0.0))
            columns |= stated_columns(stated, checked, largest / 2)
            wrong = flags & ~(decisions.p_values <= largest / 2)
            words[wrong] = wrong_words(stated, checked, largest / 2)[wrong]
        columns["verdict"] = [None if i in why else str(word) for i, word in enumerate(words)]
    if explanations is not None:
        summaries = {one.id: one.summary for one in explanations}
        columns["explanation"] = [summaries.get(str(name)) for name in items.ids]
    if labelled or (labelled is None and not np.isnan(items.labels).all()):
        columns["label"] = items.labels
    if errors or (errors is None and why):
        columns["error"] = [why.get(i) for i in range(len(items))]
    return _without_verdict(pd.DataFrame(columns))


def with_rejected(rows: DataFrame, items: Items) -> DataFrame:
    """The table with a row for each file that was set aside when the images were opened, last."""
    import pandas as pd

    rejected = [(one.path_or_id, None, one.reason) for one in getattr(items, "unusable", ())]
    if not rejected:
        return rows
    missing = pd.DataFrame(rejected, columns=["id", "is_anomalous", "error"])
    return _without_verdict(pd.concat([rows, missing], ignore_index=True))


def _without_verdict(rows: DataFrame) -> DataFrame:
    """No verdict, where there is an error."""
    if "error" in rows:
        rows["is_anomalous"] = rows["is_anomalous"].astype("boolean").mask(rows["error"].notna())
    return rows
