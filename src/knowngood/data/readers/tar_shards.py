"""Tar shards, as WebDataset writes them: images read in place, without unpacking.

Members of one key (the path up to the first dot of the name) are one sample: an image, and beside it `.cls` (its
class), `.json` (an object: label, split, and conditions) or `.txt` (ignored). Without such members the paths say what
they say in a folder. A shard named train-0000.tar or test-0000.tar says the split.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from knowngood.config import counted
from knowngood.data.findings import Finding, printable
from knowngood.data.imageset import ImageSet
from knowngood.data.readers.damage import named_damage, repeats, stops_early
from knowngood.data.readers.files import SUFFIXES, unread_reason
from knowngood.data.readers.folder import arranged, labels_of, without_images
from knowngood.data.readers.layout import SPLITS
from knowngood.data.readers.manifest import described
from knowngood.data.stores.address import Address, stamp_of
from knowngood.data.stores.blobs import Members
from knowngood.data.stores.fetched_pixels import FetchedPixels, blob_mask, looks_like_mask
from knowngood.errors import DataError

SIDE_FILE = 1 << 20  # bytes of a .cls or .json, at most
READ_AHEAD = 1 << 16  # bytes fetched at once to find the members of a remote shard
AT_ONCE = 8  # shards indexed at the same time


class Member(NamedTuple):
    name: str
    start: int
    size: int


class Index(NamedTuple):
    """What is in a shard: images, what lies beside them by their key, what is not read, and the shard's stamp."""

    images: list[Member]
    beside: dict[str, dict[str, Any]]
    others: list[Finding]
    stamp: str


def read_shards(files: Sequence[Path | Address], root: Path | Address) -> ImageSet:
    """The images of tar files; ids are names of members, behind the path of their shard where they occur twice.

    Raises:
        DataError: a shard is damaged or compressed, or no image is in any. StoreError: the store does not answer.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        indexes = list(pool.map(_indexed, files))
    of = np.repeat(np.arange(len(files)), [len(one.images) for one in indexes])
    members = [member for one in indexes for member in one.images]
    names, rejected = [member.name for member in members], [finding for one in indexes for finding in one.others]
    if not names:
        raise without_images(str(root), rejected, "its tar files")
    repeated = len(set(names)) < len(names)
    shards = [_below(file, root) for file in files] if repeated else [""] * len(files)
    ids = [f"{shards[k]}/{name}" if repeated else name for k, name in zip(of.tolist(), names, strict=True)]
    blobs = Members(
        str(root), files, ids, of.tolist(), [one.start for one in members], [one.size for one in members],
        [one.stamp for one in indexes],
    )  # fmt: skip
    pixels = FetchedPixels(blobs)
    splits = [split_of(files[k].name) for k in of.tolist()]
    name = printable(root.name)
    beside = [indexes[k].beside.get(_key(name)) for k, name in zip(of.tolist(), names, strict=True)]
    if any(beside):
        images = _described(str(root), [one or {} for one in beside], pixels, np.array(list(map(printable, ids))))
    else:
        paths = [_told_apart(name, shards[k]) for k, name in zip(of.tolist(), names, strict=True)]
        found = arranged(paths, str(root), rejected, partial(looks_like_mask, pixels))
        images = found.image_set(pixels, list(map(printable, ids)), lambda of: partial(blob_mask, pixels, tuple(of)))
        splits, rejected = [splits[i] for i, _ in found.images], []
    if images.splits is None and all(splits):
        images = images.replace(splits=np.array(splits))
    return images.replace(name=name, rejected=(*rejected, *images.rejected))


def _below(file: Path | Address, root: Path | Address) -> str:
    """The path of a shard below the root; its name if it is the root."""
    place, top = (one.as_posix() if isinstance(one, Path) else str(one) for one in (file, root))
    return place.removeprefix(top).strip("/") or file.name


def _told_apart(name: str, shard: str) -> tuple[str, ...]:
    """The path of a member in parts. Its shard is no folder: it stands before the name of the file."""
    *folders, last = name.split("/")
    return (*folders, f"{shard.replace('/', ' ')} {last}" if shard else last)


def split_of(name: str) -> str | None:
    """The split that the name of a shard says: train-00000-of-00002.parquet is of "train"."""
    return SPLITS.get(re.split(r"[-_.]\d", name, maxsplit=1)[0].partition(".")[0].lower())


def by_class(columns: dict[str, list[Any]], classes: list[str | None]) -> tuple[dict[str, list[Any]], np.ndarray]:
    """Columns of a table with the class as a condition, and the labels that the names of the classes say."""
    return {**columns, "class": classes}, labels_of(classes)


def _described(where: str, records: list[dict[str, Any]], pixels: FetchedPixels, ids: np.ndarray) -> ImageSet:
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = {name: [record.get(name) for record in records] for name in names}
    if "class" in columns and "label" not in columns:
        classes = [None if value is None else str(value) for value in columns.pop("class")]
        columns, labels = by_class(columns, classes)
        return described(where, columns, pixels, ids, labels)
    return described(where, columns, pixels, ids)


def _indexed(file: Path | Address) -> Index:
    images, beside, others = [], {}, []
    damage = named_damage(str(file), "cannot be read as a tar file", "pack it anew without compression")
    with damage, ExitStack() as stack:
        stamp = f"{file.name} {stamp_of(file)}"
        if isinstance(file, Address):
            opened = stack.enter_context(file.fs.open(file.path, "rb", block_size=READ_AHEAD))
        else:
            opened = stack.enter_context(file.open("rb"))
        tar = stack.enter_context(tarfile.open(fileobj=opened, mode="r:"))
        for member in tar:
            path = Path(member.name)
            suffix, name = path.suffix.lower(), member.name.removeprefix("./")
            if member.isdir() or any(part.startswith(".") for part in Path(name).parts):
                continue
            if not member.isfile():
                others.append(Finding(printable(name), "unsupported", "is a link or a device, no file", "error"))
                continue
            if suffix in (".cls", ".json") and member.size <= SIDE_FILE:
                opened.seek(member.offset_data)
                record = _side(suffix, opened.read(member.size), f"{file}: {name}")
                beside.setdefault(_key(name), {}).update(record)
                continue
            reason = unread_reason(path)
            if suffix in SUFFIXES and reason is None:
                images.append(Member(name, member.offset_data, member.size))
            elif reason is not None:
                others.append(Finding(printable(name), "unsupported", reason, "error"))
            elif suffix != ".txt":
                others.append(Finding(printable(name), "ignored", "is not an image by its name", "note"))
        # Where the data of the last member are cut, that is found as it is read.
        if tar.offset <= opened.seek(0, os.SEEK_END) and stops_early(tar):
            reason = f"is cut or damaged after {counted(len(images), 'image')}: what follows is not read"
            others.append(Finding(printable(str(file)), "truncated", reason, "error"))
    last = {one.name: one for one in images}
    others += repeats(Counter(one.name for one in images), file)
    return Index(list(last.values()), beside, others, stamp)


def _side(suffix: str, content: bytes, where: str) -> dict[str, Any]:
    text = content.decode("utf-8", "replace").strip()
    if suffix == ".cls":
        return {"class": text}
    with named_damage(where, "cannot be read as JSON", "expected an object with label, split and conditions"):
        record = json.loads(text)
    if not isinstance(record, dict):
        raise DataError(
            f"{where}: holds a {type(record).__name__}; expected an object with label, split and conditions"
        )
    return {str(name): value for name, value in record.items() if isinstance(value, str | int | float)}


def _key(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]
