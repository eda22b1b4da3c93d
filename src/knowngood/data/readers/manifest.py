"""Manifests: a .csv or .parquet table with one row an image.

Columns: `path` (needed; relative to the manifest; also `image_path`, `filename`, `file`, `image`), `label` (or another
that says what is normal, see `label_column`), `split`, `mask`; every other column is a condition. A .csv is separated
by commas, semicolons or tabs; beside the last two 0,5 is a number. Empty cells are unknown.
A condition column of whole numbers becomes integers, of other numbers floats, anything else text; numbers with leading
zeros ("007") and those beyond 64 bits stay text.
"""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from knowngood.config.words import counted
from knowngood.data.findings import Finding, printable
from knowngood.data.formulas import as_meant
from knowngood.data.imageset import ImageSet
from knowngood.data.labels import parse_labels
from knowngood.data.pixel_source import FilePixels, PixelSource
from knowngood.data.readers.damage import named_damage
from knowngood.data.readers.folder import by_mask, identifier
from knowngood.data.readers.label_column import label_column
from knowngood.data.readers.layout import SPLITS
from knowngood.data.values import as_number
from knowngood.errors import DataError
from knowngood.files import decoded

if TYPE_CHECKING:
    from pandas import DataFrame

    from knowngood.data.stores.address import Address

PATHS = ("path", "image_path", "filename", "file_name", "file", "image")
SEPARATORS = (",", ";", "\t")
_EMPTY = {"", "nan", "none", "null", "na", "n/a"}
_DECIMAL = re.compile(r"[+-]?\d+(,\d+)?([eE][+-]?\d+)?")


def path_column(columns: Iterable[Any]) -> Any:
    """The first of `PATHS` among the names of columns, in any case; None if there is none."""
    found = {str(name).strip().lower().replace(" ", "_"): name for name in reversed(list(columns))}
    return next((found[name] for name in PATHS if name in found), None)


def read_manifest(path: str | Path) -> ImageSet:
    """Images named in a table. Rows whose file does not exist are set aside by name.

    Raises:
        DataError: no column of paths, two columns of one name, an unknown label word, one file in two rows, or no file
            that exists.
    """
    path = Path(path)
    names, rows = _csv(path) if path.suffix.lower() == ".csv" else _parquet(path)
    return _images(path.resolve().parent, path, names, rows)


def read_frame(frame: DataFrame, name: str = "frame") -> ImageSet:
    """Images named in a pandas DataFrame, as in a manifest; paths are relative to the working folder.

    Ids are the paths as they are written there, as in a list of files, so that they do not depend on that folder.

    Raises:
        DataError: as `read_manifest`.
    """
    return _images(Path.cwd(), Path(name), [str(column) for column in frame.columns], _rows(frame), as_written=True)


def existing(root: Path, name: str) -> Path | None:
    """The file of that name below the root, however its accents are composed and its folders are separated."""
    spelled = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")), name.replace("\\", "/"))
    return next((root / one for one in spelled if os.path.isfile(root / one)), None)


def _images(root: Path, path: Path, names: list[str], cells: list[list[Any]], *, as_written: bool = False) -> ImageSet:
    columns, given, rejected = _listed(str(path), path, names, cells)
    files = [None if value is None else existing(root, value) for value in given]
    rows = [i for i, file in enumerate(files) if file is not None]
    for i, value in enumerate(given):
        if value is not None and files[i] is None:
            rejected.append(Finding(value, "missing", f"does not exist (row {i + 1} of {path.name})", "error"))
    if not rows:
        raise DataError(f"{path}: no file in it exists (of {len(cells):,}); paths are taken relative to {root}")
    ids = np.array([identifier(files[i], root) for i in rows])  # type: ignore[arg-type]
    _refuse_repeats(ids, rows, path)
    if as_written:
        ids = np.array([printable(str(given[i])) for i in rows])
    columns = {name: [values[i] for i in rows] for name, values in columns.items()}
    named = [_cell(value) for value in columns.pop("mask", [])]
    masks, notes = _masks(named, root, ids) if named else (None, [])
    pixels = FilePixels(tuple(files[i] for i in rows))  # type: ignore[arg-type]
    found = described(str(path), columns, pixels, ids)
    if masks is not None and any(named) and not np.isfinite(found.labels).any():  # as in a folder
        lost = np.array([cell is not None and mask is None for cell, mask in zip(named, masks, strict=True)])
        found = found.replace(labels=np.where(lost, 1.0, by_mask(masks)))
        reason = "no column says what is normal: an image is anomalous if its mask is not empty"
        notes.append(Finding(path.name, "labels", reason, "note"))
    return found.replace(masks=masks, name=path.stem, rejected=(*rejected, *found.rejected, *notes))


