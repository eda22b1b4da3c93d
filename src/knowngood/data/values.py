"""The values of a condition column: as text, as numbers, and some of them in a sentence. NumPy alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knowngood.errors import DataError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def as_array(name: str, data: Any, n: int) -> NDArray[Any]:
    """A column as an array (n,); DataError if it has another shape."""
    if hasattr(data, "detach"):
        data = data.detach().cpu().numpy()
    array = data if isinstance(data, np.ndarray) else np.asarray(data)
    if not isinstance(data, np.ndarray) and array.dtype.kind in "US":
        array = np.asarray(data, dtype=object)  # a list such as ["A", None, 2] keeps its types
    if array.shape != (n,):
        raise DataError(f"condition '{name}' has shape {array.shape}; expected one value for each of {n:,} images")
    return array


def text_of(value: Any) -> str | None:
    """The text of a categorical value; None for a missing one. 2.0 and 2 are the same category."""
    if isinstance(value, str):
        return str(value) or None
    if value is None or type(value).__name__ in ("NAType", "NaTType") or value != value:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value.decode() if isinstance(value, bytes) else str(value)


def texts_of(array: NDArray[Any]) -> tuple[Ints, list[str | None]]:
    """Index (n,) into the distinct texts of an array; None among them stands for missing."""
    position: dict[str | None, int] = {}
    which = [position.setdefault(text, len(position)) for text in map(text_of, array.tolist())]
    return np.array(which, dtype=np.int64), list(position)


def numbers_of(array: NDArray[Any], name: str) -> Floats:
    """(n,) float64, NaN where missing."""
    if array.dtype.kind in "biuf":
        numbers = array.astype(np.float64)
    else:
        numbers = np.full(len(array), np.nan)
        for i, item in enumerate(array.tolist()):
            text = text_of(item)
            try:
                numbers[i] = np.nan if text is None else as_number(item)
            except (TypeError, ValueError, OverflowError):
                raise DataError(f"condition '{name}' is continuous; row {i} holds {text!r:.60}, not a number") from None
    if np.isinf(numbers).any():
        where = rows_text(np.isinf(numbers))
        raise DataError(f"condition '{name}' is infinite in rows {where}; expected finite numbers")
    return numbers


def as_number(value: Any) -> float:
    """A number, or a text that says one; "1_2" names a thing, though Python reads it as 12. Raises ValueError."""
    if isinstance(value, str) and "_" in value:
        raise ValueError(f"{value!r} is no number")
    return float(value)


def plain_number(text: str) -> float | None:
    """The number that a text says; None of a name, such as 007, and of more digits than a float has."""
    try:
        number = None if re.match(r"[+-]?0\d", text) else as_number(text)
    except ValueError:
        return None
    return number if number is not None and abs(number) < 2**53 else None


def listing(values: Sequence[str], *, quote: bool = False, most: int = 12) -> str:
    """Up to `most` values in a sentence, and how many more there are."""
    shown = ", ".join(f"'{value}'" if quote else value for value in values[:most])
    return f"{shown} … and {len(values) - most:,} more" if len(values) > most else shown


def in_one(sentences: Iterable[str]) -> str:
    """Sentences, of which the last full stop may lack, as one text."""
    return " ".join(one.rstrip(".") + "." for one in sentences)


def rows_text(mask: NDArray[np.bool_]) -> str:
    """The rows that a mask marks, for a sentence."""
    return listing([str(row) for row in np.flatnonzero(mask).tolist()])
