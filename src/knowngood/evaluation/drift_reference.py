"""What a stream of scores is compared with to find drift: the calibration items of a model, group by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from knowngood.calibration import Calibration, OnlineRanks
from knowngood.data.conditions import ConditionSchema
from knowngood.errors import DataError
from knowngood.evaluation.results import INFERRED

HIDDEN = "condition inferred"  # the group of items with unknown conditions: which condition fits best depends on scores


class Reference(NamedTuple):
    """What a stream is compared with beside itself: ranks by group, a sentence that says so, and a fingerprint."""

    ranks: dict[str, OnlineRanks | np.ndarray]
    sentence: str
    fingerprint: str = ""


def by_scores(calibration: Calibration, calibrated_by: str, added: Mapping[str, np.ndarray] | None = None) -> Reference:
    """The calibration items as a reference of anomaly scores.

    Args:
        calibrated_by: see `Pipeline`. added: anomaly scores of the groups that were added to the calibration, by name.
    """
    if calibrated_by == "cross":
        return Reference(
            {},
            "the calibration is cross-conformal: its scores come from models of other folds, so the stream is compared "
            "with itself only, and a change before its first item is not seen; `knowngood calibrate MODEL DATA` on new "
            "normal images gives a reference",
        )
    scores = calibration.anomaly_score(calibration.scores, calibration.strata)
    names = calibration.stratum_names
    ranks: dict[str, Any] = {name: scores[calibration.strata == s] for s, name in enumerate(names)}
    ranks = {name: some for name, some in ranks.items() if len(some)} | dict(added or {})
    count = len(calibration) + sum(map(len, (added or {}).values()))
    return Reference(
        ranks, f"compared with {count:,} calibration items, each group with its own, and the stream so far"
    )


def group_names(texts: list[str], schema: ConditionSchema | None = None, added: Sequence[str] = ()) -> list[str]:
    """The Mondrian group of each item by the text of its condition; of a model by its schema, else the text itself."""
    known = {text: _group(text, schema, added) for text in set(texts)}
    return [known[text] for text in texts]


def _group(text: str, schema: ConditionSchema | None, added: Sequence[str]) -> str:
    if text.endswith(INFERRED):
        return HIDDEN
    for name in added:  # it stands last; the item was compared with this group
        if text == name or text.endswith(f", {name}"):
            return name
    if schema is None or text in schema.stratum_names:
        return text or "all"
    if schema.n_strata == 1:
        return schema.stratum_names[0]
    values = schema.values_of(text)  # the columns that no group is made of are written too
    if values is not None:
        try:
            return schema.stratum_names[int(schema.expand({name: [one] for name, one in values.items()}, 1).stratum[0])]
        except DataError:
            pass
    return text or "all"
