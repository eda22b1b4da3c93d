"""What is wrong, or worth knowing, about one image or one set of images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from knowngood.errors import DataError

Severity = Literal["error", "warning", "note"]

# Kinds of findings that mean an item cannot be used at all.
UNUSABLE = frozenset(
    {
        "zero-byte",
        "truncated",
        "not-an-image",
        "unsupported",
        "unreadable",
        "missing",
        "non-finite",
        "unlisted",
        "too-large",
    }
)


# What moves the cursor of a terminal, ends a line of a log, or turns the order of what is read.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(name: str) -> str:
    """A name of a file or folder, which need not be text: bytes that are none, and controls, are written as escapes."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


@dataclass(frozen=True)
class Finding:
    """One finding: the path or id it is about, a kind to group by, the reason in words, and its severity."""

    path_or_id: str
    kind: str
    reason: str
    severity: Severity

    def __str__(self) -> str:
        return f"{self.path_or_id}: {self.reason}"


class Unreadable(DataError):
    """One file cannot be read as an image. Carries the path, the kind of finding it makes, and the reason."""

    def __init__(self, path: Path, kind: str, reason: str) -> None:
        super().__init__(f"{printable(str(path))}: {reason}")
        self.path = path
        self.kind = kind
        self.reason = reason

    def __reduce__(self):  # so that worker processes can hand it back
        return Unreadable, (self.path, self.kind, self.reason)
