"""`results.csv`: rows are appended, and flushed to the disk.

The place is the size of the file after the last write. What a killed write left behind it is the beginning of what
is to be written now, and is gone on with.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from knowngood.data.formulas import harmless
from knowngood.deploy.sinks import Place, Row, Sink, Unavailable
from knowngood.errors import SettingsError
from knowngood.files import make_folder


class CsvFile(Sink):
    """Columns are those of the file, or of the first row; a row with others is not written."""

    at_once = 256

    def __init__(self, url: str) -> None:
        self.url, self.path = url, Path(url)

    def begin(self) -> Place:
        make_folder(self.path.parent)
        if self.path.exists() and not self.path.is_file():
            raise SettingsError(f"--to {self.url}: is no file; give the name of a file")
        size = self.path.stat().st_size if self.path.exists() else 0
        if size:
            try:
                with self.path.open("rb") as file:
                    ours = "key" in _columns(file)
            except UnicodeDecodeError:
                ours = False
            if not ours:
                raise SettingsError(
                    f"--to {self.url}: holds something else, such as a table of `knowngood score`; give another name"
                )
        return {"size": size}

    def write(self, rows: Sequence[Row], place: Place) -> Place:
        try:
            with self.path.open("a+b") as file:
                size = file.seek(0, os.SEEK_END)
                start = place["size"] if place["size"] <= size else 0  # 0: it was taken away, and is begun again
                data = self._after(file, start, rows)
                file.seek(start)
                rest = file.read(len(data) + 1)
                # What is there may be of a killed write; else another program has written it.
                data = data[len(rest) :] if data.startswith(rest) else self._after(file, size, rows)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                return {"size": file.seek(0, os.SEEK_END)}
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(f"{self.url}: {error}") from error

    def _after(self, file: IO[bytes], end: int, rows: Sequence[Row]) -> bytes:
        """What is to be written after so many bytes of the file."""
        if not end:
            return _lines(rows, None)
        columns = _columns(file)
        file.seek(end - 1)
        return b"\n" * (file.read(1) != b"\n") + _lines(rows, columns)


def _columns(file: IO[bytes]) -> list[str]:
    """The header of the file."""
    file.seek(0)
    return next(csv.reader([file.readline().decode("utf-8-sig")]), [])


def _lines(rows: Sequence[Row], columns: list[str] | None) -> bytes:
    """Rows as CSV, below a header if there is none yet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if columns is None:
        columns = [harmless(name) for name in rows[0]]
        writer.writerow(columns)
    for row in rows:
        cells = {harmless(name): harmless(value) for name, value in row.items()}
        if lost := [name for name, value in cells.items() if name not in columns and value is not None]:
            raise Unavailable(
                f"the file has no column {', '.join(lost)}; move it away, and a new one is begun, or give another --to"
            )
        writer.writerow([cells.get(name) for name in columns])
    return text.getvalue().encode()
