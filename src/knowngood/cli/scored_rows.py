"""The decisions of a scoring run, kept on disk batch by batch until its output is whole; an unfinished run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from knowngood.data.conditions import Expanded
from knowngood.deploy.scored_parts import check_same
from knowngood.detector.decide import Decisions
from knowngood.detector.stated_conditions import Stated
from knowngood.errors import ArtifactError, SettingsError
from knowngood.files import explained, make_folder

FORMAT = "knowngood scores"


class ScoredRows:
    """Decisions on the first `done` of N items, one JSON line a batch after a header, each on the disk when added.

    Args:
        path: the file; None for a temporary one, which no other run can go on with.
        run: what the decisions depend on. A file of another run is refused.
        resume: go on with the file, if there is one.

    Raises:
        SettingsError: there is an unfinished run and not `resume`, or it differs from this one. The message says how.
        ArtifactError: the file is damaged.
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path | None, run: Mapping[str, Any], resume: bool = False) -> None:
        self.path, self.done = path, 0
        self._header = {"format": FORMAT, **run}
        if path is None:
            self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        else:
            make_folder(path.parent)
            with explained(path):
                self._file = path.open("a+b")
        try:
            self._end = self._kept(resume)
        except BaseException:
            self._file.close()
            raise
        with explained(path or Path(tempfile.gettempdir())):
            self._file.truncate(self._end)
        if not self._end:
            self._write(self._header)

    def add(self, decisions: Decisions) -> None:
        """Keep the decisions on the next items."""
        best = decisions.best
        columns = {
            "anomaly_score": decisions.anomaly_score,
            "p_value": decisions.p_values,
            **{f"parts/{name}": part for name, part in decisions.parts.items()},
            "stratum": best.stratum,
            "known": best.known,
            "group": decisions.group,
            "compared": decisions.strata,
        }
        if stated := decisions.stated:
            columns |= {f"stated/{name}": values for name, values in stated._asdict().items()}
        self._write(
            {
                "first": self.done,
                "columns": {name: [values.dtype.str, values.tolist()] for name, values in columns.items()},
                "conditions": list(best.label),
                "errors": {str(i): why for i, why in decisions.errors.items()},
            }
        )
        self.done += len(decisions.p_values)

    def batches(self) -> Iterator[Decisions]:
        """What was kept, in order; without the condition vectors and which of the scored rows it was."""
        self._file.seek(0)
        for line in self._file:
            if "columns" in (record := json.loads(line)):
                yield _decisions(record)

    def joined(self) -> Decisions:
        """All decisions, with numbers only: no words for conditions, no parts."""
        return Decisions.concat(
            [
                batch._replace(parts={}, best=Expanded.kept(batch.best.stratum, batch.best.known))
                for batch in self.batches()
            ]
        )

    def close(self, keep: bool) -> None:
        """Close the file, and remove it unless it is kept for another run to go on with."""
        self._file.close()
        if self.path is not None and not keep:
            self.path.unlink(missing_ok=True)

    def _write(self, record: dict[str, Any]) -> None:
        with explained(self.path or Path(tempfile.gettempdir())):
            self._file.seek(0, os.SEEK_END)
            self._file.write(_line(record))
            self._file.flush()
            if self.path is not None:
                os.fsync(self._file.fileno())

    def _kept(self, resume: bool) -> int:
        """Bytes of whole lines of a run that goes on; counts its items. A line that was cut off is dropped."""
        self._file.seek(0)
        end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            record = self._read(line)
            if not end:
                self._check(record, resume)
            elif record.get("first") != self.done:
                raise ArtifactError(f"{self.path} is damaged: a batch is missing; remove it to score anew")
            else:
                self.done += len(record["conditions"])
            end += len(line)
        return end

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
            if line == _line({name: value for name, value in record.items() if name != "sha256"}):
                return record
        except (ValueError, AttributeError):
            pass
        raise ArtifactError(f"{self.path} is damaged; remove it to score anew")

    def _check(self, before: dict[str, Any], resume: bool) -> None:
        anew = f"or remove {self.path} to score anew"
        if not resume:
            raise SettingsError(
                f"{self.path} holds an unfinished run: the same command with --resume goes on with it; choose another "
                f"--output, {anew}"
            )
        check_same(before, self._header, f"{self.path} holds an unfinished run", anew)


def _line(record: dict[str, Any]) -> bytes:
    digest = hashlib.sha256(json.dumps(record).encode()).hexdigest()
    return json.dumps({**record, "sha256": digest}).encode() + b"\n"


def _decisions(record: dict[str, Any]) -> Decisions:
    columns = {name: np.array(values, dtype=dtype) for name, (dtype, values) in record["columns"].items()}
    stated = {name: columns[f"stated/{name}"] for name in Stated._fields if f"stated/{name}" in columns}
    return Decisions(
        anomaly_score=columns["anomaly_score"],
        p_values=columns["p_value"],
        parts={name.removeprefix("parts/"): part for name, part in columns.items() if name.startswith("parts/")},
        best=Expanded.kept(columns["stratum"], columns["known"], record["conditions"]),
        row=np.arange(len(record["conditions"])),
        errors={int(i): why for i, why in record["errors"].items()},
        group=columns["group"],
        stated=Stated(**stated) if stated else None,
        compared=columns.get("compared"),
    )
