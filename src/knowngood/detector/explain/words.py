"""An explanation in plain words."""

from __future__ import annotations

from knowngood.data.image_factors import MEASURES
from knowngood.detector.explain.explanation import Explanation, ImageFactor

FAR = 0.95  # share of held-out normal images that are closer to their nearest one
SLIGHT = 0.02  # of the range of values: a smaller difference is not reported
NAMED = 3  # nearest images
COUNTED = 4.0  # standard deviations from which the share of a kind of patch is reported


def sentences(one: Explanation, alpha: float) -> tuple[str, ...]:
    """Verdict, peak, regions, what deviates there, image factors, and the nearest normal images."""
    texts = [_verdict(one, alpha), _peak(one), _regions(one), _deviation(one), _count(one)]
    outside = [factor for factor in one.image_factors if factor.outside_normal_range]
    texts += [_factor(factor, one.condition) for factor in outside]
    if one.image_factors and not outside:
        texts.append("Its brightness and contrast are in the normal range.")
    texts.append(_nearest(one))
    return tuple(text for text in texts if text)


def summary(one: Explanation) -> str:
    """One short sentence for a table."""
    parts = [one.misfit] if one.misfit else []
    parts += [] if one.peak is None else [f"peak {where(one)}"]
    if one.regions:
        n = len(one.regions)
        parts.append(f"{n} region{'s' * (n != 1)} above the threshold")
    if one.count is not None and abs(one.count.deviation) >= COUNTED:
        parts.append(f"{'more' if one.count.deviation > 0 else 'fewer'} patches of one kind than normal")
    parts += [change(factor) + _accounted(factor) for factor in one.image_factors if factor.outside_normal_range]
    if one.nearest:
        parts.append(f"nearest normal image {one.nearest[0].id}")
    if one.lookalikes:
        parts.append(f"nearest of what it looks like {one.lookalikes[0].id}")
    text = "; ".join(parts) or f"score {one.anomaly_score:.4g}"
    return text[0].upper() + text[1:] + "."


def where(one: Explanation) -> str:
    """The peak in words: 'at the lower left corner'."""
    assert one.peak is not None
    height, width = one.image.shape[:2]
    row = ("upper", "", "lower")[min(2, 3 * one.peak[0] // height)]
    column = ("left", "", "right")[min(2, 3 * one.peak[1] // width)]
    if not row and not column:
        return "in the centre"
    return f"at the {row} {column} corner" if row and column else f"at the {row or column} side"


def percent(share: float) -> str:
    """A share as '18 %', small ones with a decimal."""
    value = 100 * abs(share)
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.1f} %"


def change(factor: ImageFactor) -> str:
    """'18 % darker than the median normal image'."""
    words = {"brightness": ("brighter", "darker"), "contrast": ("more contrast", "less contrast")}
    return f"{percent(factor.change)} {words[factor.name][factor.change <= 0]} than the median normal image"


def _verdict(one: Explanation, alpha: float) -> str:
    p = _p(one.p_value)
    if one.misfit and one.p_condition is not None:
        return (
            f"{one.misfit[0].upper()}{one.misfit[1:]}, {_p(one.p_condition)}: {percent(one.p_condition)} of normal "
            f"images of {one.condition} fit it this badly. By itself it is not anomalous, {p}."
        )
    if one.is_anomalous:
        return f"Anomalous, {p}: {percent(one.p_value)} of normal images have a p-value this small."
    return f"Not anomalous at a false-alarm rate of {percent(alpha)}, {p}."


def _p(value: float) -> str:
    """'p = .003'."""
    return f"p = {value:.2g}".replace("= 0.", "= .")


def _peak(one: Explanation) -> str:
    if one.peak is None:
        return ""
    (row, column), (height, width) = one.peak, one.image.shape[:2]
    return f"The anomaly map is largest {where(one)}, at row {row} and column {column} of {height}×{width} pixels."


def _regions(one: Explanation) -> str:
    if not one.regions:
        return ""
    n, first = len(one.regions), one.regions[0]
    top, left, bottom, right = first.box
    lead = "One region of the map is" if n == 1 else f"{n} regions of the map are"
    which = "It spans" if n == 1 else "The most anomalous one spans"
    p = "" if first.p_value is None else f", {_p(first.p_value)}"
    span = f"rows {top} to {bottom - 1} and columns {left} to {right - 1}"
    return f"{lead} above the threshold. {which} {span}{p}."


def _deviation(one: Explanation) -> str:
    if one.components:
        first = one.components[0]
        side = "above" if first.deviation > 0 else "below"
        return (
            f"There, {first.name} deviates most: it is {abs(first.deviation):.1f} standard deviations {side} its "
            "expected value."
        )
    if one.residual is None or one.reconstruction is None:
        return ""
    delta = one.residual.mean(-1)
    largest = float(delta.reshape(-1)[abs(delta).argmax()])
    if abs(largest) < SLIGHT:
        return ""
    side = "brighter" if largest > 0 else "darker"
    return f"The largest difference from its reconstruction is {percent(largest)} of the range of values, {side}."


def _count(one: Explanation) -> str:
    count = one.count
    if count is None or abs(count.deviation) < COUNTED:
        return ""
    which = "One kind of patch covers"
    if count.place is not None:
        which = f"Patches like that at row {count.place[0]} and column {count.place[1]} cover"
    side = "more" if count.deviation > 0 else "less"
    return (
        f"The counts are off: {which[0].lower()}{which[1:]} {percent(count.share)} of the image, in normal images "
        f"{percent(count.normal)} ({abs(count.deviation):.1f} standard deviations {side})."
    )


def _factor(factor: ImageFactor, condition: str) -> str:
    given = [part for part in condition.split(", ") if part not in ("", "all") and part.split("=")[0] not in MEASURES]
    of = f" of {', '.join(given)}" if given else ""
    verb = "It is" if factor.name == "brightness" else "It has"
    return f"{verb} {change(factor)}{of}{_accounted(factor)}."


def _accounted(factor: ImageFactor) -> str:
    if factor.explained_away:
        return " (the model accounts for that)"
    return " (declared harmless)" if factor.declared_harmless else ""


def _nearest(one: Explanation) -> str:
    if not one.nearest:
        return ""
    *names, last = [near.id for near in one.nearest[:NAMED]]
    text = f"The nearest normal image is {last}"
    if names:
        text = f"The nearest normal images are {', '.join(names)} and {last}"
    if one.farther_than is not None and one.farther_than >= FAR:
        share = "all" if one.farther_than == 1 else f"{percent(one.farther_than)} of"
        text += f"; the first is farther away than that of {share} held-out normal images"
    if one.lookalikes:
        text += f"; the nearest of what it looks like is {one.lookalikes[0].id}"
    return text + "."
