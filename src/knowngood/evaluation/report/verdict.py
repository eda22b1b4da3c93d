"""What the results say, in words and numbers: the part of a report that is read first."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from knowngood.config import counted
from knowngood.evaluation.conditions import ConditionRow, by_condition, expected_false_alarms, sharing_groups
from knowngood.evaluation.report.inputs import ReportInputs
from knowngood.evaluation.report.words import listed, percent
from knowngood.evaluation.results import of_training

Tone = Literal["good", "warn", "bad", "note"]


@dataclass
class Verdict:
    """The summary of a report.

    Attributes:
        headline: one sentence. tone: of the whole.
        conditions: the results by condition.
        groups: calibration images and tested normals of each set of images that shares a threshold.
        statements: (tone, sentence), most important first.
        tiles: (name, value, note): the most important numbers.
    """

    headline: str
    tone: Tone
    conditions: list[ConditionRow]
    groups: tuple[list[int], list[int]]
    statements: list[tuple[Tone, str]] = field(default_factory=list)
    tiles: list[tuple[str, str, str]] = field(default_factory=list)

    def say(self, tone: Tone, text: str) -> None:
        self.statements.append((tone, text))


def judge(inputs: ReportInputs) -> Verdict:
    """Read the results of `inputs`."""
    rows = by_condition(inputs)
    largest, attainable = inputs.largest, inputs.attainable
    flagged, total, alpha = int(inputs.flagged.sum()), int(inputs.scored.sum()), percent(inputs.alpha)
    if attainable:
        many = f"{flagged:,}" if flagged else "None"
        headline = f"{many} of {counted(total, 'image')} {'is' if flagged < 2 else 'are'} flagged as anomalous."
    else:
        headline = f"No verdict at a false-alarm rate of {alpha}: too few calibration images."
    verdict = Verdict(headline, "good", rows, sharing_groups(rows, inputs.calibration.get("pooled_n")))
    share = percent(flagged / total) if total else ""
    verdict.tiles += [("images", f"{total:,}", ""), ("flagged", f"{flagged:,}", share if attainable else "no verdict")]
    verdict.tiles.append(
        ("false alarms, requested", alpha, "about, on average" if _crossed(inputs) else "at most, on average")
    )
    if largest is None or attainable:
        _say_guarantee(verdict, inputs)
        _say_false_alarms(verdict, inputs)
        _say_detected(verdict, inputs)
    else:
        missing = inputs.needed - largest
        verdict.say(
            "bad",
            f"To guarantee at most {alpha} false alarms, {counted(missing + largest, 'calibration image')} are needed. "
            f"There are {largest:,}; {missing:,} more {'is' if missing == 1 else 'are'} needed. The smallest rate that "
            f"{largest:,} can guarantee is {percent(1 / (largest + 1), up=True)}. Scores and their order below remain "
            "valid; only the verdict is missing.",
        )
    _say_separation(verdict, inputs)
    if wrong := int(inputs.wrong.sum()):
        are = "is" if wrong == 1 else "are"
        verdict.say("note", f"{wrong:,} of the flagged images {are} wrong for what they are said to be.")
    for remark in filter(None, map(inputs.table.attrs.get, ("batch", "aspect", "small"))):  # "fitted" is said above
        verdict.statements[:] = [("note" if tone == "good" else tone, said) for tone, said in verdict.statements]
        verdict.say("warn", f"{remark['sentence']}.")
    if unread := int((~inputs.scored).sum()):
        text = f"{counted(unread, 'image')} could not be read and {'has' if unread == 1 else 'have'} no verdict."
        verdict.say("warn", f"{text} The data audit says why.")
    if errors := sum(record.get("severity") == "error" for record in inputs.audit):
        text = f"The data audit below found {counted(errors, 'error')}. Read it before trusting these numbers."
        verdict.say("warn", text)
    warned = any(tone == "warn" for tone, _ in verdict.statements)
    verdict.tone = "bad" if not attainable else "warn" if warned else "good"
    return verdict


def _say_guarantee(verdict: Verdict, inputs: ReportInputs) -> None:
    alpha, strata = percent(inputs.alpha), inputs.calibration.get("strata", ())
    if not strata:
        text = f"At most {alpha} false alarms were requested. The number of calibration images is not recorded."
        verdict.say("note", text)
        return
    pooled = [str(stratum["name"]) for stratum in strata if not stratum.get("own", True)]
    own, images = len(strata) - len(pooled), counted(sum(int(stratum["n"]) for stratum in strata), "normal image")
    if _crossed(inputs):
        text = f"On average, about {alpha} of new normal images are flagged. The calibration is cross-conformal: "
        text += f"{images} of the training set, each scored by a model fitted without it. The rate is expected, not "
        text += "guaranteed."
    else:
        text = f"On average, at most {alpha} of new normal images are flagged. "
        text += f"The guarantee rests on {images} set aside from training."
    text += " It holds as long as new images come from the same source."
    if own > 1 and not pooled:
        text += f" It holds in each of the {own} conditions by itself: each is calibrated apart (Mondrian groups)."
    verdict.say("good", text)
    if pooled:
        what = "The rate" if _crossed(inputs) else "The guarantee"
        text = f"{what} holds in {own} of {len(strata)} conditions (Mondrian groups) by itself. " if own else ""
        text += "Conditions with too few calibration images of their own "
        text += f"(fewer than {inputs.needed:,}): {listed(pooled)}. "
        text += "They are compared with the calibration images of all conditions together."
        verdict.say("warn", text)


def _crossed(inputs: ReportInputs) -> bool:
    """Whether the calibration is cross-conformal: then a false-alarm rate is expected and measured, not guaranteed."""
    return inputs.calibration.get("method") == "cross"


def _say_false_alarms(verdict: Verdict, inputs: ReportInputs) -> None:
    flagged = inputs.flagged[inputs.labels == 0]
    normals, alarms = len(flagged), int(flagged.sum())
    if not normals:
        return
    rate = percent(alarms / normals)
    verdict.tiles.append(("false alarms, measured", rate, f"{alarms:,} of {normals:,} {inputs.normal_name}"))
    start = f"Measured on {counted(normals, 'image')} labelled normal: {alarms:,} flagged ({rate})"
    if fitted := int(inputs.metrics.get("fitted", 0)):
        verdict.statements[:] = [("note" if tone == "good" else tone, said) for tone, said in verdict.statements]
        verdict.say("warn", f"{start}. {of_training(fitted, normals)}.")
        return
    calibrated, tested = verdict.groups
    if sum(tested) != normals:
        verdict.say("note", f"{start}.")
        return
    low, high = expected_false_alarms(inputs.alpha, calibrated, tested)
    expected = f"the {low:,} to {high:,} expected"
    if alarms > high and alarms / normals <= inputs.alpha:
        text = f"{start}, which is within the requested rate, but more than {expected}: these images differ a little "
        verdict.say("note", text + "from the calibration images.")
    elif alarms > high:
        broken = "" if _crossed(inputs) else "The guarantee does not hold on these images. "
        text = f"{start}, more than {expected}. {broken}They differ from the "
        text += "calibration images, for example in camera, illumination or handling: look at the false alarms below, "
        text += "and calibrate with images like these."
        verdict.statements[:] = [("note" if tone == "good" else tone, said) for tone, said in verdict.statements]
        verdict.say("warn", text)
    elif alarms < low:
        holds = "" if _crossed(inputs) else " The guarantee holds with room to spare."
        verdict.say("good", f"{start}, fewer than {expected}.{holds}")
    else:
        holds = "" if _crossed(inputs) else " The guarantee holds."
        verdict.say("good", f"{start}, within {expected}.{holds}")
    over = [row.name for row in verdict.conditions if row.over]
    by_chance = math.ceil(0.025 * sum(row.expected is not None for row in verdict.conditions))
    if over and len(verdict.conditions) > 1:
        text = f"More false alarms than expected in {counted(len(over), 'condition')}: {listed(over)}."
        if len(over) <= by_chance:
            text += f" Of {len(verdict.conditions)} conditions, {by_chance} may exceed the range by chance."
        verdict.say("note" if len(over) <= by_chance else "warn", text)


def _say_detected(verdict: Verdict, inputs: ReportInputs) -> None:
    flagged = inputs.flagged[inputs.labels == 1]
    anomalies, detected = len(flagged), int(flagged.sum())
    if anomalies:
        share = percent(detected / anomalies)
        verdict.tiles.append(("anomalies detected", share, f"{detected:,} of {anomalies:,} {inputs.anomalous_name}"))
        text = f"Of {counted(anomalies, 'image')} labelled anomalous, {detected:,} {'is' if detected == 1 else 'are'} "
        text += f"flagged ({share}) and {anomalies - detected:,} missed."
        verdict.say("note" if detected >= anomalies / 2 else "warn", text)


def _say_separation(verdict: Verdict, inputs: ReportInputs) -> None:
    auroc, interval = inputs.metrics.get("auroc"), inputs.metrics.get("auroc_interval")
    if auroc is not None and math.isfinite(auroc):
        between = f"{interval[0]:.3f}–{interval[1]:.3f}" if interval is not None else ""
        verdict.tiles.append(("AUROC", f"{auroc:.3f}", f"95 %: {between}" if between else ""))
        text = f"AUROC {auroc:.3f}" + (f" (95 % interval {between})" if between else "")
        text += ": the probability that an anomalous image scores higher than a normal one. "
        text += "0.5 is chance, 1 is perfect; it does not depend on a threshold."
        verdict.say("note", text)
    elif not inputs.labelled:
        verdict.say("note", "No labels were given, so the numbers of detected and missed anomalies are not known.")
