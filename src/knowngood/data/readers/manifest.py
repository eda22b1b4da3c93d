"""Manifests: a .csv or .parquet table with one row an image.

Columns: `path` (needed; relative to the manifest), `label`, `split`, `mask`; every other column is a condition. Empty
cells are unknown. A condition column of whole numbers becomes integers, of other numbers floats, anything else text;
numbers with leading zeros ("007") stay text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from knowngood.data.findings import Finding
from knowngood.data.imageset import ImageSet
from knowngood.data.labels import parse_labels
from knowngood.data.pixel_source import FilePixels
from knowngood.data.readers.folder import identifier
from knowngood.errors import DataError

_EMPTY = {"", "nan", "none", "null", "na", "n/a"}


def read_manifest(path: str | Path) -> ImageSet:
    """Images named in a table. Rows whose file does not exist are set aside by name.

    Raises:
        DataError: no column `path`, an unknown label word, one file in two rows, or no file that exists.
    """
    path = Path(path)
    columns, n = _table(path)
    if "path" not in columns:
        raise DataError(f"{path}: no column 'path'; its columns are: {', '.join(columns) or 'none'}")
    root = path.resolve().parent
    given = [_cell(value) for value in columns.pop("path")]
    files = [None if value is None else root / value for value in given]
    rejected, keep = [], np.zeros(n, dtype=bool)
    for i, file in enumerate(files):
        if file is None:
            rejected.append(Finding(f"{path.name} row {i + 1}", "missing", "has no path", "error"))
        elif not file.is_file():
            rejected.append(Finding(str(given[i]), "missing", f"does not exist (row {i + 1} of {path.name})", "error"))
        else:
            keep[i] = True
    if not keep.any():
        raise DataError(f"{path}: none of its {n} files exists; paths are taken relative to {root}")
    rows = np.flatnonzero(keep)
    ids = np.array([identifier(files[i], root) for i in rows])  # type: ignore[arg-type]
    _refuse_repeats(ids, rows, path)
    columns = {name: [values[i] for i in rows] for name, values in columns.items()}
    try:
        labels = (
            parse_labels(_label_cells(columns.pop("label")), ids) if "label" in columns else np.full(len(rows), np.nan)
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    splits = [_cell(value) or "" for value in columns.pop("split")] if "split" in columns else None
    masks, notes = (
        _masks([_cell(value) for value in columns.pop("mask")], root, ids) if "mask" in columns else (None, [])
    )
    return ImageSet(
        pixels=FilePixels(tuple(files[i] for i in rows)),  # type: ignore[arg-type]
        ids=ids,
        labels=labels,
        conditions={name: _typed(values) for name, values in columns.items()},
        splits=np.array(splits) if splits is not None else None,
        masks=masks,
        name=path.stem,
        rejected=(*rejected, *notes),
    )


def _table(path: Path) -> tuple[dict[str, list[Any]], int]:
    import pandas as pd

    try:
        if path.suffix.lower() == ".csv":
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
        else:
            frame = pd.read_parquet(path)
    except ImportError:
        raise DataError(f"{path}: reading parquet needs pyarrow: pip install 'knowngood[parquet]'") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read as a table ({error})") from None
    frame.columns = [str(column).strip() for column in frame.columns]
    if not frame.columns.is_unique:
        raise DataError(f"{path}: two columns have the same name; its columns are: {', '.join(frame.columns)}")
    if frame.empty:
        raise DataError(f"{path}: has no rows")
    return {name: frame[name].tolist() for name in frame.columns}, len(frame)


def _cell(value: Any) -> str | None:
    text = "" if value is None else str(value).strip()
    return None if text.lower() in _EMPTY or text == "<NA>" else text


def _label_cells(values: list[Any]) -> list[str]:
    return [_cell(value) or "" for value in values]


def _refuse_repeats(ids: np.ndarray, rows: np.ndarray, path: Path) -> None:
    first: dict[str, int] = {}
    for name, row in zip(ids.tolist(), rows.tolist(), strict=True):
        if name in first:
            raise DataError(f"{path}: rows {first[name] + 1} and {row + 1} both name '{name}'; expected one row a file")
        first[name] = row


def _masks(
    cells: list[str | None], root: Path, ids: np.ndarray
) -> tuple[tuple[tuple[Path, ...] | None, ...], list[Finding]]:
    masks: list[tuple[Path, ...] | None] = []
    notes = []
    for cell, name in zip(cells, ids.tolist(), strict=True):
        path = None if cell is None else root / cell
        if path is not None and not path.is_file():
            notes.append(Finding(str(cell), "mask-missing", f"does not exist; it is the mask of {name}", "warning"))
            path = None
        masks.append(None if path is None else (path,))
    return tuple(masks), notes


def _typed(values: list[Any]) -> np.ndarray:
    """Whole numbers → int64, numbers → float64 (NaN unknown), else text (None unknown)."""
    cells = [_cell(value) for value in values]
    present = [cell for cell in cells if cell is not None]
    text = np.array(cells, dtype=object)
    if not present or any(cell[0] == "0" and cell[1:].isdigit() and len(cell) > 1 for cell in present):
        return text
    try:
        numbers = [float(cell) for cell in present]
    except ValueError:
        return text
    if not np.isfinite(numbers).all():
        return text
    if all(cell.lstrip("+-").isdigit() for cell in present):
        return np.array([int(cell) for cell in cells], dtype=np.int64) if len(present) == len(cells) else text  # type: ignore[arg-type]
    return np.array([np.nan if cell is None else float(cell) for cell in cells], dtype=np.float64)