def _listed(
    where: str, path: Path, names: list[str], cells: list[list[Any]]
) -> tuple[dict[str, list[Any]], list[str | None], list[Finding]]:
    """The columns of a table without that of paths; the path in each row, None if it has none; and what is left out."""
    columns, rejected = _columns(path, names, cells), []
    key = path_column(columns)
    if key is None:
        raise DataError(
            f"{where}: no column 'path' (or {', '.join(PATHS[1:])}); its columns are: {', '.join(columns) or 'none'}"
        )
    if any(_cell(value) for value in columns.pop("", ())):
        rejected.append(Finding(path.name, "ignored", "a column without a name is ignored", "note"))
    if not cells:
        raise DataError(f"{where}: has no rows")
    for name in ("label", "split", "mask"):  # "Label" too
        other = next((column for column in columns if column.lower() == name and name not in columns), None)
        columns = {name if column == other else column: values for column, values in columns.items()}
    given = [_cell(value) for value in columns.pop(key)]
    without = [i for i, value in enumerate(given) if value is None]
    rejected += [Finding(f"{path.name} row {i + 1}", "missing", "has no path", "error") for i in without]
    return columns, given, rejected


def described(
    where: str,
    columns: Mapping[str, list[Any]],
    pixels: PixelSource,
    ids: np.ndarray,
    labels: np.ndarray | None = None,
) -> ImageSet:
    """Images with what the columns of a table say: `label`, `split`, and every other column as a condition.

    Args:
        where: for messages. columns: name → a cell for each of the N images. ids: (N,), unique. labels: (N,); default
            by the column that says them.

    Raises:
        DataError: an unknown label word, or a column that may say what is normal and does not.
    """
    columns, notes = dict(columns), []
    if labels is None and "label" in columns:
        try:
            labels = parse_labels(_label_cells(columns.pop("label")), ids)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
    elif labels is None:
        others = {name: list(map(_written, values)) for name, values in columns.items() if name != "split"}
        found = label_column(others, where)
        if found is not None:
            labels = np.array(found.labels)
            notes.append(Finding(PurePath(where).name, "labels", found.said, "note"))
            columns = columns if found.kept else {name: v for name, v in columns.items() if name != found.name}
    splits = [_split(_cell(value) or "") for value in columns.pop("split", ())]
    if any(splits) and not all(splits):
        n = counted(splits.count(""), "row")
        notes.append(
            Finding(PurePath(where).name, "without-split", f"{n} in no split, where others are in one", "warning")
        )
    return ImageSet(
        pixels=pixels,
        ids=ids,
        labels=np.full(len(ids), np.nan) if labels is None else labels,
        conditions={name: _typed(values) for name, values in columns.items()},
        splits=np.array(splits) if any(splits) else None,
        rejected=tuple(notes),
    )


def read_remote_manifest(address: Address) -> ImageSet:
    """Images of an object store named in a .csv beside them. Which of them exist is known when they are read.

    Raises:
        DataError: as `read_manifest`. StoreError: the store does not answer.
    """
    from knowngood.data.stores.address import Address
    from knowngood.data.stores.blobs import Objects
    from knowngood.data.stores.fetched_pixels import FetchedPixels

    path = Path(address.name)
    names, rows = _csv(path, address.read())
    columns, given, rejected = _listed(str(address), path, names, rows)
    keep = [i for i, value in enumerate(given) if value is not None]
    ids = np.array([str(given[i]).replace("\\", "/").removeprefix("./") for i in keep])
    _refuse_repeats(ids, keep, path)
    named = np.array([_cell(columns["mask"][i]) is not None for i in keep]) if "mask" in columns else np.zeros(0, bool)
    if columns.pop("mask", None) is not None:
        rejected.append(Finding(path.name, "ignored", "masks of a manifest at a URL are not read", "warning"))
    root = Address(address.scheme, address.path.rpartition("/")[0])
    pixels = FetchedPixels(Objects(root, ids.tolist(), [""] * len(ids)))
    chosen = {name: [values[i] for i in keep] for name, values in columns.items()}
    found = described(str(address), chosen, pixels, ids)
    if named.any() and not np.isfinite(found.labels).any():
        found = found.replace(labels=np.where(named, 1.0, np.nan))
        reason = "no column says what is normal: an image that has a mask is taken for anomalous"
        rejected.append(Finding(path.name, "labels", reason, "warning"))
    return found.replace(name=path.stem, rejected=(*rejected, *found.rejected))


