"""The versions of a saved model: folders side by side that never change, and a file that names the one in use.

`MODEL/versions/0001` and so on are whole models, and `MODEL/current.json` names one of them. A version gets its name
when it is whole, and `current.json` is replaced in one step: whenever a process dies, there is a model.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from knowngood.errors import ArtifactError
from knowngood.files import did_you_mean, explained, flush, make_folder, part_of, remove_stale, write_json

CONFIG, CURRENT, VERSIONS, OF_RUN = "config.json", "current.json", "versions", "model"
MARK = "scored_by"  # of tables, the fingerprint: column of JSON, metadata of parquet; CSV needs a column of every row
WRITERS = "`knowngood train` or `Detector.save`"
NAMED = 10  # models in a message
_NAME = re.compile(r"\d{4,9}")


class Version(NamedTuple):
    """A version: its folder, when and how it was made (fit, calibrate or update), and whether it is in use."""

    folder: Path
    at: str
    what: str
    in_use: bool

    @property
    def number(self) -> int:
        """1 for the first one."""
        return int(self.folder.name)


def model_at(path: str | Path) -> Path:
    """The model folder at `path`, which may also be the folder of the run that wrote it.

    Raises:
        ArtifactError: there is no saved model.
    """
    path = Path(path)
    if not path.exists():
        raise ArtifactError(f"{path}: no such folder{_beside(path)}; give the folder that {WRITERS} wrote")
    if not path.is_dir():
        exported = path.suffix.lower() == ".onnx"
        what = "an exported file, which `score`, `serve` and `watch` take" if exported else "a file"
        raise ArtifactError(f"{path} is {what}; here give the folder that {WRITERS} wrote")
    for folder in (path, path / OF_RUN):
        if (folder / CONFIG).is_file() or _numbered(folder):
            return folder
    if (path / "run").is_dir() and not (path / OF_RUN).exists():
        raise ArtifactError(
            f"{path} holds an unfinished run and no model yet: `knowngood train … --out {path} --resume`, with the "
            "other options as before, goes on with it"
        )
    unfinished = (path / OF_RUN / VERSIONS).is_dir() or (path / VERSIONS).is_dir()
    why = "saving it did not finish; save it again" if unfinished else f"it has no {CONFIG} and no {VERSIONS}"
    if known := models_in(path):
        raise ArtifactError(f"{path} is no saved model, but holds some: give one of them: {_named(known)}")
    raise ArtifactError(f"{path} is no saved model: {why}")


def _beside(path: Path) -> str:
    """The models beside a folder that is not there, for a message; nothing of none."""
    known = models_in(path.parent)
    hint = did_you_mean(path, holds_model) or did_you_mean(path, lambda one: bool(models_in(one)))
    return hint + (f" (known: {_named(known)})" if known else "")


def _named(models: Sequence[Path]) -> str:
    more = f" and {len(models) - NAMED} more" if len(models) > NAMED else ""
    return ", ".join(map(str, models[:NAMED])) + more


def models_in(folder: Path) -> list[Path]:
    """The models, and runs with one, in a folder; of one that is not there none."""
    try:
        return sorted(one for one in folder.iterdir() if holds_model(one))
    except OSError:
        return []


def holds_model(folder: Path) -> bool:
    """Whether a folder is a model, or a run with one."""
    return (folder / OF_RUN).is_dir() or (folder / CONFIG).is_file() or bool(_numbered(folder))


def in_use(path: str | Path) -> Path:
    """The folder of the version in use. A version that was copied is a model by itself.

    Raises:
        ArtifactError: there is no saved model, or `current.json` names no version.
    """
    model = model_at(path)
    known = _numbered(model)
    if not known:
        return model
    newest = max(known)
    way_out = f"`knowngood rollback {model} --to {newest}` switches to the newest version"
    try:
        named = json.loads((model / CURRENT).read_text(encoding="utf-8"))["version"]
    except FileNotFoundError:  # the process died before it was written for the first time, or it was not copied
        warnings.warn(f"{model} has no {CURRENT}: the newest version, {newest}, is used; {way_out}", stacklevel=2)
        return known[newest]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ArtifactError(f"{model / CURRENT} is damaged; {way_out}") from None
    if type(named) is not int or named not in known:
        raise ArtifactError(f"{model / CURRENT} names version {named!r:.40}, and there is none; {way_out}")
    return known[named]


def versions(path: str | Path) -> list[Version]:
    """The versions of a model, oldest first; none of a copied version."""
    known = _numbered(model_at(path))
    used = in_use(path) if known else None
    return [Version(folder, *_made(folder), folder == used) for _, folder in sorted(known.items())]


def fingerprint(version: Path) -> str:
    """16 hexadecimal digits of a version: of its configuration, which holds the SHA-256 of its other files.

    Empty if it cannot be read.
    """
    try:
        return hashlib.sha256((version / CONFIG).read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def save_version(folder: str | Path, files: Mapping[str, bytes]) -> Path:
    """Save files as the next version in a model folder and switch to it; returns the model folder.

    What killed saves left is removed.

    Raises:
        ArtifactError: the folder exists and holds something else, or is a version itself.
        OutputError: it cannot be written.
    """
    folder = Path(folder)
    if (folder / CONFIG).is_file():
        raise ArtifactError(f"{folder} is a version, which never changes; save to another folder")
    ours = (folder / VERSIONS).is_dir()
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not ours)):
        raise ArtifactError(f"{folder} exists and is no saved model; give another place, or remove it first")
    place = folder / VERSIONS
    make_folder(place)
    with explained(place):
        remove_stale(place)
        number = _add(place, files)
        write_json(folder / CURRENT, {"version": number})
    return folder


def rollback(path: str | Path, to: int | None = None) -> Version:
    """Switch to another version: number `to`, or the one before the one in use. No version changes.

    Raises:
        ArtifactError: there is no such version; the message names those there are.
    """
    model = model_at(path)
    known = sorted(_numbered(model))
    if to is None:
        used = int(in_use(model).name) if known else 0
        to = max((number for number in known if number < used), default=0)
    if to not in known:
        there = f"it has {', '.join(map(str, known))}" if known else "it is a copied version, without others"
        if len(known) > 1:
            there += f"; `knowngood rollback {shlex.quote(str(path))} --to {known[-1]}` switches to the newest one"
        raise ArtifactError(f"{model} has no {f'version {to}' if to else 'version before the one in use'}; {there}")
    write_json(model / CURRENT, {"version": to})
    return next(version for version in versions(model) if version.number == to)


def _add(place: Path, files: Mapping[str, bytes]) -> int:
    """Write the files as the next version in `place`, whole or not at all; its number."""
    draft = part_of(place / "new")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir()
        for name, data in files.items():
            (draft / name).write_bytes(data)
            flush(draft / name)
        flush(draft)
        number = max(_numbered(place.parent), default=0) + 1
        os.rename(draft, place / f"{number:04}")
        flush(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return number


def _numbered(model: Path) -> dict[int, Path]:
    """The versions in a model folder by number."""
    place = model / VERSIONS
    folders = place.iterdir() if place.is_dir() else ()
    return {int(one.name): one for one in folders if _NAME.fullmatch(one.name)}


def _made(folder: Path) -> tuple[str, str]:
    """When and how a version was made, as its configuration says."""
    try:
        last: Any = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["about"]["history"][-1]
        return str(last["at"]), str(last["what"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return "?", "damaged"
