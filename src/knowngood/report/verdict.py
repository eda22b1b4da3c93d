"""What the results say, in words and numbers: the part of a report that is read first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from knowngood.figures.calibration import expected_false_alarms
from knowngood.report.inputs import ReportInputs

Tone = Literal["good", "warn", "bad", "note"]


@dataclass(frozen=True)
class Statement:
    """One sentence of the summary, and whether it is good or bad news."""

    tone: Tone
    text: str


@dataclass(frozen=True)
class ConditionRow:
    """What happened in one condition. `normals` and the numbers after it are None without labels."""

    name: str
    images: int
    flagged: int
    normals: int | None
    false_alarms: int | None
    expected: tuple[int, int] | None
    anomalies: int | None
    found: int | None
    calibrated: int | None
    own: bool | None
    threshold: float | None


@dataclass(frozen=True)
class Verdict:
    """Headline, sentences, tiles (name, value, note) and the rows by condition."""

    headline: str
    tone: Tone
    statements: list[Statement]
    tiles: list[tuple[str, str, str]]
    conditions: list[ConditionRow]
    groups: tuple[list[int], list[int]]
    attainable: bool


def percent(rate: float) -> str:
    """A rate as '5 %', with as many digits as it needs to be told from its neighbours."""
    value = 100 * rate
    digits = 0 if value >= 99.95 or value == round(value) else 1 if value >= 1 else 2
    return f"{value:.{digits}f} %"


def count(n: int, noun: str) -> str:
    """'1 image', '2,000 images'."""
    irregular = {"anomaly": "anomalies"}
    return f"{n:,} {noun if n == 1 else irregular.get(noun, noun + 's')}"


def judge(inputs: ReportInputs) -> Verdict:
    """Read the results of `inputs`."""
    strata = [dict(stratum) for stratum in inputs.calibration.get("strata", ())]
    rows = _conditions(inputs, strata)
    groups = _groups(rows, inputs.calibration)
    needed = math.ceil(1 / inputs.alpha - 1e-9) - 1
    largest = max(
        [*(int(s["n"]) for s in strata if s.get("own", True)), int(inputs.calibration.get("pooled_n") or 0)], default=0
    )
    attainable = not strata or largest >= needed
    flagged, total = int(inputs.flagged.sum()), len(inputs.table)
    tiles = [("images", f"{total:,}", ""), ("flagged", f"{flagged:,}", percent(flagged / total))]
    tiles.append(("false alarms asked for", percent(inputs.alpha), "of normal images, at most"))
    statements: list[Statement] = []
    if attainable:
        plural = "is" if flagged == 1 else "are"
        headline = f"{flagged:,} of {count(total, 'image')} {plural} flagged as {inputs.anomalous_name}."
        if flagged == 0:
            headline = f"None of {count(total, 'image')} is flagged as {inputs.anomalous_name}."
        statements += _promise(inputs, strata, needed)
    else:
        headline = f"No verdict at a false-alarm rate of {percent(inputs.alpha)}: too few normal images to calibrate."
        missing = needed - largest
        statements.append(Statement("bad", (
            f"To promise at most {percent(inputs.alpha)} false alarms, {count(needed, 'normal image')} must be set aside for "
            f"calibration. There are {largest:,}; {missing:,} more {'is' if missing == 1 else 'are'} needed. The smallest rate "
            f"that {largest:,} can promise is {percent(1 / (largest + 1))}. Scores and their order below are still valid; only "
            "the verdict is missing."
        )))  # fmt: skip
    kept = _measured(inputs, rows, groups, statements, tiles) if attainable else True
    _separation(inputs, statements, tiles)
    errors = [record for record in inputs.audit if record.get("severity") == "error"]
    if errors:
        text = f"The data audit found {count(len(errors), 'error')}; read them below before trusting these numbers."
        statements.append(Statement("warn", text))
    tone: Tone = "bad" if not attainable else "warn" if not kept or errors else "good"
    return Verdict(headline, tone, statements, tiles, rows, groups, attainable)


def _promise(inputs: ReportInputs, strata: list[dict[str, Any]], needed: int) -> list[Statement]:
    alpha = percent(inputs.alpha)
    if not strata:
        return [
            Statement(
                "note",
                f"Requested false-alarm rate: {alpha} of normal images. How many normals calibrated it is not recorded.",
            )
        ]
    own = [s for s in strata if s.get("own", True)]
    pooled = [s for s in strata if not s.get("own", True)]
    total = sum(int(s["n"]) for s in strata)
    base = (
        f"Of new normal images, at most {alpha} are flagged on average. This rests on {count(total, 'normal image')} that were set "
        "aside from training, and holds as long as new images come from the same source as these."
    )
    where = (
        "" if len(strata) == 1 else f" It holds for each of the {len(own)} conditions by itself." if not pooled else ""
    )
    statements = [Statement("good", base + where)]
    if pooled:
        names = ", ".join(str(s["name"]) for s in pooled[:6]) + (
            f" and {len(pooled) - 6} more" if len(pooled) > 6 else ""
        )
        holds = f"{len(own)} of {len(strata)} conditions have their own promise. " if own else ""
        statements.append(Statement("warn", (
            f"{holds}Too few calibration normals for one of their own (fewer than {needed:,}): {names}. They share one threshold; "
            "the rate holds for them together, not for each."
        )))  # fmt: skip
    return statements


def _measured(
    inputs: ReportInputs,
    rows: list[ConditionRow],
    groups: tuple[list[int], list[int]],
    statements: list[Statement],
    tiles: list[tuple[str, str, str]],
) -> bool:
    """Add what the labels say about false alarms and anomalies found; False if there are more alarms than promised."""
    labels, flagged = inputs.labels, inputs.flagged
    normals, anomalies = int((labels == 0).sum()), int((labels == 1).sum())
    kept = True
    if normals:
        alarms = int(flagged[labels == 0].sum())
        text = (
            f"Measured on {count(normals, 'labelled normal image')}: {alarms:,} flagged ({percent(alarms / normals)})"
        )
        tone: Tone = "note"
        if groups[0] and sum(groups[1]) == normals:
            low, high = expected_false_alarms(inputs.alpha, *groups)
            if alarms > high:
                kept, tone = False, "warn"
                text += (
                    f", more than the {low:,} to {high:,} that chance explains. These images differ from the calibration normals, "
                    "for example in camera, light or handling: look at the false alarms below, and calibrate with images like them"
                )
            elif alarms < low:
                text += f", fewer than the {low:,} to {high:,} expected: the promise is kept with room to spare"
            else:
                tone = "good"
                text += f", within the {low:,} to {high:,} expected. The promise is kept"
        statements.append(Statement(tone, text + "."))
        tiles.append(
            ("false alarms measured", percent(alarms / normals), f"{alarms:,} of {normals:,} {inputs.normal_name}")
        )
        outside = [
            row.name
            for row in rows
            if row.expected and row.false_alarms is not None and row.false_alarms > row.expected[1]
        ]
        if kept and outside and len(rows) > 1:
            by_chance = max(1, round(0.025 * len(rows)))
            statements.append(Statement("note" if len(outside) <= by_chance else "warn", (
                f"More false alarms than expected in {count(len(outside), 'condition')}: {', '.join(outside[:6])}"
                f"{' …' if len(outside) > 6 else ''}; about {by_chance} of {len(rows)} would be so by chance."
            )))  # fmt: skip
    if anomalies:
        found = int(flagged[labels == 1].sum())
        tiles.append(
            ("anomalies found", percent(found / anomalies), f"{found:,} of {anomalies:,} {inputs.anomalous_name}")
        )
        text = f"Of {count(anomalies, 'labelled anomalous image')}, {found:,} are flagged ({percent(found / anomalies)}) and {anomalies - found:,} missed."
        statements.append(Statement("note", text))
    return kept


def _separation(inputs: ReportInputs, statements: list[Statement], tiles: list[tuple[str, str, str]]) -> None:
    auroc, interval = inputs.metrics.get("auroc"), inputs.metrics.get("auroc_interval")
    if auroc is None or not math.isfinite(auroc):
        if not np.isfinite(inputs.labels).any():
            statements.append(
                Statement("note", "No labels were given, so how many anomalies were found or missed is not known.")
            )
        return
    between = f" (95 % interval {interval[0]:.3f}–{interval[1]:.3f})" if interval is not None else ""
    statements.append(Statement("note", (
        f"AUROC {auroc:.3f}{between}: the chance that an anomalous image scores higher than a normal one. 0.5 is guessing, 1 is "
        "perfect; it does not depend on the threshold."
    )))  # fmt: skip
    tiles.append(("AUROC", f"{auroc:.3f}", f"{interval[0]:.3f}–{interval[1]:.3f}" if interval is not None else ""))


def _conditions(inputs: ReportInputs, strata: list[dict[str, Any]]) -> list[ConditionRow]:
    column = "stratum" if "stratum" in inputs.table.columns else "condition"
    names = inputs.texts(column)
    by_name: dict[str, Mapping[str, Any]] = {str(s["name"]): s for s in strata}
    if len(strata) == 1 and not set(names) & set(by_name):
        names = np.full(len(names), str(strata[0]["name"]), dtype=object)
    labels, flagged = inputs.labels, inputs.flagged
    labelled = bool(np.isfinite(labels).any())
    rows = []
    for name in sorted(set(names) | set(by_name), key=_natural):
        member, stratum = names == name, by_name.get(name)
        normals, anomalies = member & (labels == 0), member & (labels == 1)
        alarms, own = int(flagged[normals].sum()), None if stratum is None else bool(stratum.get("own", True))
        expected = None
        if stratum is not None and own and normals.any():
            expected = expected_false_alarms(inputs.alpha, [int(stratum["n"])], [int(normals.sum())])
        rows.append(
            ConditionRow(
                name=name or "unknown",
                images=int(member.sum()),
                flagged=int(flagged[member].sum()),
                normals=int(normals.sum()) if labelled else None,
                false_alarms=alarms if labelled else None,
                expected=expected,
                anomalies=int(anomalies.sum()) if labelled else None,
                found=int(flagged[anomalies].sum()) if labelled else None,
                calibrated=None if stratum is None else int(stratum["n"]),
                own=own,
                threshold=None if stratum is None or stratum.get("threshold") is None else float(stratum["threshold"]),
            )
        )
    return rows


def _groups(rows: list[ConditionRow], calibration: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Calibration normals and tested normals of each group that shares a threshold."""
    own = [row for row in rows if row.own and row.normals]
    calibrated, tested = [row.calibrated or 0 for row in own], [row.normals or 0 for row in own]
    shared = sum(row.normals or 0 for row in rows if row.own is False)
    if shared and calibration.get("pooled_n"):
        calibrated.append(int(calibration["pooled_n"]))
        tested.append(shared)
    return calibrated, tested


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which 'class=10' follows 'class=9'."""
    import re

    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
