"""Random changes of bytes, of text and of JSON: what disks, transfers, editors and attackers do to files."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

Rng = np.random.Generator

EXTREME = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HOSTILE_TEXT = (
    "", " ", "nan", "inf", "-inf", "1e999", "-1", "0", "9" * 400, "true", "null", "\x00", "\ufeff", "e\u0301",
    "../../x", "/dev/null", "=1+1", "@x", "a,b", ";", '"', "\n", "\r", "\u202e", "A" * 5000,
)  # fmt: skip
HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 10**400, -0.5, 1e308, float("nan"), float("inf"), "", "x", "../../x", [], {}, [[]],
    [None], {"": None}, "A" * 5000,
)  # fmt: skip


def mutated(data: bytes, rng: Rng) -> bytes:
    """One to four changes of bytes."""
    for _ in range(rng.integers(1, 5)):
        data = BYTE_CHANGES[rng.integers(len(BYTE_CHANGES))](data, rng)
    return data


def mutated_text(text: str, rng: Rng) -> bytes:
    """Changed cells, separators and lines of a table of text; now and then changed bytes too."""
    lines = text.split("\n")
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(lines)))
        cells = lines[at].split(",")
        change = rng.integers(6)
        if change == 0:
            cells[rng.integers(len(cells))] = str(rng.choice(np.array(HOSTILE_TEXT, object)))
        elif change == 1:
            cells.append("")
        elif change == 2:
            cells = cells[:-1] or [""]
        elif change == 3:
            lines.insert(at, lines[int(rng.integers(len(lines)))])
        elif change == 4:
            cells = [";".join(cells)]
        else:
            cells = [*cells, cells[0]]
        lines[at] = ",".join(cells)
    data = "\n".join(lines).encode(str(rng.choice(["utf-8", "utf-8", "utf-16", "utf-8-sig"])), "surrogatepass")
    return mutated(data, rng) if rng.random() < 0.3 else data


def mutated_json(data: bytes, rng: Rng) -> bytes:
    """One or two values of a JSON document replaced, removed, doubled or renamed, at any depth."""
    document = json.loads(data)
    for _ in range(rng.integers(1, 3)):
        holders = list(_holders(document))
        if not holders:
            break
        holder = holders[rng.integers(len(holders))]
        key = list(holder)[rng.integers(len(holder))] if isinstance(holder, dict) else int(rng.integers(len(holder)))
        change = rng.integers(4)
        if change == 0:
            holder[key] = HOSTILE_VALUES[rng.integers(len(HOSTILE_VALUES))]
        elif change == 1:
            del holder[key]
        elif change == 2 and isinstance(holder[key], int | float) and abs(holder[key]) < 1e300:  # an int has no end
            holder[key] = holder[key] * float(rng.choice([-1, 0, 0.5, 2, 1e6, 1e30])) + int(rng.integers(-1, 2))
        elif isinstance(holder, dict):
            holder[f"{key}x"] = holder[key]
        else:
            holder.append(holder[key])
    return json.dumps(document).encode()


def _holders(value: Any) -> Any:
    """All lists and mappings within a document that hold anything."""
    if isinstance(value, dict | list) and len(value):
        yield value
        for one in value.values() if isinstance(value, dict) else value:
            yield from _holders(one)


def _flip(data: bytes, rng: Rng) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        if changed:
            changed[rng.integers(min(len(changed), _reach(rng)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _number(data: bytes, rng: Rng) -> bytes:
    """An extreme number of 1, 2 or 4 bytes in either order: sizes, counts and offsets of a header."""
    width = int(rng.choice([1, 2, 4]))
    if len(data) <= width:
        return data
    at = int(rng.integers(min(len(data) - width, _reach(rng))))
    value = EXTREME[rng.integers(len(EXTREME))] & (256**width - 1)
    return data[:at] + value.to_bytes(width, str(rng.choice(["little", "big"]))) + data[at + width :]  # type: ignore[arg-type]


def _cut(data: bytes, rng: Rng) -> bytes:
    return data[: rng.integers(len(data) + 1)]


def _remove(data: bytes, rng: Rng) -> bytes:
    at = int(rng.integers(len(data) + 1))
    return data[:at] + data[at + int(rng.integers(1, 65)) :]


def _insert(data: bytes, rng: Rng) -> bytes:
    at = int(rng.integers(len(data) + 1))
    return data[:at] + rng.bytes(int(rng.integers(1, 65))) + data[at:]


def _repeat(data: bytes, rng: Rng) -> bytes:
    first, last = sorted(int(i) for i in rng.integers(len(data) + 1, size=2))
    return data[:last] + data[first:]


def _reach(rng: Rng) -> int:
    """Headers are short: most changes are within the first bytes."""
    return int(rng.choice([64, 256, 1 << 30]))


BYTE_CHANGES: tuple[Callable[[bytes, Rng], bytes], ...] = (
    _flip,
    _flip,
    _number,
    _number,
    _cut,
    _remove,
    _insert,
    _repeat,
)
