"""An explanation in plain words."""

from __future__ import annotations

from knowngood.data.image_factors import NUISANCES
from knowngood.detector.explain.explanation import Explanation, Nuisance

FAR = 0.95  # of held-out good images are nearer to their nearest one
SLIGHT = 0.02  # of the range of values that a difference has to reach to be named
NAMED = 3  # neighbours


def sentences(found: Explanation, alpha: float) -> tuple[str, ...]:
    """Verdict, place, what is odd there, light, and good images to compare with."""
    said = [_verdict(found, alpha), _place(found), _regions(found), _what(found)]
    said += [_light(one, found.condition) for one in found.nuisances if one.unusual]
    if found.nuisances and not any(one.unusual for one in found.nuisances):
        said.append("Its brightness and contrast are as usual.")
    said.append(_nearest(found))
    return tuple(text for text in said if text)


def summary(found: Explanation) -> str:
    """One short sentence for a table."""
    parts = [] if found.peak is None else [f"oddest {where(found)}"]
    if found.regions:
        n = len(found.regions)
        parts.append(f"{n} region{'s' * (n != 1)} above the threshold")
    parts += [_change(one) for one in found.nuisances if one.unusual]
    if found.nearest:
        parts.append(f"most like {found.nearest[0].id}")
    text = "; ".join(parts) or f"score {found.anomaly_score:.4g}"
    return text[0].upper() + text[1:] + "."


def where(found: Explanation) -> str:
    """The peak in words: 'at the lower left'."""
    assert found.peak is not None
    height, width = found.image.shape[:2]
    row = ("upper", "", "lower")[min(2, 3 * found.peak[0] // height)]
    column = ("left", "", "right")[min(2, 3 * found.peak[1] // width)]
    if not row and not column:
        return "in the centre"
    return f"at the {' '.join(part for part in (row, column) if part)}" + (
        " side" if not row or not column else " corner"
    )


def percent(share: float) -> str:
    """A share as '18 %', small ones with a decimal."""
    value = 100 * abs(share)
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.1f} %"


def _verdict(found: Explanation, alpha: float) -> str:
    p = f"p = {found.p_value:.2g}"
    if found.is_anomalous:
        return f"Flagged, {p}: of good images some {percent(found.p_value)} have a p-value this small."
    return f"Not flagged, {p}, at a false-alarm rate of {percent(alpha)}."


def _place(found: Explanation) -> str:
    if found.peak is None:
        return ""
    row, column = found.peak
    height, width = found.image.shape[:2]
    return f"It is oddest {where(found)}, at row {row} and column {column} of {height}×{width} pixels."


def _regions(found: Explanation) -> str:
    if not found.regions:
        return ""
    first = found.regions[0]
    top, left, bottom, right = first.box
    n = len(found.regions)
    lead = "One region lies" if n == 1 else f"{n} regions lie"
    p = "" if first.p_value is None else f", p = {first.p_value:.2g}"
    which = "It spans" if n == 1 else "The oddest spans"
    span = f"rows {top} to {bottom - 1} and columns {left} to {right - 1}"
    return f"{lead} above the threshold of the map. {which} {span}{p}."


def _what(found: Explanation) -> str:
    if found.components:
        first = found.components[0]
        side = "above" if first.deviation > 0 else "below"
        return (
            f"There {first.name} is {abs(first.deviation):.1f} standard deviations {side} what the model expects, "
            "more than any other feature."
        )
    if found.residual is None or found.reconstruction is None:
        return ""
    delta = found.residual.mean(-1)
    at = abs(delta).argmax()
    largest = float(delta.reshape(-1)[at])
    if abs(largest) < SLIGHT:
        return ""
    side = "brighter" if largest > 0 else "darker"
    return f"At most it is {percent(largest)} of the range of values {side} than the model expects."


def _change(one: Nuisance) -> str:
    words = {"brightness": ("brighter", "darker"), "contrast": ("more contrast", "less contrast")}
    more = words[one.name][0 if one.change > 0 else 1]
    return f"{percent(one.change)} {more} than usual" + (" (explained away)" if one.explained_away else "")


def _light(one: Nuisance, condition: str) -> str:
    text = _change(one)
    parts = [part for part in condition.split(", ") if part not in ("", "all") and part.split("=")[0] not in NUISANCES]
    told = f" for {', '.join(parts)}" if parts else ""
    verb = "It is" if one.name == "brightness" else "It has"
    head, _, tail = text.partition(" (")
    return f"{verb} {head}{told}{' (' + tail if tail else ''}."


def _nearest(found: Explanation) -> str:
    if not found.nearest:
        return ""
    names = [one.id for one in found.nearest[:NAMED]]
    text = f"The good images most like it are {', '.join(names[:-1])} and {names[-1]}"
    if len(names) == 1:
        text = f"The good image most like it is {names[0]}"
    if found.farther is not None and found.farther >= FAR:
        share = "all" if found.farther == 1 else percent(found.farther) + " of"
        text += f", yet it lies farther from them than {share} good images that were held out"
    return text + "."
