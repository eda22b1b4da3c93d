"""Images below a URL: a folder of images, tar shards, parquet files with images in them, or a manifest.

The layouts are those of `readers.folder`. What lies there is known by its name alone: nothing is fetched to open it
but the indexes of shards and parquet files, masks where no name tells what is normal, and a few files where names leave
it open whether they are masks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from knowngood.data.findings import Finding, printable
from knowngood.data.imageset import ImageSet
from knowngood.data.readers.files import SUFFIXES, unread_reason
from knowngood.data.readers.folder import RESULTS, arranged, drawn_by_us, no_image, with_others
from knowngood.data.readers.manifest import read_remote_manifest
from knowngood.data.readers.parquet_images import read_parquet_images
from knowngood.data.readers.tar_shards import read_shards
from knowngood.data.stores.address import Address, version_of
from knowngood.data.stores.blobs import Objects
from knowngood.data.stores.fetched_pixels import FetchedPixels, blob_mask, looks_like_mask

NOT_LISTED = ("Thumbs.db", "desktop.ini")


def read_url(url: str) -> ImageSet:
    """The images below a URL; ids are paths relative to it.

    Raises:
        DataError: nothing is there that can be read, or it may not be listed. StoreError: the store does not answer.
        SettingsError: the URL is none of an object store, or holds credentials.
    """
    address = Address.of(url)
    listed = address.find()
    if "" in listed:  # one object
        if address.name.lower().endswith(".tar"):
            return read_shards([address], address)
        if address.name.lower().endswith(".parquet"):
            return read_parquet_images([address], address)
        if address.name.lower().endswith(".csv"):
            return read_remote_manifest(address)
        address, listed = Address(address.scheme, address.path.rpartition("/")[0]), {address.name: listed[""]}
    kinds = {Path(name).suffix.lower() for name in listed if _counts(name)}
    for suffix, read in ((".tar", read_shards), (".parquet", read_parquet_images)):
        if suffix in kinds and not kinds & SUFFIXES:
            chosen = [name for name in listed if _counts(name) and name.lower().endswith(suffix)]
            others = [name for name in listed if _counts(name) and name not in set(chosen)]
            return with_others(read([address.child(name) for name in chosen], address), others)
    return _folder(address, listed)


def _folder(address: Address, listed: dict[str, dict[str, Any]]) -> ImageSet:
    names, rejected = [], []
    counted = [name for name in listed if _counts(name)]
    inside: dict[str, set[str]] = defaultdict(set)  # names by folder
    for folder, _, name in (name.rpartition("/") for name in counted):
        inside[folder].add(name)
    for name in counted:
        path = Path(name)
        reason = unread_reason(path)
        image = path.suffix.lower() in SUFFIXES and reason is None
        beside, results = inside[name.rpartition("/")[0]], _results(name, inside)
        if image and (why := drawn_by_us(path.name, beside, results)) is not None:
            rejected.append(Finding(printable(name), "set-aside", why, "warning"))
        elif image:
            names.append(name)
        elif reason is not None:
            rejected.append(Finding(printable(name), "unsupported", reason, "error"))
        else:
            rejected.append(Finding(printable(name), "ignored", no_image(path.name, address.child(name)), "note"))
    pixels = FetchedPixels(Objects(address, names, [version_of(listed[name]) for name in names]))
    parts = [tuple(name.split("/")) for name in names]
    found = arranged(parts, str(address), rejected, partial(looks_like_mask, pixels), address.name)
    images = found.image_set(pixels, list(map(printable, names)), lambda of: partial(blob_mask, pixels, tuple(of)))
    return images.replace(name=printable(address.name))


def _results(name: str, inside: Mapping[str, set[str]]) -> str | None:
    """The name of a record of results of knowngood in the folder of an object, or in the nearest one above."""
    folder = name
    while folder:
        folder = folder.rpartition("/")[0]
        if found := next((one for one in RESULTS if one in inside.get(folder, ())), None):
            return found
    return None


def _counts(name: str) -> bool:
    parts = name.split("/")
    return not any(part.startswith(".") or part == "__MACOSX" for part in parts) and parts[-1] not in NOT_LISTED
