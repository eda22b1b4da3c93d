"""An explanation in words that are used on a line: what, where, how anomalous, and compared with what."""

from __future__ import annotations

from knowngood.config import counted
from knowngood.data.image_factors import MEASURES
from knowngood.detector.explain.appearance import Difference
from knowngood.detector.explain.explanation import Explanation, ImageFactor

FAR = 0.95  # share of held-out normal images that are closer to their nearest one
NAMED = 3  # nearest images
COUNTED = 4.0  # standard deviations from which the share of a kind of patch is reported
TOLD = 2  # differences in a summary
WHOLE = {"global": "the image as a whole", "level": "the image as a whole", "counts": "the counts of kinds of patches"}
OPPOSITE = {"darker": "brighter", "brighter": "darker"}
OPPOSITE |= {"more contrast": "less contrast", "less contrast": "more contrast"}
VERBS = {"darker": "is ", "brighter": "is ", "more contrast": "has "}


def sentences(one: Explanation, alpha: float) -> tuple[str, ...]:
    """Verdict, where, how it looks there, counts, brightness and contrast, and the nearest normal images."""
    texts = [_verdict(one, alpha), _place(one), _unplaced(one), *_differences(one), _count(one)]
    outside = [factor for factor in one.image_factors if factor.outside_normal_range]
    texts += [_factor(factor, one.condition) for factor in outside]
    if one.image_factors and not outside:
        texts.append("Brightness and contrast of the image as a whole are in the normal range.")
    texts.append(_nearest(one))
    return tuple(text for text in texts if text)


def summary(one: Explanation) -> str:
    """One short sentence for a table."""
    parts = [one.misfit] if one.misfit else []
    parts += ["flagged for " + _for(one)] if _unplaced(one) else []
    parts += [] if one.peak is None else [_where(one) + _looks(one)]
    if len(one.regions) > 1:
        parts.append(f"{_areas(len(one.regions) - 1)} more")
    if one.count is not None and abs(one.count.deviation) >= COUNTED:
        parts.append(f"{'more' if one.count.deviation > 0 else 'less'} of one kind of surface than normal")
    parts += [change(factor) + _accounted(factor) for factor in one.image_factors if factor.outside_normal_range]
    if one.nearest:
        parts.append(f"nearest normal image {one.nearest[0].id}")
    if one.lookalikes:
        parts.append(f"nearest of what it looks like {one.lookalikes[0].id}")
    text = "; ".join(parts) or f"score {one.anomaly_score:.4g}"
    return text[0].upper() + text[1:] + "."


