"""A watched folder: every new picture is judged once, as soon as it is whole."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from knowngood.data import ImageSet
from knowngood.data.pixel_source import FilePixels
from knowngood.data.readers.files import is_image, unread_reason
from knowngood.data.readers.folder import identifier, why_aside
from knowngood.deploy.delivery import Delivery
from knowngood.deploy.judged_store import JudgedStore
from knowngood.deploy.judgement import Asked, Row
from knowngood.deploy.logs import event
from knowngood.deploy.outbox import Seen
from knowngood.deploy.served_model import ServedModel, for_sinks, judged
from knowngood.deploy.served_models import ServedModels, exchange_changed
from knowngood.deploy.views import ShownPixels, keep

AT_ONCE = 64  # pictures judged together
PATIENCE = 5.0  # seconds that a file which cannot be decoded may still become whole
EVERY = 25  # scans between looks at what changes rarely: files that were judged, versions of the model
SELDOM = 12  # such looks between trials of a version of the model that could not be taken into use
LEFT_OUT = ("Thumbs.db", "desktop.ini", "__MACOSX")


class State(NamedTuple):
    """Of a file: bytes, and the time of the last change in ns."""

    size: int
    changed: int


@dataclass
class Waiting:
    """A file that is not judged yet: where it is, its state, since when it has that, when to try, when it came."""

    path: Path
    state: State
    since: float
    due: float
    came: float


class Judged(NamedTuple):
    """A picture that was judged: its row, and the seconds since its file came or was last written."""

    row: Row
    seconds: float


class Watch:
    """Judges the new pictures below a folder by the one model of `models`, and hands their rows to `delivery`.

    A file is judged when two scans have found the same size and time of change, and it can be decoded. One that cannot
    is tried for `PATIENCE` seconds, and then set aside: its row has the reason. A file with other content than before
    is new.

    Args:
        conditions: the same for all pictures, by column.
        store: keeps what was judged.
        clock: seconds, which only go forward.
    """

    def __init__(
        self,
        folder: Path,
        models: ServedModels,
        delivery: Delivery,
        *,
        asked: Asked = Asked(),  # noqa: B008
        conditions: dict[str, str] | None = None,
        store: JudgedStore | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.models, self.delivery = folder, models, delivery
        self.asked, self.conditions, self._clock = asked, conditions or {}, clock
        self.store = store
        self._settled: dict[str, State] = {}  # by path, so that most files cost next to nothing
        self._unlisted: dict[str, str] = {}  # why, by folder: it is said once
        self._waiting: dict[str, Waiting] = {}
        self._scans, self._last, self._logged = 0, time.time(), dict[str, str]()

    @property
    def waits(self) -> bool:
        """Whether files are there that are not judged yet."""
        return bool(self._waiting)

    def step(self) -> Iterator[Judged]:
        """Scan once, and judge what is whole.

        Raises:
            DataError: the model cannot judge such pictures, since a condition is missing, say.
        """
        now, last, self._last = self._clock(), self._last, time.time()
        rarely, self._scans = self._scans % EVERY == 0, self._scans + 1
        if rarely and (not self._logged or self._scans % (EVERY * SELDOM) == 1):  # what was refused takes time to load
            exchange_changed(self.models, self._logged, lambda model: check_asked(model, self.conditions, self.asked))
        found = {name: (path, state) for name, path, state in self._scan(rarely)}
        for name in self._waiting.keys() - found.keys():
            del self._waiting[name]
        for name, (path, state) in found.items():
            known = self._waiting.get(name)
            if known is None or known.state != state:
                self._waiting[name] = Waiting(path, state, now, now, last if known is None else known.came)
        due = [name for name, one in self._waiting.items() if one.since < now and one.due <= now]
        due.sort(key=lambda name: self._waiting[name].state.changed)
        for at in range(0, len(due), AT_ONCE):
            yield from self._judge(due[at : at + AT_ONCE], now)

    def _scan(self, rarely: bool) -> Iterator[tuple[str, Path, State]]:
        """Files that are new, and those that wait; now and then also those that were judged and changed since."""
        folders, visited, present = [self.folder], set[str](), set[str]()
        again = {str(one.path) for one in self._waiting.values()}
        while folders:
            folder = folders.pop()
            real = os.path.realpath(folder)
            if real in visited:
                continue
            visited.add(real)
            try:
                entries = list(os.scandir(folder))
            except OSError as error:
                reason = str(error.strerror)
                if self._unlisted.get(real) != reason:
                    event("folder cannot be listed", logging.WARNING, folder=str(folder), reason=reason)
                self._unlisted[real] = reason
                continue
            self._unlisted.pop(real, None)
            for entry in entries:
                if entry.name.startswith(".") or entry.name in LEFT_OUT:
                    continue
                settled = self._settled.get(entry.path)
                if settled is not None:
                    present.add(entry.path)
                if settled is not None and not rarely and entry.path not in again:
                    continue
                state = _state(entry)
                if state is None and _is_folder(entry):
                    folders.append(Path(entry.path))
                if state is None or state == settled:
                    continue
                path = Path(entry.path)
                name = identifier(path, self.folder)
                seen = self.delivery.outbox.seen(name)
                if seen is not None and state == seen[:2]:
                    self._settled[entry.path] = state
                    present.add(entry.path)
                else:
                    yield name, path, state
        if rarely:  # what was taken away needs no memory; the outbox knows it
            self._settled = {path: state for path, state in self._settled.items() if path in present}

    def _judge(self, names: list[str], now: float) -> list[Judged]:
        """Judge files that have stopped changing; those that cannot be decoded yet go on waiting."""
        own = {name: self._waiting[name] for name in names}
        digests = {name: digest for name in names if (digest := _digest(own[name].path)) is not None}
        known = {name: self.delivery.outbox.seen(name) for name in digests}
        new = [name for name, seen in known.items() if seen is None or seen.digest != digests[name]]
        why = {name: unread_reason(own[name].path) for name in new}
        found = [name for name in new if why[name] is not None or is_image(own[name].path)]
        aside = {name: reason for name in found if (reason := why_aside(own[name].path, self.folder)) is not None}
        pictures = [name for name in found if name not in aside]
        images = self._images({name: own[name].path for name in pictures})
        rows = self._rows(images)
        done, answers = {}, []
        for name, digest in digests.items():
            waiting, row = own[name], rows.get(name)
            if _state(waiting.path) != waiting.state:  # it changed meanwhile
                continue
            if row is not None and row["error"] is not None and why[name] is None and now - waiting.since < PATIENCE:
                waiting.due = min(2 * now - waiting.since, waiting.since + PATIENCE)  # twice as long each time
                continue
            done[name] = Seen(*waiting.state, digest)
            if row is not None:
                key = f"{os.path.realpath(waiting.path)}\n{waiting.state.changed}\n{digest}"
                error = why[name] or row["error"]
                answers.append({**row, "error": error, "key": hashlib.sha256(key.encode(errors="replace")).hexdigest()})
            elif known[name] is None:  # said once, also of what changes again and again, such as the rows themselves
                event("ignored", id=name, reason=aside.get(name, "is not an image by its name"))
        if self.store is not None and answers:  # twice after a crash here, but kept once, by the key
            shown = images[np.array([pictures.index(row["id"]) for row in answers])]
            keep(self.store, self.models.named(None), shown, answers, "watch", [row["key"] for row in answers])
        self.delivery.add(answers, done)
        for name in done:
            del self._waiting[name]
        answered = time.time()
        start = {name: max(one.came, one.state.changed / 1e9) for name, one in own.items()}
        return [Judged(row, max(0.0, answered - start[row["id"]])) for row in answers]

    def _rows(self, images: ImageSet) -> dict[str, Row]:
        """The rows of pictures, as `knowngood score` writes them, with the time and the mark of the model."""
        if not len(images):
            return {}
        model = self.models.named(None)
        rows = judged(model, images, replace(self.asked, keep=self.store is not None))
        kept = {row["id"]: {"kept": row["kept"]} for row in rows if "kept" in row}
        return {row["id"]: {**row, **kept.get(row["id"], {})} for row in for_sinks(rows, model)}

    def _images(self, paths: dict[str, Path]) -> ImageSet:
        n = len(paths)
        columns = {column: np.full(n, value) for column, value in self.conditions.items()}
        limits = self.models.named(None).limits
        pixels = (FilePixels if self.store is None else ShownPixels)(tuple(paths.values()), limits)
        return ImageSet(pixels, np.array(list(paths)), np.full(n, np.nan), columns, name=self.folder.name)


def check_asked(model: ServedModel, conditions: Mapping[str, str], asked: Asked) -> None:
    """Refuse what no picture could be judged with, before one comes.

    Raises:
        DataError: a condition is missing, unknown or has no such value; too few items calibrate for the rate.
    """
    for column in conditions:
        model.check_column(column)
    columns = {column: np.full(1, value) for column, value in conditions.items()}
    nothing = FilePixels((Path(os.devnull),))  # its row says that it cannot be read
    judged(model, ImageSet(nothing, np.array(["0"]), np.full(1, np.nan), columns), asked)


def _state(file: Path | os.DirEntry[str]) -> State | None:
    """None of what is no file, or gone."""
    try:
        found = file.stat()
    except OSError:
        return None
    return State(found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one that can be looked into: no link in a circle, nor to what may not be seen."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _digest(path: Path) -> str | None:
    """Of the content of a file; None if it cannot be opened."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
