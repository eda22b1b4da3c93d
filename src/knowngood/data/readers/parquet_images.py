"""Parquet files that hold images: a column of bytes, or of structs with bytes and path, as Hugging Face's are.

Other columns mean what they mean in a manifest; columns of lists and structs are left aside. Classes whose names the
file carries (a ClassLabel) become the condition "class", and a label where the names say so. A file named
train-00000-of-00002.parquet says the split.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from knowngood.data.findings import Finding, printable
from knowngood.data.imageset import ImageSet
from knowngood.data.itemset import numbered
from knowngood.data.readers.manifest import PATHS, described
from knowngood.data.readers.tar_shards import by_class, split_of
from knowngood.data.stores.address import Address, stamp_of
from knowngood.data.stores.fetched_pixels import FetchedPixels
from knowngood.data.stores.parquet_rows import ParquetRows, names_of, parquet_file
from knowngood.errors import DataError


def image_column(file: Path | Address) -> str | None:
    """The column of a parquet file that holds images; None if there is none, or the file cannot be read."""
    try:
        with parquet_file(file) as opened:
            return _image_column(opened.schema_arrow)
    except (DataError, ImportError):  # said where it is read as a table
        return None


def read_parquet_images(files: Sequence[Path | Address], root: Path | Address) -> ImageSet:
    """The images of parquet files. Ids are paths, where a column or the structs have one for each; else row numbers.

    Raises:
        DataError: a file is damaged, the files differ in their columns, or none holds images.
    """
    columns: dict[str, list[Any]] = {}
    groups, stamps, splits = [], [], []
    column, start, names, classes, rejected = None, 0, None, None, []
    for number, file in enumerate(files):
        with parquet_file(file) as opened:
            schema = opened.schema_arrow
            names = schema.names if names is None else names
            if schema.names != names:
                raise DataError(
                    f"{file}: its columns are {schema.names}, those of {files[0]} {names}; expected the same"
                )
            column = _image_column(schema)
            if column is None:
                raise DataError(
                    f"{file}: no column of images; expected one of bytes, or of structs with 'bytes', as Hugging Face "
                    f"datasets write. Its columns are: {', '.join(names)}"
                )
            own = _class_names(schema)
            classes = own if classes is None else classes
            if own != classes:
                raise DataError(f"{file}: its classes are {own}, those of {files[0]} {classes}; expected the same")
            wanted = [name for name in names if name != column and _plain(schema.field(name).type)]
            has_path = "path" in names_of(schema.field(column).type)
            table = opened.read(columns=[*wanted, *([f"{column}.path"] if has_path else [])])
            for name in wanted:
                columns.setdefault(name, []).extend(table.column(name).to_pylist())
            if has_path:
                paths = table.column(column).combine_chunks().field("path").to_pylist()
                columns.setdefault(PATH_OF, []).extend(paths)
            for group in range(opened.num_row_groups):
                groups.append((number, group, start))
                start += opened.metadata.row_group(group).num_rows
            splits += [split_of(file.name)] * len(table)
            stamps.append(f"{file.name} {opened.metadata.serialized_size} {opened.metadata.num_rows} {stamp_of(file)}")
    if not start or column is None or classes is None:
        raise DataError(f"{root}: has no rows")
    left = [name for name in names or () if name != column and name not in columns]
    rejected += [Finding(name, "ignored", "a column of lists or structs is no condition", "note") for name in left]
    ids = _ids(columns, start)
    pixels = FetchedPixels(ParquetRows(str(root), files, column, ids.tolist(), groups, stamps))
    found = _described(str(root), columns, classes, pixels, ids)
    if found.splits is None and all(splits):
        found = found.replace(splits=np.array(splits))
    return found.replace(name=printable(Path(root.name).stem), rejected=(*found.rejected, *rejected))


PATH_OF = "\0path"  # of the structs


def _described(
    where: str, columns: dict[str, list[Any]], classes: dict[str, list[str]], pixels: FetchedPixels, ids: np.ndarray
) -> ImageSet:
    named = next((name for name in ("label", "class", "labels") if name in classes and name in columns), None)
    if named is None:
        return described(where, columns, pixels, ids)
    words = classes[named]
    values = [words[k] if k is not None and 0 <= k < len(words) else None for k in columns.pop(named)]
    columns, labels = by_class(columns, values)
    return described(where, columns, pixels, ids, labels)


def _ids(columns: dict[str, list[Any]], n: int) -> np.ndarray:
    """Paths where all rows have one of their own, which are then no column; else numbers."""
    inner = columns.pop(PATH_OF, None)
    name = next((name for name in PATHS if name in columns), None)
    for values in (inner, None if name is None else columns[name]):
        if values is not None and all(isinstance(v, str) and v for v in values) and len(set(values)) == n:
            if values is not inner and name is not None:
                del columns[name]
            return np.array([printable(value) for value in values])
    return numbered(n)


def _image_column(schema: Any) -> str | None:
    import pyarrow as pa

    def binary(kind: Any) -> bool:
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    for field in schema:
        inner = names_of(field.type)
        if binary(field.type) or ("bytes" in inner and binary(field.type.field("bytes").type)):
            return field.name
    return None


def _plain(kind: Any) -> bool:
    import pyarrow as pa

    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Names of classes by column, as Hugging Face datasets write them beside the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: one["names"] for name, one in features.items() if isinstance(one, dict) and "names" in one}
    except (KeyError, ValueError, TypeError):
        return {}
