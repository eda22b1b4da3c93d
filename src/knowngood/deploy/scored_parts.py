"""A folder of scored parts, here or in an object store: each is whole or absent, and a run goes on where it stopped.

`part-<first item>.parquet` are rows of `Detector.detect`; `set-aside.parquet` are files that no reader takes;
`_run.json` says what the scores depend on, `_done.json` that all is there. pandas, pyarrow, Spark and DuckDB read the
folder as one table.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowngood.data.stores.address import Address, is_url, refused
from knowngood.errors import ArtifactError, OutputError, SettingsError
from knowngood.files import explained, make_folder, whole

if TYPE_CHECKING:
    from pandas import DataFrame

RUN, DONE, ASIDE = "_run.json", "_done.json", "set-aside.parquet"
_PART = re.compile(r"part-(\d{12})\.parquet")
TEXTS = (  # columns that hold texts, also where a part has none
    "id", "condition", "verdict", "looks_like", "explanation", "note", "error", "time", "model", "scored_by", "key",
)  # fmt: skip


@dataclass(frozen=True)
class ScoredParts:
    """The folder at `place`. Can be pickled for workers."""

    place: Path | Address

    @classmethod
    def at(cls, place: str | Path) -> ScoredParts:
        """The folder that a path or URL names.

        Raises:
            SettingsError: a URL that is none of an object store; a file.
        """
        if is_url(str(place)):
            address = Address.of(str(place))
            return cls(Path(address.path) if address.scheme == "file" else address)
        if Path(place).is_file():
            raise SettingsError(f"--output {place}: is a file; a cluster writes parts: give a folder or a URL")
        return cls(Path(place).resolve())

    def names(self) -> set[str]:
        """Names of the files in the folder."""
        if isinstance(self.place, Path):
            return {path.name for path in self.place.iterdir() if path.is_file()} if self.place.is_dir() else set()
        try:
            return {str(name).rpartition("/")[2] for name in self.place.fs.ls(self.place.path, detail=False)}
        except FileNotFoundError:
            return set()
        except Exception as error:  # its message may hold a signed URL
            raise refused(str(self.place), "listed", error) from None

    def firsts(self) -> set[int]:
        """The first items of the parts that are there."""
        return {int(found[1]) for name in self.names() if (found := _PART.fullmatch(name))}

    def begin(self, run: Mapping[str, Any], resume: bool) -> set[int]:
        """Say what the run depends on, unless it is said; the first items of parts that are there already.

        Raises:
            SettingsError: the folder holds a run and not `resume`, or another run, or other files.
        """
        names = self.names()
        if RUN not in names:
            if names:
                raise SettingsError(
                    f"--output {self.place}: holds other files, such as {min(names)}; give an empty folder"
                )
            self.write_json(RUN, run)
            return set()
        if not resume:
            state = "a finished" if DONE in names else "an unfinished"
            raise SettingsError(
                f"--output {self.place}: holds {state} run; the same command with --resume goes on with it; or choose "
                "another folder"
            )
        check_same(self.read_json(RUN), run, f"{self.place} holds a run", "or choose another folder")
        return self.firsts()

    def withdraw(self) -> None:
        """Take back what `begin` said, where nothing was scored: another run may begin then."""
        if self.names() != {RUN}:
            return
        if isinstance(self.place, Path):
            (self.place / RUN).unlink(missing_ok=True)
        else:
            self.place.fs.rm_file(self.place.child(RUN).path)

    def write_part(self, first: int, table: DataFrame) -> None:
        """The rows from item `first` on, in one step. The same part written twice is one part."""
        self._write(f"part-{first:012d}.parquet", encoded(table))

    def write_aside(self, table: DataFrame) -> None:
        """Rows of what was set aside when the images were opened."""
        self._write(ASIDE, encoded(table))

    def write_json(self, name: str, record: Mapping[str, Any]) -> None:
        """A record as a JSON file."""
        self._write(name, json.dumps(record, indent=1).encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """What `write_json` wrote. Raises ArtifactError: it is damaged."""
        try:
            return json.loads(self._read(name))
        except ValueError as error:
            raise ArtifactError(f"{self.place}/{name} is damaged ({error}); choose another folder") from None

    def table(self) -> DataFrame:
        """All rows, in order of the items; what was set aside comes last."""
        import pandas as pd

        names = sorted(name for name in self.names() if _PART.fullmatch(name))
        names += [ASIDE] if ASIDE in self.names() else []
        return pd.concat([pd.read_parquet(io.BytesIO(self._read(name))) for name in names], ignore_index=True)

    def _read(self, name: str) -> bytes:
        return (self.place / name).read_bytes() if isinstance(self.place, Path) else self.place.child(name).read()

    def _write(self, name: str, content: bytes) -> None:
        if isinstance(self.place, Path):
            make_folder(self.place)
            with whole(self.place / name) as draft, explained(self.place / name):
                draft.write_bytes(content)
            return
        target = self.place.child(name)
        try:
            target.fs.pipe_file(target.path, content)  # one request: whole or absent
        except Exception as error:  # its message may hold a signed URL
            raise OutputError(
                f"{target} cannot be written ({type(error).__name__}); check the credentials and their rights"
            ) from None


def check_same(before: Mapping[str, Any], run: Mapping[str, Any], what: str, otherwise: str) -> None:
    """Raise SettingsError if a run that is to go on depended on something else than this one."""
    for name, now in run.items():
        if before.get(name) != now:
            was, now = (str(value)[:40] for value in (before.get(name), now))
            raise SettingsError(
                f"--resume: {what} with another {name} ({was}; this one has {now}); resume with the same, {otherwise}"
            )


def encoded(table: DataFrame) -> bytes:
    """A table as parquet; columns are texts, numbers or yes and no also where all are missing: all have one schema."""
    kinds = {name: "string" for name in TEXTS if name in table}
    if "is_anomalous" in table:
        kinds["is_anomalous"] = "boolean"
    kinds |= {name: "float64" for name in table if name not in kinds and table[name].isna().all()}
    table = table.astype(kinds)
    file = io.BytesIO()
    table.to_parquet(file, index=False)
    return file.getvalue()
