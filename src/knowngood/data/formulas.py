"""Texts that a spreadsheet would run as a formula, made harmless."""

from __future__ import annotations

import re
from typing import TypeVar

_FORMULA = re.compile(r"[=+\-@\t\r\n](?!(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$)")
Cell = TypeVar("Cell")


def harmless(value: Cell) -> Cell | str:
    """A cell with ' before it, if it is a text that begins with =, +, -, @, tab or a line break and is no number.

    See https://owasp.org/www-community/attacks/CSV_Injection.
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def as_meant(text: str) -> str:
    """The text that `harmless` wrote a ' before."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text
