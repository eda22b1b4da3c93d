"""The results by condition, beside what calibration promised there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from knowngood.evaluation.report.expected import expected_false_alarms
from knowngood.evaluation.report.inputs import ReportInputs

INFERRED = " (inferred)"  # what the detector writes behind a condition that it was not told


@dataclass(frozen=True)
class ConditionRow:
    """One condition. `expected` is the range of false alarms that chance explains, None where it is not known.

    It is known where the condition was given and has its own promise: that promise holds in the true condition, not
    among the images that were found most like one. `calibrated`, `own` and `threshold` are None where calibration does
    not know the condition.
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
    inferred: bool

    @property
    def over(self) -> bool:
        """More false alarms than chance explains."""
        return self.expected is not None and self.false_alarms > self.expected[1]


def by_condition(inputs: ReportInputs, strata: Sequence[Mapping[str, Any]]) -> list[ConditionRow]:
    """One row a condition of the table or of the calibration; names in natural order ('class=10' after 'class=9')."""
    known = {str(stratum["name"]): stratum for stratum in strata}
    names = stratum_of(inputs, list(known))
    present = set(names[inputs.judged])
    absent = set(known) - {name.removesuffix(INFERRED) for name in present}
    return [
        _row(inputs, name, inputs.judged & (names == name), known.get(name.removesuffix(INFERRED)))
        for name in sorted(present | absent, key=natural)
    ]


def stratum_of(inputs: ReportInputs, known: Sequence[str]) -> np.ndarray:
    """(N,) the stratum's name of each image; with one stratum that no condition is called after, it is everybody's."""
    names = inputs.texts("stratum" if "stratum" in inputs.table.columns else "condition")
    if len(known) == 1 and known[0] not in {name.removesuffix(INFERRED) for name in names}:
        return np.full(len(names), known[0], dtype=object)
    return names


def sharing_groups(rows: Sequence[ConditionRow], calibration: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Calibration normals and tested normals of each group of images that shares a threshold."""
    rows = [row for row in rows if not row.inferred]
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
    inferred = name.endswith(INFERRED)
    if stratum is not None:
        own = bool(stratum.get("own", True))
        if own and normals and not inferred:
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
        inferred=inferred,
    )


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Key that sorts 'class=10' after 'class=9'."""
    parts = re.split(r"(\d+)", name)
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts if part]
