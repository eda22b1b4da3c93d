"""Where the files of data sets are: in KNOWNGOOD_DATA, else in a cache, else at their official address."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

from knowngood.data.progress import track
from knowngood.errors import DataError
from knowngood.files import whole

BLOCK = 1 << 20  # bytes
TIMEOUT = 60.0  # seconds without an answer


@dataclass(frozen=True)
class Remote:
    """An official file: its name here, the addresses to try in order, and its checksum ("md5:…" or "sha256:…")."""

    file: str
    urls: tuple[str, ...]
    checksum: str


def cache_folder() -> Path:
    """Folder for downloaded data sets: KNOWNGOOD_CACHE, or the user's cache folder."""
    if folder := os.environ.get("KNOWNGOOD_CACHE"):
        return Path(folder).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "knowngood" / "Cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "knowngood"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "knowngood"


def data_folders(name: str) -> Iterator[Path]:
    """Where the files of data set `name` may be, in the order of the search."""
    if given := os.environ.get("KNOWNGOOD_DATA"):
        yield Path(given).expanduser() / name
    yield cache_folder() / name


def find_file(name: str, *candidates: str) -> Path | None:
    """The first existing file, by relative path, in the folders of data set `name`."""
    for folder in data_folders(name):
        for candidate in candidates:
            if (folder / candidate).is_file():
                return folder / candidate
    return None


def fetch(name: str, remote: Remote) -> Path:
    """Download one official file into the cache, checked against its checksum; a file already there is checked too.

    Raises:
        DataError: no address answered with the right file; says where to put it by hand.
    """
    folder = cache_folder() / name
    if _is_right(folder / remote.file, remote.checksum):
        return folder / remote.file
    problems = []
    for url in remote.urls:
        try:
            return _download(url, folder / remote.file, remote.checksum)
        except (OSError, ValueError, EOFError) as error:  # the next address may work
            problems.append(f"{url}: {error}")
    raise DataError(
        f"{name}: could not download {remote.file} (tried {'; '.join(problems)}). "
        f"Check the network, or put the file into {folder}, or into {name}/ below the folder that KNOWNGOOD_DATA names"
    )


def _download(url: str, path: Path, checksum: str) -> Path:
    """Write what is at an address to a file; it is there once it is whole and has the checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as draft:
        with draft.open("wb") as file:
            for block in _blocks(url, path.name):
                file.write(block)
        if not _is_right(draft, checksum):
            raise ValueError(f"the checksum is not {checksum}")
    return path


def _blocks(url: str, name: str) -> Iterator[bytes]:
    """What is at an address. Raises ValueError, since an OSError would be one of the file that is written."""
    request = Request(url, headers={"User-Agent": "knowngood"})
    try:  # the addresses stand in the code
        with urlopen(request, timeout=TIMEOUT) as answer:  # nosec B310
            size = int(answer.headers.get("Content-Length") or 0)
            yield from track(iter(lambda: answer.read(BLOCK), b""), f"download {name}", -(-size // BLOCK), "MB")
    except (OSError, HTTPException) as error:
        raise ValueError(f"no answer, or it broke off ({getattr(error, 'reason', None) or error})") from error


def _is_right(path: Path, checksum: str) -> bool:
    """Whether a file is there and has this checksum."""
    kind, _, value = checksum.partition(":")
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest() == value


def locate(name: str, remote: Remote, *others: str, download: bool) -> Path:
    """An official file of data set `name`, or one of others that stand for it, from the disk; else downloaded.

    Raises:
        DataError: not there, and the download is not allowed or fails.
    """
    found = find_file(name, remote.file, *others)
    if found is None and not download:
        folders = " and ".join(str(folder) for folder in data_folders(name))
        raise DataError(
            f"{name}: {remote.file} not found in {folders}; download it with `knowngood data get {name}` (in Python: "
            "download=True), or put the file there"
        )
    return found or fetch(name, remote)
