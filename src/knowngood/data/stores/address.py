"""Where an object store is: a URL such as s3://bucket/parts, and the file system of fsspec behind it.

Credentials come from where the store's own tools take them (environment, profile, role of the machine), never from a
URL: a URL is written into logs and records.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from knowngood.errors import DataError, SettingsError, StoreError

# Scheme → what fsspec needs for it.
SCHEMES = {
    "s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs",
    "memory": "", "file": "",
}  # fmt: skip

# One request an object: with more, s3fs asks for the size of each first.
OPTIONS: dict[str, dict[str, Any]] = {"s3": {"max_concurrency": 1, "config_kwargs": {"max_pool_connections": 64}}}


def is_url(source: object) -> TypeGuard[str]:
    """Whether a text names something in an object store: it begins with a scheme and ://."""
    return isinstance(source, str) and "://" in source and source.partition("://")[0].isalnum()


@dataclass(frozen=True)
class Address:
    """A folder or an object: scheme, and the path as fsspec takes it, bucket first, without a slash at its end."""

    scheme: str
    path: str

    @classmethod
    def of(cls, url: str) -> Address:
        """The address a URL names.

        Raises:
            SettingsError: an unknown scheme, no path, or a URL with credentials, a query or a fragment.
        """
        scheme, _, rest = url.partition("://")
        shown = f"{scheme}://…"
        try:
            parts = urlsplit(f"//{rest}")
        except ValueError:  # of brackets
            raise SettingsError(f"{shown}: is no URL; expected such as s3://bucket/folder") from None
        if scheme not in SCHEMES:
            raise SettingsError(f"{shown}: unknown scheme '{scheme}'; known: {', '.join(SCHEMES)}")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise SettingsError(
                f"{shown}: a URL may hold no credentials and no query; give credentials to the tools of the store: "
                "environment variables, a profile, or the role of the machine"
            )
        path = rest.rstrip("/")
        if not path.strip("/"):
            raise SettingsError(f"{shown}: names no bucket; expected {scheme}://bucket/folder")
        return cls(scheme, path)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def child(self, name: str) -> Address:
        """What has this name below the folder."""
        return Address(self.scheme, f"{self.path}/{name}")

    @property
    def fs(self) -> Any:
        """The file system, one for each process: its threads do not survive a fork.

        Raises:
            DataError: fsspec, or what it needs for this scheme, is not installed.
        """
        return _fs(self.scheme, os.getpid())

    def find(self) -> dict[str, dict[str, Any]]:
        """Every object below: its path relative to this one → what the listing says of it, sorted by path.

        An object itself is found under an empty path.

        Raises:
            DataError: nothing is there, or it may not be listed. StoreError: the store does not answer.
        """
        try:
            found = self.fs.find(self.path, detail=True)
        except FileNotFoundError:
            found = {}
        except Exception as error:
            raise refused(str(self), "listed", error) from None
        root = self.path.strip("/")
        files = {name.strip("/"): one for name, one in found.items() if one.get("type") == "file" and name[-1] != "/"}
        listed = {name.removeprefix(root).strip("/"): one for name, one in files.items()}
        if not listed:
            raise DataError(f"{self}: nothing is there; expected a folder of images, tar shards, or a parquet file")
        return dict(sorted(listed.items(), key=lambda item: item[0].split("/")))

    def read(self) -> bytes:
        """The whole object. Raises DataError: it is not there or may not be read. StoreError: no answer."""
        try:
            return self.fs.cat_file(self.path)
        except Exception as error:
            raise refused(str(self), "read", error) from None


def version_of(info: dict[str, Any]) -> str:
    """A text that changes when an object does, of what the listing of its store says of it."""
    keys = ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created")
    return f"{info.get('size')} {next((info[key] for key in keys if info.get(key)), '')}"


def stamp_of(file: Path | Address) -> str:
    """The same of a file or an object."""
    if isinstance(file, Address):
        return version_of(file.fs.info(file.path))
    found = file.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def refused(name: str, how: str, error: Exception) -> DataError | StoreError:
    """What to raise for an error of a store. Its message may hold a signed URL, so only its kind is told."""
    if isinstance(error, DataError):
        return error
    if isinstance(error, FileNotFoundError):
        return DataError(f"{name}: does not exist")
    kind = type(error).__name__
    if isinstance(error, PermissionError) or "Credentials" in kind:
        return DataError(f"{name}: may not be {how} ({kind}); check the credentials and the rights of their owner")
    return StoreError(f"{name}: could not be {how} ({kind}): the store does not answer; try again later")


@lru_cache(maxsize=16)
def _fs(scheme: str, process: int) -> Any:
    needs = SCHEMES[scheme]
    try:
        import fsspec

        return fsspec.filesystem(scheme, use_listings_cache=False, **OPTIONS.get(scheme, {}))
    except ImportError:
        missing = f"; for {scheme}:// also {needs}" if needs not in ("", "s3fs") else ""
        raise DataError(f"{scheme}://: needs fsspec: pip install 'knowngood[stream]'{missing}") from None
