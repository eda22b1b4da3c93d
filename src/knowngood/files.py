"""Files that are whole or absent, whenever a process dies; and folders that one process writes to at a time."""

from __future__ import annotations

import codecs
import contextlib
import difflib
import errno
import hashlib
import json
import math
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from knowngood.errors import OutputError, SettingsError

LOCK = ".lock"
LIKE = 0.6  # from 0 to 1, of names that may be meant
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_PART = re.compile(r"\.part-([0-9a-f]{8})-(\d+)-")
_tidied: set[tuple[int, Path]] = set()
_WAYS_OUT = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "the quota is used up: remove files, or choose another folder",
    errno.EFBIG: "files here may not be as large: choose another folder",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EISDIR: "this is a folder: give the name of a file",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another name",
    errno.EEXIST: "a file stands where a folder is needed: choose another name",
}


def encoding_of(start: bytes) -> str:
    """Of a text that people may have edited, by its first bytes: UTF-8, or UTF-16 where it says so, as shells and
    spreadsheets of Windows write it."""
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def decoded(content: bytes) -> str:
    """The text of such a file. Raises UnicodeDecodeError."""
    return content.decode(encoding_of(content))


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path`, with its suffix, to write to; at the end it becomes `path` in one step.

    It is flushed to the disk before that. If what is within fails, it is removed and `path` is as before. Folders are
    made if need be. What a killed process left in the folder is removed when the next one first writes there.

    Raises:
        OutputError: the file cannot be written.
    """
    if is_stream(path):
        yield Path(path)
        return
    path = Path(os.path.realpath(path))
    draft = part_of(path)
    try:
        with explained(path):
            make_folder(path.parent)
            remove_stale(path.parent)
            yield draft
            flush(draft)
            if path.exists():
                shutil.copymode(path, draft)
            os.replace(draft, path)
            flush(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def is_stream(path: str | Path) -> bool:
    """Whether a device or a pipe is there, such as /dev/stdout: it is written to as it is, and has no folder."""
    path = Path(path)
    return path.exists() and not path.is_file() and not path.is_dir()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file as UTF-8, whole; see `whole`. Bytes of names that are no text are written as escapes."""
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_json(path: str | Path, record: object) -> None:
    """Write a record as a JSON file, whole; see `whole`."""
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def plain(value: Any) -> Any:
    """A value, of NumPy and pandas too, as JSON knows it; what is missing, or no finite number, is None."""
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    value = value.item() if hasattr(value, "item") else value
    missing = type(value).__name__ == "NAType" or (isinstance(value, float) and not math.isfinite(value))
    return None if missing else value


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Within, an error of the operating system becomes an OutputError that names the path and a way out."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        about = Path(error.filename) if isinstance(error.filename, str) else path
        ours = _PART.match(about.name) or (about.name.startswith(".") and about.name.endswith(LOCK))
        named = path if ours else about
        way_out = _WAYS_OUT.get(error.errno or 0, "choose another folder, or try again")
        raise OutputError(f"{named} cannot be written: {error.strerror or error}; {way_out}") from error


def near(path: str | Path, fits: Callable[[Path], bool] = lambda one: True) -> Path | None:
    """What is there under a name like that of a path that is not, for a message; None: nothing.

    The folders of the path may be misspelt too. What does not fit, and hidden files, are not named.
    """
    path = Path(path)
    folder: Path | None = path.parent
    try:
        if not path.name or path.exists():
            return None
        if not path.parent.is_dir():
            folder = near(path.parent, Path.is_dir)
            if folder is None:
                return None
        names = [one.name for one in folder.iterdir() if not one.name.startswith(".") and fits(one)]
    except OSError:
        return None
    best = max(sorted(names), key=lambda name: _likeness(name, path.name), default=None)
    return folder / best if best is not None and _likeness(best, path.name) >= LIKE else None


def did_you_mean(path: str | Path, fits: Callable[[Path], bool] = lambda one: True) -> str:
    """As "; did you mean 'runs/parts'?", after `near`; nothing where nothing is like it."""
    found = near(path, fits)
    return "" if found is None else f"; did you mean '{found}'?"


def _likeness(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, if need be. Raises OutputError: that is not possible."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)


def check_file(path: Path) -> None:
    """Raise OutputError for the path of a file where a folder is, which `whole` would find out at its end."""
    with explained(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def check_folder(path: Path) -> None:
    """Raise OutputError for the path of a folder where something else is, or that may not be written to or made."""
    with explained(path):
        there = next((one for one in (path, *path.parents) if one.exists()), None)
        if there is not None and not there.is_dir():
            code = errno.EEXIST if there == path else errno.ENOTDIR
            raise OSError(code, os.strerror(code), str(there))
        if there is not None and not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


def part_of(path: Path) -> Path:
    """Where this process writes what becomes `path`: in the same folder, with the same suffix."""
    key = hashlib.sha256(path.name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return path.with_name(f".part-{_HOST}-{os.getpid()}-{key}{path.suffix}")


def remove_stale(folder: Path) -> None:
    """Remove temporary files and folders of processes that no longer run; looked for once a process and folder."""
    key = os.getpid(), folder
    if key in _tidied:
        return
    _tidied.add(key)
    for one in folder.iterdir():
        found = _PART.match(one.name)
        if not found or found[1] != _HOST or (int(found[2]) != os.getpid() and _started(int(found[2])) is not None):
            continue
        if one.is_dir():
            shutil.rmtree(one, ignore_errors=True)
        else:
            one.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot
            raise
    finally:
        os.close(handle)


@contextmanager
def locked(path: str | Path, what: str | Path) -> Iterator[None]:
    """Within, the lock file `path` is this process's: it holds pid, host and start of the process.

    A lock whose process has ended is taken over. A folder that is made for it and stays empty is removed.

    Args:
        what: what is locked, as messages call it: they do not name the lock, which nobody asked for.

    Raises:
        SettingsError: another process holds it.
        OutputError: the lock cannot be written.
    """
    path = Path(path)
    own = {"pid": os.getpid(), "host": platform.node(), "started": _started(os.getpid()), "since": _now()}
    draft = part_of(path)
    with explained(Path(what)):
        made = not path.parent.exists()
        make_folder(path.parent)
        draft.write_text(json.dumps(own), encoding="utf-8")
        try:
            _take(draft, path, what)
        finally:
            draft.unlink(missing_ok=True)
    try:
        yield
    finally:
        if _holder(path) == own:
            path.unlink(missing_ok=True)
        if made:
            with contextlib.suppress(OSError):
                path.parent.rmdir()


def _take(draft: Path, path: Path, what: str | Path) -> None:
    """Link the written draft to the lock's name, which fails if there is one: a lock is never seen half-written."""
    for _ in range(2):
        try:
            try:
                os.link(draft, path)
            except PermissionError:  # a file system without links
                with path.open("x", encoding="utf-8") as file:
                    file.write(draft.read_text(encoding="utf-8"))
            return
        except FileExistsError:
            holder = _holder(path)
            if _holds(holder) or _holds(holder := _removed(path, holder, draft)):
                raise SettingsError(
                    f"{what} is in use by process {holder['pid']} on {holder['host']}, since {holder['since']}. Wait "
                    f"until it ends, or choose another place; if it has ended, remove {path}"
                ) from None
    raise SettingsError(f"{what} is in use by another process; wait until it ends, or choose another place")


def _removed(path: Path, ended: dict[str, Any], draft: Path) -> dict[str, Any]:
    """Remove the lock of a process that has ended; the holder of what was removed.

    Of two processes that find it both, one may have its own lock there already: that is put back.
    """
    aside = draft.with_name(f"{draft.name}.old")
    try:
        os.replace(path, aside)
    except FileNotFoundError:
        return {}
    found = _holder(aside)
    if found != ended and not path.exists():
        os.replace(aside, path)
    aside.unlink(missing_ok=True)
    return found


def _holder(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if {"pid", "host", "started", "since"} <= found.keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}


def _holds(holder: dict[str, Any]) -> bool:
    """Whether the process that wrote a lock still runs; of another host that cannot be known."""
    if not holder or not isinstance(holder["pid"], int):
        return False
    return holder["host"] != platform.node() or _started(holder["pid"]) in (holder["started"], "unknown")


def _started(pid: int) -> str | None:
    """When a process of this host started, as its system counts; None if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    if os.name != "posix":
        return "unknown"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "unknown"


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
