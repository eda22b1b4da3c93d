"""`sqlite:///path`: the table `results`, with a column a name and the key of a row as primary key."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from knowngood.deploy.sinks import Place, Row, Sink, Unavailable
from knowngood.errors import SettingsError
from knowngood.files import make_folder


class SqliteTable(Sink):
    """A column that the table lacks is added."""

    at_once = 256

    def __init__(self, url: str) -> None:
        self.url, self.path = url, Path(url.removeprefix("sqlite:///"))
        if not url.startswith("sqlite:///") or not self.path.name:
            raise SettingsError(f"--to {url}: expected sqlite:///results.db or, absolute, sqlite:////data/results.db")

    def begin(self) -> Place:
        make_folder(self.path.parent)
        try:
            with closing(sqlite3.connect(self.path)) as base:
                columns = {name: key for _, name, _, _, _, key in base.execute("pragma table_info(results)")}
        except sqlite3.OperationalError as error:  # locked by another program, say
            raise Unavailable(f"{self.url}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise SettingsError(f"--to {self.url}: holds something else ({error}); give another name") from None
        if columns and columns.get("key") != 1:
            raise SettingsError(f"--to {self.url}: its table 'results' is of something else; give another name")
        return {}

    def write(self, rows: Sequence[Row], place: Place) -> Place:
        try:
            with closing(sqlite3.connect(self.path)) as base, base:
                base.execute('create table if not exists results ("key" text primary key)')
                known = {name for _, name, *_ in base.execute("pragma table_info(results)")}
                for name in dict.fromkeys(name for row in rows for name in row):
                    if name not in known:
                        base.execute(f"alter table results add column {_quoted(name)}")
                for row in rows:
                    names, marks = ", ".join(map(_quoted, row)), ", ".join("?" * len(row))
                    cells = [_cell(value) for value in row.values()]
                    base.execute(f"insert or ignore into results ({names}) values ({marks})", cells)
        except sqlite3.Error as error:
            raise Unavailable(f"{self.url}: {error}") from error
        return place


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (dict, list)) else value
