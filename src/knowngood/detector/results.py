"""What was judged, as tables: a row an item, or a row a region."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from knowngood.calibration import benjamini_hochberg, verdict
from knowngood.data.findings import UNUSABLE
from knowngood.detector.decide import Judgement
from knowngood.detector.rows import Items

if TYPE_CHECKING:
    from pandas import DataFrame

    from knowngood.calibration.regions import Region
    from knowngood.detector.explain import Explanation


class Verdicts(NamedTuple):
    """Of N items what was judged, at a false-alarm rate or a false-discovery rate."""

    judged: Judgement
    level: float  # the false-alarm rate
    flagged: np.ndarray  # (N,) bool
    conditions: list[str]  # as the table names them

    @classmethod
    def of(cls, judged: Judgement, level: float, fdr: float | None = None) -> Verdicts:
        """Flagged at this false-alarm rate, or by the false-discovery rate `fdr` instead."""
        p, best = judged.p_value, judged.best
        flagged = p <= level
        if fdr is not None:
            read = ~np.isnan(p)
            flagged[read] = benjamini_hochberg(p[read], fdr)
        named = [text + ("" if known else " (inferred)") for text, known in zip(best.label, best.known, strict=True)]
        return cls(judged, level, flagged, named)


def verdict_table(
    items: Items, found: Verdicts, *, abstain: float | None = None, explanations: list[Explanation] | None = None
) -> DataFrame:
    """The table of `Detector.detect`; `explanations` are of some of the items."""
    import pandas as pd

    judged = found.judged
    table = {
        "id": items.ids,
        "anomaly_score": judged.anomaly_score,
        "p_value": judged.p_value,
        "is_anomalous": found.flagged,
        "condition": [None if i in judged.errors else text for i, text in enumerate(found.conditions)],
        **judged.parts,
    }
    if abstain is not None:
        words = verdict(judged.p_value, found.level, abstain)
        table["verdict"] = [None if i in judged.errors else str(word) for i, word in enumerate(words)]
    if explanations is not None:
        said = {one.id: one.summary for one in explanations}
        table["explanation"] = [said.get(str(name)) for name in items.ids]
    if not np.isnan(items.labels).all():
        table["label"] = items.labels
    if judged.errors:
        table["error"] = [judged.errors.get(i) for i in range(len(items))]
    set_aside = [f for f in getattr(items, "rejected", ()) if f.kind in UNUSABLE]
    rows = pd.DataFrame(table)
    if set_aside:
        missing = pd.DataFrame(
            {
                "id": [finding.path_or_id for finding in set_aside],
                "is_anomalous": None,
                "error": [finding.reason for finding in set_aside],
            }
        )
        rows = pd.concat([rows, missing], ignore_index=True)
    if "error" in rows:
        rows["is_anomalous"] = rows["is_anomalous"].astype("boolean").mask(rows["error"].notna())
    if explanations is not None:
        rows.attrs["explanations"] = explanations
    return rows


def region_table(items: Items, found: list[list[Region]]) -> DataFrame:
    """The table of `Detector.regions`, from the regions of each image."""
    from knowngood.calibration.regions import regions_table

    table = regions_table({str(i): regions for i, regions in enumerate(found)})
    table.insert(0, "id", np.asarray(items.ids)[table.pop("image").astype(int)])
    table.insert(4, "p_value", table.pop("p_value"))
    return table
