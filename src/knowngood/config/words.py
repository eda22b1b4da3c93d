"""Numbers and names in sentences."""

from __future__ import annotations

import difflib

NEAREST = 5  # names listed, of many


def counted(n: int, noun: str) -> str:
    """The number and the noun, in the plural unless it is one: "1 image", "1,200 images"."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def nearest(name: str, known: list[str], most: int = 20) -> str:
    """'; did you mean …?' and the known names, for error messages. Of names equally near the first is meant.

    Of more than `most` names the five nearest are listed.
    """

    def alike(other: str) -> float:
        return difflib.SequenceMatcher(None, other, name).ratio()

    if not known:
        return "; there are none"
    ordered = sorted(known, key=alike, reverse=True)
    hint = f"; did you mean '{ordered[0]}'?" if alike(ordered[0]) >= 0.5 else ""
    if len(known) <= most:
        return f"{hint} (known: {', '.join(known)})"
    return f"{hint} (nearest of {len(known):,}: {', '.join(ordered[:NEAREST])})"
