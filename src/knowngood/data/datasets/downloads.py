"""Where the files of data sets are: in KNOWNGOOD_DATA, else in a cache, else at their official address."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from knowngood.errors import DataError


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
    import pooch

    return Path(pooch.os_cache("knowngood"))


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
    import pooch

    folder = cache_folder() / name
    problems = []
    for url in remote.urls:
        try:
            return Path(pooch.retrieve(url, known_hash=remote.checksum, fname=remote.file, path=folder))
        except Exception as error:  # network libraries raise many types; the next address may work
            problems.append(f"{url}: {type(error).__name__}: {error}")
    raise DataError(
        f"{name}: could not download {remote.file} (tried {'; '.join(problems)}). "
        f"Put the file into {folder}, or into {name}/ below the folder that KNOWNGOOD_DATA names"
    )


def locate(name: str, remote: Remote, *others: str, download: bool) -> Path:
    """An official file of data set `name`, or one of others that stand for it, from the disk; else downloaded.

    Raises:
        DataError: not there, and the download is not allowed or fails.
    """
    found = find_file(name, remote.file, *others)
    if found is None and not download:
        folders = " and ".join(str(folder) for folder in data_folders(name))
        raise DataError(f"{name}: {remote.file} not found in {folders}; allow the download, or put the files there")
    return found or fetch(name, remote)
