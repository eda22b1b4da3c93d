"""What the results say, in words and numbers: the part of a report that is read first."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from knowngood.calibration import minimum_normals
from knowngood.evaluation.report.conditions import ConditionRow, by_condition, sharing_groups
from knowngood.evaluation.report.expected import expected_false_alarms
from knowngood.evaluation.report.inputs import ReportInputs
from knowngood.evaluation.report.words import count, listed, percent

Tone = Literal["good", "warn", "bad", "note"]


@dataclass
class Verdict:
    """The summary of a report.

    Attributes:
        headline: one sentence. tone: of the whole.
        statements: (tone, sentence), most important first.
        tiles: (name, value, note): the numbers to glance at.
        conditions: the results by condition.
        groups: calibration normals and tested normals of each group of images that shares a threshold.
        attainable: the false-alarm rate can be promised at all.
    """

    headline: str
    tone: Tone
    conditions: list[ConditionRow]
    groups: tuple[list[int], list[int]]
    attainable: bool
    statements: list[tuple[Tone, str]] = field(default_factory=list)
    tiles: list[tuple[str, str, str]] = field(default_factory=list)


def judge(inputs: ReportInputs) -> Verdict:
    """Read the results of `inputs`."""
    strata = [dict(stratum) for stratum in inputs.calibration.get("strata", ())]
    rows = by_condition(inputs, strata)
    sizes = [int(stratum["n"]) for stratum in strata]
    largest = max([*sizes, int(inputs.calibration.get("pooled_n") or 0)], default=0)
    attainable = not strata or largest >= minimum_normals(inputs.alpha)
    flagged, total = int(inputs.flagged.sum()), int(inputs.judged.sum())
    if attainable:
        many = "None" if flagged == 0 else f"{flagged:,}"
        headline = f"{many} of {count(total, 'image')} {'is' if flagged < 2 else 'are'} flagged as anomalous."
    else:
        headline = f"No verdict at a false-alarm rate of {percent(inputs.alpha)}: too few normals to calibrate it."
    verdict = Verdict(headline, "good", rows, sharing_groups(rows, inputs.calibration), attainable)
    share = percent(flagged / total) if total else ""
    verdict.tiles += [("images", f"{total:,}", ""), ("flagged", f"{flagged:,}", share if attainable else "no verdict")]
    verdict.tiles.append(("false alarms, requested", percent(inputs.alpha), "at most, on average"))
    if attainable:
        _say_promise(verdict, inputs, strata)
        _say_false_alarms(verdict, inputs)
        _say_found(verdict, inputs)
    else:
        verdict.statements.append(("bad", _what_is_missing(inputs.alpha, largest)))
    _say_separation(verdict, inputs)
    _say_data(verdict, inputs)
    if not attainable:
        verdict.tone = "bad"
    elif any(tone == "warn" for tone, _ in verdict.statements):
        verdict.tone = "warn"
    return verdict


def _what_is_missing(alpha: float, present: int) -> str:
    needed = minimum_normals(alpha)
    missing = needed - present
    return (
        f"To promise at most {percent(alpha)} false alarms, {count(needed, 'normal image')} must be set aside for "
        f"calibration. There are {present:,}; {missing:,} more {'is' if missing == 1 else 'are'} needed. The smallest "
        f"rate that {present:,} can promise is {percent(1 / (present + 1), up=True)}. Scores and their order below "
        "remain valid; only the verdict is missing."
    )


def _say_promise(verdict: Verdict, inputs: ReportInputs, strata: list[dict[str, Any]]) -> None:
    alpha = percent(inputs.alpha)
    if not strata:
        text = f"At most {alpha} false alarms were requested. How many normal images calibrated this is not recorded."
        verdict.statements.append(("note", text))
        return
    own = [stratum for stratum in strata if stratum.get("own", True)]
    pooled = [str(stratum["name"]) for stratum in strata if not stratum.get("own", True)]
    total = sum(int(stratum["n"]) for stratum in strata)
    if inputs.calibration.get("left_out"):
        text = (
            f"On average, about {alpha} of new normal images are flagged. This rests on {count(total, 'normal image')} "
            "that were learned from, each left out in turn, and is no exact promise. It takes new images of the same "
            "source as these."
        )
    else:
        text = (
            f"On average, at most {alpha} of new normal images are flagged. This rests on "
            f"{count(total, 'normal image')} set aside from training, and holds as long as new images come from the "
            "same source as these."
        )
    if len(strata) > 1 and not pooled:
        text += f" It holds in each of the {len(own)} conditions by itself."
    verdict.statements.append(("good", text))
    if pooled:
        text = f"It holds in {len(own)} of {len(strata)} conditions by itself. " if own else ""
        text += (
            f"Too few calibration normals for a promise of {'its' if len(pooled) == 1 else 'their'} own (fewer than "
            f"{minimum_normals(inputs.alpha):,}): {listed(pooled)}. There, images are compared with the normals of all "
            "conditions together."
        )
        verdict.statements.append(("warn", text))


def _say_false_alarms(verdict: Verdict, inputs: ReportInputs) -> None:
    flagged = inputs.flagged[inputs.labels == 0]
    normals, alarms = len(flagged), int(flagged.sum())
    if not normals:
        return
    tile = f"{alarms:,} of {normals:,} {inputs.normal_name}"
    verdict.tiles.append(("false alarms, measured", percent(alarms / normals), tile))
    start = f"Measured on {count(normals, 'image')} labelled normal: {alarms:,} flagged ({percent(alarms / normals)})"
    calibrated, tested = verdict.groups
    if sum(tested) != normals:
        verdict.statements.append(("note", f"{start}."))
        return
    low, high = expected_false_alarms(inputs.alpha, calibrated, tested)
    if alarms > high and alarms / normals <= inputs.alpha:
        text = (
            f"{start}. The promise is kept, but only just: {low:,} to {high:,} were expected, so these images differ a "
            "little from the calibration normals."
        )
        verdict.statements.append(("note", text))
    elif alarms > high:
        text = (
            f"{start}, more than the {low:,} to {high:,} that chance explains. The promise is not kept on these "
            "images. They differ from the calibration normals, for example in camera, light or handling: look at the "
            "false alarms below, and calibrate with images like these."
        )
        told: list[tuple[Tone, str]] = [  # no tick beside it
            ("note" if tone == "good" else tone, said) for tone, said in verdict.statements
        ]
        verdict.statements[:] = [*told, ("warn", text)]
    elif alarms < low:
        text = f"{start}, fewer than the {low:,} to {high:,} expected. The promise is kept with room to spare."
        verdict.statements.append(("good", text))
    else:
        verdict.statements.append(("good", f"{start}, within the {low:,} to {high:,} expected. The promise is kept."))
    over = [row.name for row in verdict.conditions if row.over]
    by_chance = math.ceil(0.025 * sum(row.expected is not None for row in verdict.conditions))
    if over and len(verdict.conditions) > 1:
        text = f"More false alarms than chance explains in {count(len(over), 'condition')}: {listed(over)}."
        if len(over) <= by_chance:
            text += f" Of {len(verdict.conditions)} conditions, {by_chance} may be so by chance."
        verdict.statements.append(("note" if len(over) <= by_chance else "warn", text))


def _say_found(verdict: Verdict, inputs: ReportInputs) -> None:
    flagged = inputs.flagged[inputs.labels == 1]
    anomalies, found = len(flagged), int(flagged.sum())
    if anomalies:
        share = percent(found / anomalies)
        verdict.tiles.append(("anomalies found", share, f"{found:,} of {anomalies:,} {inputs.anomalous_name}"))
        text = f"Of {count(anomalies, 'image')} labelled anomalous, {found:,} {'is' if found == 1 else 'are'} flagged"
        tone: Tone = "note" if found >= anomalies / 2 else "warn"
        verdict.statements.append((tone, f"{text} ({share}) and {anomalies - found:,} missed."))


def _say_separation(verdict: Verdict, inputs: ReportInputs) -> None:
    auroc, interval = inputs.metrics.get("auroc"), inputs.metrics.get("auroc_interval")
    if auroc is not None and math.isfinite(auroc):
        between = f"{interval[0]:.3f}–{interval[1]:.3f}" if interval is not None else ""
        verdict.tiles.append(("AUROC", f"{auroc:.3f}", f"95 %: {between}" if between else ""))
        text = (
            f"AUROC {auroc:.3f}{f' (95 % interval {between})' if between else ''}: the chance that an anomalous image "
            "scores higher than a normal one. 0.5 is guessing, 1 is perfect, whatever the threshold."
        )
        verdict.statements.append(("note", text))
    elif not inputs.labelled:
        text = "No labels were given, so how many anomalies were found or missed is not known."
        verdict.statements.append(("note", text))


def _say_data(verdict: Verdict, inputs: ReportInputs) -> None:
    unread = int(np.sum(~inputs.judged))
    if unread:
        text = f"{count(unread, 'image')} could not be read and {'has' if unread == 1 else 'have'} no verdict."
        verdict.statements.append(("warn", f"{text} The data audit says why."))
    errors = sum(record.get("severity") == "error" for record in inputs.audit)
    if errors:
        text = f"The data audit below found {count(errors, 'error')}. Read it before trusting these numbers."
        verdict.statements.append(("warn", text))
