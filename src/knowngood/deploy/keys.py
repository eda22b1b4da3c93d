"""API keys: a file of names and SHA-256 digests, one key a line. The keys themselves are nowhere.

A key is 256 random bits, so that its digest needs no salt and no slow hash.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from knowngood.errors import OutputError, SettingsError
from knowngood.files import decoded, explained, write_text

_LINE = re.compile(r"([\w.-]{1,64}) ([0-9a-f]{64})")


def read_keys(path: Path) -> dict[str, str]:
    """Digests by name.

    Raises:
        SettingsError: the file is missing, holds something else, or no key.
    """
    try:
        lines = decoded(path.read_bytes()).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--keys {path}: cannot be read ({error}); make one with --new-key NAME") from None
    found = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise SettingsError(f"--keys {path}, line {number}: expected NAME SHA256, as --new-key NAME writes it")
        found[match[1]] = match[2]
    if not found:
        raise SettingsError(f"--keys {path}: there is no key in it; make one with --new-key NAME")
    return found


def add_key(path: Path, name: str) -> str:
    """Make a key, add its digest to the file, and give the key; that of the same name is replaced.

    Raises:
        SettingsError: the name is no word. OutputError: the file cannot be written.
    """
    key = secrets.token_urlsafe(32)
    line = f"{name} {_digest(key)}"
    if _LINE.fullmatch(line) is None:
        raise SettingsError(f"--new-key {name!r}: expected a name of letters, digits, '.', '-' and '_'")
    with explained(path):
        content = path.read_bytes() if path.exists() else b""
    try:
        text = decoded(content)
    except UnicodeDecodeError as error:
        raise SettingsError(f"--keys {path}: cannot be read ({error}); save it as UTF-8") from None
    kept = [one for one in text.splitlines() if not one.startswith(f"{name} ")]
    write_text(path, "\n".join([*kept, line]) + "\n")
    try:
        path.chmod(0o600)
    except OSError as error:
        raise OutputError(f"{path}: its permissions cannot be set ({error})") from None
    return key


def owner_of(key: str, digests: Mapping[str, str]) -> str | None:
    """The name of a key, None for a wrong one. All digests are compared, each in constant time."""
    own = _digest(key)
    found = [name for name, digest in digests.items() if hmac.compare_digest(own, digest)]
    return found[0] if found else None


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
