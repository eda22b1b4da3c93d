"""Rows on their way to sinks, and which files were judged: one SQLite file, whole whenever a process dies.

A row enters together with the file it is about, in one transaction, and leaves when every sink has it. How far each
sink has come is kept here too. See https://microservices.io/patterns/data/transactional-outbox.html.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from knowngood.deploy.sqlite import opened
from knowngood.errors import ArtifactError, OutputError
from knowngood.files import make_folder

_TABLES = """
create table if not exists rows (number integer primary key autoincrement, row text not null);
create table if not exists sinks (name text primary key, number integer not null, place text not null);
create table if not exists files (path text primary key, size integer, changed integer, digest text);
"""


class Seen(NamedTuple):
    """A file that was judged, as it was then: bytes, time of the last change in ns, digest of the content."""

    size: int
    changed: int
    digest: str


class Outbox:
    """Opens the file, or makes it. Safe to use from several threads.

    Raises:
        ArtifactError: the file is something else, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        make_folder(path.parent)
        try:
            self._base = opened(path, _TABLES, "full")
        except sqlite3.Error as error:
            raise ArtifactError(f"{path}: cannot be used to keep the state ({error}); give another --state") from None

    def add(self, rows: Iterable[Mapping[str, Any]], files: Mapping[str, Seen] | None = None) -> None:
        """Keep rows for the sinks, and the files that they are about, in one transaction. Raises OutputError."""
        texts = [(json.dumps(row, ensure_ascii=False),) for row in rows]
        found = [(path, *seen) for path, seen in (files or {}).items()]
        try:
            with self._lock, self._base:
                self._base.execute("begin immediate")
                self._base.executemany("insert into rows (row) values (?)", texts)
                self._base.executemany("insert or replace into files values (?, ?, ?, ?)", found)
        except sqlite3.Error as error:
            raise OutputError(
                f"{self.path} cannot be written: {error}; free some space, or give another --state"
            ) from None

    def seen(self, path: str) -> Seen | None:
        """A file as it was when it was judged; None if it never was. Raises OutputError."""
        query = "select size, changed, digest from files where path = ?"
        try:
            with self._lock:
                found = self._base.execute(query, (path,)).fetchone()
        except sqlite3.Error as error:
            raise OutputError(f"{self.path} cannot be read: {error}; give another --state") from None
        return None if found is None else Seen(*found)

    def place(self, sink: str) -> dict[str, Any] | None:
        """What a sink keeps here between its writes; None of a new one."""
        with self._lock:
            found = self._base.execute("select place from sinks where name = ?", (sink,)).fetchone()
        return None if found is None else json.loads(found[0])

    def begin(self, sink: str, place: Mapping[str, Any]) -> None:
        """A new sink: it gets the rows from now on; those that are here are on their way to others."""
        with self._lock:
            query = "insert into sinks select ?, coalesce(max(seq), 0), ? from sqlite_sequence where name = 'rows'"
            self._base.execute(query, (sink, json.dumps(place)))

    def after(self, sink: str, most: int) -> list[tuple[int, dict[str, Any]]]:
        """The next rows for a sink, with their numbers."""
        query = "select number, row from rows where number > (select number from sinks where name = ?) order by number"
        with self._lock:
            found = self._base.execute(f"{query} limit ?", (sink, most)).fetchall()
        return [(number, json.loads(row)) for number, row in found]

    def advance(self, sink: str, number: int, place: Mapping[str, Any]) -> None:
        """A sink has the rows up to this number."""
        with self._lock:
            self._base.execute(
                "update sinks set number = ?, place = ? where name = ?", (number, json.dumps(place), sink)
            )

    def forget(self) -> None:
        """Remove the rows that every sink has, also one that is not in use now and is owed rows."""
        with self._lock:
            self._base.execute("delete from rows where number <= (select coalesce(min(number), 0) from sinks)")

    def owed(self) -> dict[str, int]:
        """How many rows wait for each sink; none are left out."""
        query = "select name, (select count(*) from rows where rows.number > sinks.number) from sinks"
        with self._lock:
            return {name: count for name, count in self._base.execute(query) if count}

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._base.close()
