"""Opening a SQLite file that several processes may make at the same time."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Literal

WAIT = 60.0  # seconds for which another process may hold the file
AGAIN = 0.02  # seconds until the next try


def opened(path: Path, tables: str, synchronous: Literal["normal", "full"], version: int = 0) -> sqlite3.Connection:
    """A connection in autocommit for several threads, with write-ahead log and these tables, which are made if missing.

    SQLite waits for a lock by itself (`timeout`), but not to change to the write-ahead log, which every process does
    that opens a new file; so that is tried again. The tables are made under the lock for writing.

    Args:
        version: of the tables, kept in the file.

    Raises:
        sqlite3.Error: the file is something else, damaged, of another version, or locked for a minute.
    """
    base = sqlite3.connect(path, timeout=WAIT, check_same_thread=False, isolation_level=None)
    last = time.monotonic() + WAIT
    while True:
        try:
            base.execute("pragma journal_mode = wal")
            base.execute(f"pragma synchronous = {synchronous}")
            if base.execute("pragma user_version").fetchone()[0] not in (0, version):
                raise sqlite3.DatabaseError("it was written by a newer version")
            base.executescript(f"begin immediate; pragma user_version = {version}; {tables} commit;")
            return base
        except sqlite3.Error as error:
            if base.in_transaction:
                base.rollback()
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            busy = code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not busy or time.monotonic() > last:
                base.close()
                raise
            time.sleep(AGAIN)
