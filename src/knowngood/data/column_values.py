"""Values of columns as they are typed: camera=B, several with commas between. The standard library alone."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import shlex

from knowngood.errors import SettingsError


def as_values(words: Sequence[str] | None) -> dict[str, str]:
    """The values that --as gives, by column: of one word several with commas between, which double quotes hide.

    Raises:
        SettingsError: a word is not COLUMN=VALUE, or a column has two values.
    """
    pairs = [part.strip().partition("=") for word in words or () for part in _parts(word)]
    for column, sign, value in pairs:
        if not (column and sign and value):
            raise SettingsError(f"--as {column}{sign}{value}: expected COLUMN=VALUE, such as camera=B")
    values: dict[str, str] = {}
    for column, _, value in pairs:
        if values.setdefault(column, value) != value:
            raise SettingsError(f"--as {column}={value}: expected one value of {column}; {values[column]} is given too")
    return values


def _parts(word: str) -> list[str]:
    lexer = shlex(word, posix=True)
    lexer.whitespace, lexer.quotes, lexer.escape, lexer.commenters = ",", '"', "", ""
    lexer.whitespace_split = True
    try:
        return list(lexer) or [word]
    except ValueError:
        raise SettingsError(f"--as {word}: a double quote is not closed; expected 'camera=\"A, left\"'") from None
