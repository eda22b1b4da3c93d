"""The results by condition, beside what calibration promised there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from knowngood.report.expected import expected_false_alarms
from knowngood.report.inputs import ReportInputs


@dataclass(frozen=True)
class ConditionRow:
    """One condition. `expected` is the range of false alarms that chance explains, None where no promise is made.

    `calibrated`, `own` and `threshold` are None where calibration does not know the condition.
    """

    name: str
    images: int
    flagged: int
    normals: int
    false_alarms: int
    expected: tuple[int, int] | None
    anomalies: int
    found: int
    calibrated: int | None
    own: bool | None
    threshold: float | None

    @property
    def over(self) -> bool:
        """More false alarms than chance explains."""
        return self.expected is not None and self.false_alarms > self.expected[1]


def by_condition(inputs: ReportInputs, strata: Sequence[Mapping[str, Any]]) -> list[ConditionRow]:
    """One row a condition of the table or of the calibration; names in natural order ('class=10' after 'class=9')."""
    names = inputs.texts("stratum" if "stratum" in inputs.table.columns else "condition")
    known = {str(stratum["name"]): stratum for stratum in strata}
    if len(known) == 1 and not set(names) & set(known):
        names = np.full(len(names), next(iter(known)), dtype=object)
    everything = sorted(set(names[inputs.judged]) | set(known), key=_natural)
    return [_row(inputs, name, inputs.judged & (names == name), known.get(name)) for name in everything]


def sharing_groups(rows: Sequence[ConditionRow], calibration: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Calibration normals and tested normals of each group of images that shares a threshold."""
    own = [row for row in rows if row.own and row.normals]
    calibrated, tested = [row.calibrated or 0 for row in own], [row.normals for row in own]
    shared = sum(row.normals for row in rows if row.own is False)
    if shared and calibration.get("pooled_n"):
        calibrated.append(int(calibration["pooled_n"]))
        tested.append(shared)
    return calibrated, tested


def _row(inputs: ReportInputs, name: str, member: np.ndarray, stratum: Mapping[str, Any] | None) -> ConditionRow:
    normal, anomalous, flagged = member & (inputs.labels == 0), member & (inputs.labels == 1), inputs.flagged
    normals, own, expected = int(normal.sum()), None, None
    if stratum is not None:
        own = bool(stratum.get("own", True))
        if own and normals:
            expected = expected_false_alarms(inputs.alpha, [int(stratum["n"])], [normals])
    threshold = None if stratum is None else stratum.get("threshold")
    return ConditionRow(
        name=name or "unknown",
        images=int(member.sum()),
        flagged=int(flagged[member].sum()),
        normals=normals,
        false_alarms=int(flagged[normal].sum()),
        expected=expected,
        anomalies=int(anomalous.sum()),
        found=int(flagged[anomalous].sum()),
        calibrated=None if stratum is None else int(stratum["n"]),
        own=own,
        threshold=None if threshold is None else float(threshold),
    )


def _natural(name: str) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts if part]
