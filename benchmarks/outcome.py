"""Whether a run measured what it was asked for: its exit status depends on that, not only its tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from knowngood.errors import DataError, TrainingError

ABSENT = ("missing", "not measured yet")  # how an error begins that is no failure of a method
SHOWN = 3  # reasons


def check_measured(rows: Any) -> None:
    """Refuse the rows that a benchmark returns where nothing is measured, or nothing by one of its methods.

    Args:
        rows: dictionaries. `error` says why a measurement is not there; `n` or `cells` beside it, how many are there;
            `cells_asked`, how many could be. Without `error` a row is a measurement. Anything else is not looked at.

    Raises:
        DataError: nothing is measured, since the data are missing.
        TrainingError: nothing is measured, or every cell of a method failed.
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return
    if not any(map(_is_measured, rows)):
        errors = [str(row["error"]) for row in rows if row.get("error")]
        kind = DataError if all(error.startswith(ABSENT) for error in errors) else TrainingError
        raise kind("nothing was measured: " + (_listed(errors) or "the lines above say why"))
    measured = {_method(row) for row in rows if _is_measured(row)}
    failed: dict[Any, list[str]] = {}
    for row in rows:
        if _method(row) not in measured and _has_failed(row):
            failed.setdefault(_method(row), []).append(str(row["error"]))
    if failed:
        raise TrainingError("\n".join(f"{name}: every measurement failed: {_listed(e)}" for name, e in failed.items()))


def _is_measured(row: dict[str, Any]) -> bool:
    if "error" not in row:
        return True
    return bool(row.get("cells", row.get("n", row["error"] is None)))


def _has_failed(row: dict[str, Any]) -> bool:
    """Whether it was tried. What could not be asked for, as an objective that a preset does not fit, has not failed."""
    error = row.get("error")
    return bool(error) and not str(error).startswith(ABSENT) and row.get("cells_asked") != 0 and "method" in row


def _method(row: dict[str, Any]) -> Any:
    return row.get("method")


def _listed(errors: Sequence[str]) -> str:
    different = list(dict.fromkeys(error.removeprefix("missing: ") for error in errors))
    more = f"\nand {len(different) - SHOWN} more" if len(different) > SHOWN else ""
    return "\n".join(different[:SHOWN]) + more
