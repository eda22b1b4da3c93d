"""Encoded images in a column of parquet files, read a row group at a time."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from knowngood.data.findings import Unreadable
from knowngood.data.readers.damage import named_damage
from knowngood.data.stores.address import Address
from knowngood.data.stores.blobs import patiently
from knowngood.errors import DataError

GROUPS = 2  # row groups that are held


class ParquetRows:
    """Images of a column `column`: binary, or a struct with `bytes`, as Hugging Face datasets write them.

    groups: for each row group of all files the file, its number in it, and the rows before it.
    """

    def __init__(
        self, root: str, files: Sequence[Path | Address], column: str, names: Sequence[str],
        groups: Sequence[tuple[int, int, int]], stamps: Sequence[str],
    ) -> None:  # fmt: skip
        self.root, self.files, self.column, self.names = root, tuple(files), column, list(names)
        self.groups, self.stamps = list(groups), tuple(stamps)
        self.starts = np.array([start for _, _, start in groups], np.int64)
        self.remote = any(isinstance(file, Address) for file in files)
        self._begin()

    def _begin(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()
        self._held: OrderedDict[int, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_held", "_process")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    def __len__(self) -> int:
        return len(self.names)

    def name(self, k: int) -> str:
        return self.names[k]

    def stamp(self, k: int) -> str:
        return f"{self.stamps[self.groups[self._group(k)][0]]} {k}"

    def fetch(self, k: int) -> bytes:
        group = self._group(k)
        value = self._values(group, self.names[k])[k - int(self.starts[group])].as_py()
        if value is None:
            raise Unreadable(Path(self.names[k]), "missing", f"has no bytes in column '{self.column}'")
        return value

    def _group(self, k: int) -> int:
        return int(np.searchsorted(self.starts, k, side="right")) - 1

    def _values(self, group: int, name: str) -> Any:
        """The column of a row group; those used last are held.

        Raises:
            Unreadable: of the image `name`: the group is damaged, or may not be read. StoreError: no answer.
        """
        if self._process != os.getpid():
            self._begin()
        with self._lock:
            if group not in self._held:
                number, file = self.groups[group][1], self.files[self.groups[group][0]]
                read = partial(self._read, file, number)
                try:
                    column = patiently(file, name, read) if isinstance(file, Address) else read()
                except DataError as error:
                    raise Unreadable(Path(name), "unreadable", str(error)) from None
                self._held[group] = column.field("bytes") if "bytes" in names_of(column.type) else column
                while len(self._held) > GROUPS:
                    self._held.popitem(last=False)
            self._held.move_to_end(group)
            return self._held[group]

    def _read(self, file: Path | Address, number: int) -> Any:
        import pyarrow as pa

        with parquet_file(file) as opened:
            try:
                return opened.read_row_group(number, columns=[self.column]).column(0).combine_chunks()
            except Exception as error:
                of_arrow = isinstance(error, pa.ArrowException) or type(error) is OSError
                if isinstance(file, Address) and not of_arrow:
                    raise  # of the store
                raise DataError(f"{file}: row group {number} is damaged; save or download it again") from None


@contextmanager
def parquet_file(file: Path | Address) -> Iterator[Any]:
    """Within, an open `pyarrow.parquet.ParquetFile`. Raises DataError: it is damaged, or pyarrow is missing."""
    import pyarrow.parquet as pq

    with named_damage(str(file), "cannot be read as parquet", "save or download it again"):
        source = file.fs.open(file.path, "rb") if isinstance(file, Address) else file.open("rb")  # of any name
        try:
            opened = pq.ParquetFile(source)
        except BaseException:
            source.close()
            raise
    try:
        yield opened
    finally:
        opened.close(force=True)


def names_of(type_: Any) -> list[str]:
    """The names of the fields of a struct; of another type none."""
    import pyarrow as pa

    return [type_.field(i).name for i in range(type_.num_fields)] if pa.types.is_struct(type_) else []
