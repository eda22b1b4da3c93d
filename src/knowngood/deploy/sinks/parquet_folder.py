"""`results.parquet`: a folder of parts, which pandas, DuckDB and Spark read as one table.

Rows join the last part, which is written anew, until it has 10,000 rows. A row whose key is in it already, of a write
that was killed before its place was kept, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from knowngood.deploy.sinks import Place, Row, Sink, Unavailable
from knowngood.errors import OutputError, SettingsError
from knowngood.files import make_folder, whole

MOST = 10_000  # rows of a part
_PART = re.compile(r"part-\d{6}\.parquet")


class ParquetFolder(Sink):
    """All parts have one schema, but for columns that came later."""

    at_once = 1000

    def __init__(self, url: str) -> None:
        self.url, self.folder = url, Path(url)
        if find_spec("pyarrow") is None:
            raise SettingsError(f"--to {url}: needs pyarrow: pip install 'knowngood[parquet]'")

    def begin(self) -> Place:
        if self.folder.is_file():
            raise SettingsError(
                f"--to {self.url}: is a file, such as `knowngood score` writes; rows are appended to a folder: give "
                "another name"
            )
        make_folder(self.folder)
        names = [path.name for path in self.folder.iterdir() if not path.name.startswith(".")]
        if other := [name for name in names if not _PART.fullmatch(name)]:
            raise SettingsError(f"--to {self.url}: holds other files, such as {min(other)}; give another name")
        return {"part": len(names)}

    def write(self, rows: Sequence[Row], place: Place) -> Place:
        import pandas as pd
        from pyarrow import ArrowException

        from knowngood.deploy.scored_parts import encoded

        part = place["part"]
        path = self.folder / f"part-{part:06d}.parquet"
        try:
            before = pd.read_parquet(path) if path.exists() else pd.DataFrame({"key": []})
            known = set(before["key"])
            new = pd.DataFrame([dict(row) for row in rows if row["key"] not in known])
            table = pd.concat([before, new], ignore_index=True) if len(before) else new
            if len(new):
                with whole(path) as draft:
                    draft.write_bytes(encoded(table))
        except (OSError, OutputError, ArrowException, KeyError) as error:  # KeyError: of a table without keys
            raise Unavailable(f"{path}: {error}; if it is damaged, move it away") from None
        return {"part": part + 1 if len(before) + len(new) >= MOST else part}
