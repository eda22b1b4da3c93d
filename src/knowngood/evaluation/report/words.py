"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def number(value: float | None, digits: int = 4) -> str:
    """A number with `digits` significant digits, or a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if abs(value) >= 1e7 or abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def percent(rate: float, *, up: bool = False) -> str:
    """A rate as '5 %', with as many digits as it needs; `up` rounds upwards."""
    value = 100 * rate
    digits = 0 if math.isclose(value, round(value), abs_tol=1e-9) else 1 if value >= 1 else 2
    if up:
        value = math.ceil(value * 10**digits - 1e-9) / 10**digits
    return f"{value:.{digits}f} %" if digits < 2 else f"{value:.2g} %"


def listed(names: Sequence[str], most: int = 6) -> str:
    """'a, b, c and 4 more'."""
    text = ", ".join(names[:most])
    return f"{text} and {len(names) - most:,} more" if len(names) > most else text


def plain(value: Any) -> str:
    """A setting's value as text."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value) or "none"
    if value is None or (isinstance(value, Mapping) and not value):
        return "none"
    return str(value)


def flattened(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text)."""
    flat: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat += flattened(value, f"{prefix}{name}.")
        else:
            flat.append((f"{prefix}{name}", plain(value)))
    return flat