def _csv(path: Path, content: bytes | None = None) -> tuple[list[str], list[list[Any]]]:
    """Names of the columns, and rows; content: of the file, if it is none of this machine."""
    expected = 'expected UTF-8 text (from a spreadsheet: "CSV UTF-8"), a " within double quotes doubled'
    damage = named_damage(path, "cannot be read as a table", expected)
    with damage, io.StringIO(decoded(path.read_bytes() if content is None else content), newline="") as file:
        start = file.readline()
        said = start[4] if re.fullmatch(r"sep=.\s*", start) else None  # by a spreadsheet, in a line of its own
        file.seek(0 if said is None else file.tell())
        heads = {sep: next(csv.reader([start], delimiter=sep, skipinitialspace=True), []) for sep in SEPARATORS}
        separator = said or max(SEPARATORS, key=lambda sep: (path_column(heads[sep]) is not None, len(heads[sep])))
        cells = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
        rows = [row for row in cells if any(cell.strip() for cell in row)]  # spreadsheets leave rows of separators
    if not rows:
        raise DataError(f"{path}: cannot be read as a table: it is empty")
    names = [as_meant(name.strip()) for name in rows[0]]
    return names, rows[1:] if separator == "," else _with_points(rows[1:])


def _with_points(rows: list[list[Any]]) -> list[list[Any]]:
    """Rows whose columns of numbers with decimal commas, as spreadsheets write them in many countries, have points."""
    for k in range(max(map(len, rows), default=0)):
        cells = [row[k] for row in rows if k < len(row) and _cell(row[k]) is not None]
        if any("," in cell for cell in cells) and all(_DECIMAL.fullmatch(cell.strip()) for cell in cells):
            rows = [[*row[:k], row[k].replace(",", "."), *row[k + 1 :]] if k < len(row) else row for row in rows]
    return rows


def _parquet(path: Path) -> tuple[list[str], list[list[Any]]]:
    import pandas as pd

    with named_damage(path, "cannot be read as a table", "save it as .parquet or .csv again"):
        try:
            with path.open("rb") as file:  # its name need not be text
                frame = pd.read_parquet(file)
        except ImportError:
            raise DataError(f"{path}: reading parquet needs pyarrow: pip install 'knowngood[parquet]'") from None
    return [str(column).strip() for column in frame.columns], _rows(frame)


def _rows(frame: DataFrame) -> list[list[Any]]:
    return [list(row) for row in zip(*(frame.iloc[:, k].tolist() for k in range(frame.shape[1])), strict=True)]


def _columns(path: Path, names: list[str], rows: list[list[Any]]) -> dict[str, list[Any]]:
    """Values by name of the column. Those of columns without a name are joined, as text, under ""."""
    for name in names:
        if name and names.count(name) > 1:
            raise DataError(f"{path}: two columns have the name '{name}'; its columns are: {', '.join(names)}")
    for i, row in enumerate(rows):
        if any(_cell(value) for value in row[len(names) :]):
            raise DataError(
                f"{path}: row {i + 1} has {counted(len(row), 'cell')} for {counted(len(names), 'column')}; put text "
                "that holds the separator in double quotes"
            )
    filled = [[*row, *[""] * (len(names) - len(row))] for row in rows]
    columns = {name: [row[k] for row in filled] for k, name in enumerate(names) if name}
    unnamed = [k for k, name in enumerate(names) if not name]
    return columns | ({"": ["".join(str(row[k]) for k in unnamed) for row in filled]} if unnamed else {})


def _cell(value: Any) -> str | None:
    text = "" if value is None else as_meant(str(value).strip())
    return None if text.lower() in _EMPTY or text == "<NA>" else text


def _written(value: Any) -> str | None:
    """As `_cell`, but "none" is a word."""
    text = "" if value is None else str(value).strip()
    return text if text.lower() == "none" else _cell(value)


def _split(word: str) -> str:
    return SPLITS.get(word.lower(), word)


def _label_cells(values: list[Any]) -> list[str]:
    return [_cell(value) or "" for value in values]


def _refuse_repeats(ids: np.ndarray, rows: list[int], path: Path) -> None:
    first: dict[str, int] = {}
    for name, row in zip(ids.tolist(), rows, strict=True):
        if name in first:
            raise DataError(f"{path}: rows {first[name] + 1} and {row + 1} both name '{name}'; expected one row a file")
        first[name] = row


def _masks(
    cells: list[str | None], root: Path, ids: np.ndarray
) -> tuple[tuple[tuple[Path, ...] | None, ...], list[Finding]]:
    masks: list[tuple[Path, ...] | None] = []
    notes = []
    for cell, name in zip(cells, ids.tolist(), strict=True):
        path = None if cell is None else existing(root, cell)
        if cell is not None and path is None:
            notes.append(Finding(cell, "mask-missing", f"does not exist; it is the mask of {name}", "warning"))
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
        numbers = [as_number(cell) for cell in present]
    except ValueError:
        return text
    if not np.isfinite(numbers).all():
        return text
    if all(cell.lstrip("+-").isdigit() for cell in present):
        whole = [int(cell) for cell in present]
        fits = len(whole) == len(cells) and max(map(abs, whole)) < 2**63  # larger ones name things
        return np.array(whole, dtype=np.int64) if fits else text
    return np.array([np.nan if cell is None else float(cell) for cell in cells], dtype=np.float64)
