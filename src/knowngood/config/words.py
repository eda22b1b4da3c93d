"""Numbers and names in sentences."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NEAREST = 5  # names listed, of many

_commands = 0  # in progress in this process, whose threads speak as they do


@contextmanager
def as_command() -> Iterator[None]:
    """Within, messages name commands and options; elsewhere Python."""
    global _commands
    _commands += 1
    try:
        yield
    finally:
        _commands -= 1


def in_command() -> bool:
    """Whether a command is in progress, which shows on the terminal what Python warns of."""
    return _commands > 0


def for_caller(python: str, command: str) -> str:
    """A way out in the language of the caller: Python, or the command line."""
    return command if _commands else python


def counted(n: int, noun: str) -> str:
    """The number and the noun, in the plural unless it is one: "1 image", "1,200 images"."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def in_pixels(size: Any) -> str:
    """A size (height, width) in a sentence, where width comes first: "640 × 480"."""
    return f"{size[1]:,} × {size[0]:,}"


def as_share(given: object) -> str:
    """'; for 5 % give 0.05' of a rate that is given as a percentage, with or without its sign; else empty."""
    text = str(given).strip().removesuffix("%")
    try:
        value = float(text)
    except ValueError:
        return ""
    return f"; for {value:g} % give {value / 100:g}" if 0 < value < 100 and (value >= 1 or text != str(given)) else ""


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