def where(one: Explanation) -> str:
    """In which ninth of the image: 'upper left', 'top', 'centre'; of the most anomalous region, else of the peak."""
    assert one.peak is not None
    height, width = one.image.shape[:2]
    row, column = one.peak
    if one.regions:
        top, left, bottom, right = one.regions[0].box
        row, column = (top + bottom - 1) / 2, (left + right - 1) / 2
    down, across = min(2, int(3 * row // height)), min(2, int(3 * column // width))
    if down == 1 or across == 1:
        return {(1, 1): "centre", (0, 1): "top", (2, 1): "bottom", (1, 0): "left", (1, 2): "right"}[down, across]
    return f"{('upper', '', 'lower')[down]} {('left', '', 'right')[across]}"


def percent(share: float) -> str:
    """A share as '18 %', small ones with a decimal."""
    value = 100 * abs(share)
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.1f} %"


def change(factor: ImageFactor) -> str:
    """'18 % darker than the median normal image'."""
    words = {"brightness": ("brighter", "darker"), "contrast": ("more contrast", "less contrast")}
    return f"{percent(factor.change)} {words[factor.name][factor.change <= 0]} than the median normal image"


def short(difference: Difference) -> str:
    """'38 % darker', 'another colour (redder)', 'lacks edges or texture'."""
    if difference.kind in ("darker", "brighter"):
        times = f"{1 + difference.change:.1f} times as bright"
        return f"{_amount(difference.change)} {difference.kind}" if difference.change < 1 else times
    if difference.kind == "colour":
        return f"another colour ({difference.hue})"
    if difference.kind == "more contrast":
        return "edges or texture where normal images are smoother"
    return "lacks edges or texture"


def _differences(one: Explanation) -> list[str]:
    """How pixels of the most anomalous area differ from normal images at the same place."""
    if one.view_box is None:
        return []
    if not one.differences:
        return ["Brightness, colour and contrast there do not stand out from how normal images vary."]
    return [_difference(difference) for difference in one.differences]


def _difference(one: Difference) -> str:
    share = percent(one.share)
    if one.kind in ("darker", "brighter"):
        by = f"by {_amount(one.change)}" if one.change < 1 else f"{1 + one.change:.1f} times as bright"
        return f"{share} of that area is {one.kind} than in normal images, {by} on average."
    if one.kind == "colour":
        return f"{share} of that area has another colour than in normal images: {one.hue}."
    if one.kind == "more contrast":
        return (
            f"{share} of that area has edges or texture where normal images are smoother: the local contrast is "
            f"{1 + one.change:.1f} times theirs."
        )
    return (
        f"{share} of that area lacks edges or texture that normal images have there: the local contrast is "
        f"{_amount(one.change)} less."
    )


def _amount(change: float) -> str:
    """A change as '38 %'."""
    return f"{100 * abs(change):.0f} %"


def _verdict(one: Explanation, alpha: float) -> str:
    p = _p(one.p_value)
    if one.misfit and one.p_condition is not None:
        return (
            f"{one.misfit[0].upper()}{one.misfit[1:]}, {_p(one.p_condition)}: {percent(one.p_condition)} of normal "
            f"images of {one.condition} fit it this badly. By itself it is not anomalous, {p}."
        )
    word = "Anomalous" if one.is_anomalous else f"Not anomalous at a false-alarm rate of {percent(alpha)}"
    if one.compared is None:
        return f"{word}: {percent(one.p_value)} of normal images have a p-value this small ({p})."
    higher, n = one.compared
    if not higher:
        return f"{word}: further from normal than each of the {n:,} normal images it is compared with ({p})."
    verb = "is" if higher == 1 else "are"
    return f"{word}: {higher:,} of the {n:,} normal images it is compared with {verb} as far from normal ({p})."


def _p(value: float) -> str:
    """'p = .003'."""
    return f"p = {value:.2g}".replace("= 0.", "= .")


def _place(one: Explanation) -> str:
    if one.peak is None:
        return ""
    height, width = one.image.shape[:2]
    if not one.regions:
        row, column = one.peak
        at = f"Most anomalous in the {where(one)}, at x = {column}, y = {row} of {width} × {height} pixels"
        return f"{at}; nowhere is its map above the threshold." if one.scale is not None else f"{at}."
    first, more = one.regions[0], len(one.regions) - 1
    p = "" if first.p_value is None else f" ({_p(first.p_value)})"
    others = f", and {_areas(more)} more" if more else ""
    text = _where(one)
    return f"{text[0].upper()}{text[1:]} of {width} × {height} pixels{p}{others}."


def _unplaced(one: Explanation) -> str:
    """What flagged an image of which no region is above the threshold of the map."""
    known = one.whole or one.scale is not None
    if not one.is_anomalous or one.regions or one.misfit or one.peak is None or not known:
        return ""
    return f"It is flagged for {_for(one)}, not for one place."


def _for(one: Explanation) -> str:
    """'the image as a whole (global: 3.1 standard deviations above normal images)'."""
    if not one.whole:
        return "many locations that each deviate a little"
    named = " and ".join(dict.fromkeys(WHOLE[name] for name in one.whole))
    values = ", ".join(f"{name} {value:.1f}" for name, value in one.whole.items())
    return f"{named} ({values} standard deviations above normal images)"


def _where(one: Explanation) -> str:
    """'upper left, 34 × 20 px at x = 120, y = 88'."""
    assert one.peak is not None
    if not one.regions:
        return f"{where(one)}, at x = {one.peak[1]}, y = {one.peak[0]}"
    top, left, bottom, right = one.regions[0].box
    return f"{where(one)}, {right - left} × {bottom - top} px at x = {left}, y = {top}"


def _looks(one: Explanation) -> str:
    """': 38 % darker, another colour (redder)'; of two that are opposite, each with its share of the area."""
    kinds, shown = {difference.kind: difference for difference in one.differences}, dict[str, str]()
    for difference in one.differences[:TOLD]:
        other = kinds.get(OPPOSITE.get(difference.kind, ""))
        if other is None:
            shown[difference.kind] = short(difference)
            continue
        for each in (difference, other):
            shown.setdefault(each.kind, f"{percent(each.share)} of it {VERBS.get(each.kind, '')}{short(each)}")
    return f": {', '.join(shown.values())}" if shown else ""


def _areas(n: int) -> str:
    return counted(n, "area")


def _count(one: Explanation) -> str:
    count = one.count
    if count is None or abs(count.deviation) < COUNTED:
        return ""
    like = "" if count.place is None else f" like that at x = {count.place[1]}, y = {count.place[0]}"
    side = "more" if count.deviation > 0 else "less"
    return (
        f"There is {side} of one kind of surface{like}: {percent(count.share)} of the image, {percent(count.normal)} "
        "in normal images. Something may be missing, extra or of another kind."
    )


def _factor(factor: ImageFactor, condition: str) -> str:
    given = [part for part in condition.split(", ") if part not in ("", "all") and part.split("=")[0] not in MEASURES]
    of = f" of {', '.join(given)}" if given else ""
    verb = "It is" if factor.name == "brightness" else "It has"
    return f"As a whole {verb.lower()} {change(factor)}{of}{_accounted(factor)}."


def _accounted(factor: ImageFactor) -> str:
    if factor.explained_away:
        return " (the model accounts for that)"
    return " (declared harmless)" if factor.declared_harmless else ""


def _nearest(one: Explanation) -> str:
    if not one.nearest:
        return ""
    *names, last = [near.id for near in one.nearest[:NAMED]]
    text = f"The normal image most like it is {last}"
    if names:
        text = f"The normal images most like it are {', '.join(names)} and {last}"
    if one.farther_than is not None and one.farther_than >= FAR:
        share = "all" if one.farther_than == 1 else f"{percent(one.farther_than)} of"
        text += f"; {share} held-out normal images are closer to the one most like them"
    if one.lookalikes:
        text += f"; the nearest of what it looks like is {one.lookalikes[0].id}"
    return text + "."
