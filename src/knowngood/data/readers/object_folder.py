"""Images below a URL: a folder of images, tar shards, parquet files with images in them, or a manifest.

The layouts are those of `readers.folder`. What lies there is known by its name alone: nothing is fetched to open it
but the indexes of shards and parquet files, and masks where no name tells what is normal.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from knowngood.data.findings import Finding, printable
from knowngood.data.imageset import ImageSet
from knowngood.data.readers.files import SUFFIXES, unread_reason
from knowngood.data.readers.folder import arranged, by_mask
from knowngood.data.readers.limits import Limits
from knowngood.data.readers.manifest import read_remote_manifest
from knowngood.data.readers.parquet_images import read_parquet_images
from knowngood.data.readers.tar_shards import read_shards
from knowngood.data.stores.address import Address
from knowngood.data.stores.blobs import Objects
from knowngood.data.stores.fetched_pixels import FetchedPixels, blob_mask

NOT_LISTED = ("Thumbs.db", "desktop.ini")


def read_url(url: str, limits: Limits | None = None) -> ImageSet:
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
            return read([address.child(name) for name in listed if name.lower().endswith(suffix)], address)
    return _folder(address, listed, limits)


def _folder(address: Address, listed: dict[str, dict[str, Any]], limits: Limits | None) -> ImageSet:
    names, rejected = [], []
    for name in listed:
        path = Path(name)
        reason = unread_reason(path)
        if not _counts(name):
            continue
        if path.suffix.lower() in SUFFIXES and reason is None:
            names.append(name)
        elif reason is not None:
            rejected.append(Finding(printable(name), "unsupported", reason, "error"))
        else:
            rejected.append(Finding(printable(name), "ignored", "is not an image by its name", "note"))
    found = arranged([tuple(name.split("/")) for name in names], str(address), rejected)
    pixels = FetchedPixels(Objects(address, names, [_stamp(listed[name]) for name in names]), limits=limits)
    masks = tuple(partial(blob_mask, pixels, tuple(of)) if of else None for of in found.masks)
    labels = found.labels
    if not np.isfinite(labels).any() and any(found.masks):
        labels = by_mask(masks)
    images = np.array([i for i, _ in found.images])
    return ImageSet(
        pixels=pixels.take(images),
        ids=np.array([printable(names[i]) for i in images]),
        labels=labels,
        conditions=found.conditions,
        splits=found.splits,
        masks=masks if found.marked else None,
        name=printable(address.name),
        rejected=tuple(found.rejected),
    )


def _counts(name: str) -> bool:
    parts = name.split("/")
    return not any(part.startswith(".") or part == "__MACOSX" for part in parts) and parts[-1] not in NOT_LISTED


def _stamp(info: dict[str, Any]) -> str:
    version = next(
        (info[key] for key in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created") if info.get(key)), ""
    )
    return f"{info.get('size')} {version}"
