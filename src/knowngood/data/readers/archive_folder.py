"""Archives of images: .zip and .tar files, unpacked into a temporary folder and read as that folder."""

from __future__ import annotations

import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from knowngood.config import counted
from knowngood.data.imageset import ImageSet
from knowngood.data.pixel_source import FilePixels
from knowngood.data.readers.damage import named_damage, repeats, stops_early
from knowngood.data.readers.folder import read_folder
from knowngood.data.readers.limits import Limits
from knowngood.errors import DataError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
MANIFEST_INSIDE = "was not read: unpack the archive and give the manifest, to use its columns, such as conditions"


class _Member(NamedTuple):
    name: str
    size: int
    link: bool
    open: Callable[[], IO[bytes]]


def is_archive(path: Path) -> bool:
    """True if the name says that it is an archive this library unpacks."""
    return path.name.lower().endswith(SUFFIXES)


def read_archive(path: Path, limits: Limits | None = None) -> ImageSet:
    """The images of an archive; ids are paths within it. The unpacked files go once no set of images uses them.

    Raises:
        DataError: damaged; larger, once unpacked, than `limits` allow; a name that leads out of the archive.
    """
    limits = limits or Limits()
    folder = tempfile.TemporaryDirectory(prefix="knowngood-")
    root = Path(folder.name, path.name[: -len(next(s for s in SUFFIXES if path.name.lower().endswith(s)))] or "archive")
    root.mkdir()
    total, times = 0, Counter[str]()
    unpacked = named_damage(path, "cannot be unpacked", "pack or download it again, or give the folder")
    with unpacked, ExitStack() as stack:
        for member in _members(path, limits, stack):
            parts = PurePosixPath(member.name.replace("\\", "/")).parts
            if member.link or ".." in parts or parts[:1] == ("/",) or ":" in "".join(parts[:1]):
                what = "is a link" if member.link else "leads out of it"
                raise DataError(f"{path}: '{member.name}' in it {what}; expected plain files. Unpack it yourself")
            total += member.size
            limits.check_unpacked(path, total)
            target = root.joinpath(*parts)
            times["/".join(parts)] += 1
            target.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
    try:
        images = read_folder(root, limits)
    except DataError as error:
        raise DataError(str(error).replace(str(root), str(path))) from None
    files: FilePixels = images.pixels  # type: ignore[assignment]
    notes = [
        replace(one, reason=MANIFEST_INSIDE) if str(root) in one.reason else one  # no place that there is later
        for one in (*images.rejected, *repeats(times, path))
    ]
    return images.replace(pixels=FilePixels(files.paths, owner=folder), rejected=tuple(notes))


def _members(path: Path, limits: Limits, stack: ExitStack) -> Iterator[_Member]:
    """The files of an archive. What a .zip declares is checked at once; it never gives more than it declares."""
    if path.suffix.lower() == ".zip":
        archive = stack.enter_context(zipfile.ZipFile(path))
        infos = [info for info in archive.infolist() if not info.is_dir()]
        limits.check_unpacked(path, sum(info.file_size for info in infos))
        for info in infos:
            link = stat.S_ISLNK(info.external_attr >> 16)
            yield _Member(info.filename, info.file_size, link, lambda info=info: archive.open(info))
        return
    tar = stack.enter_context(tarfile.open(path, "r:*"))  # noqa: SIM115
    for member in tar:
        if not member.isdir():
            yield _Member(member.name, member.size, not member.isfile(), lambda m=member: tar.extractfile(m))  # type: ignore[arg-type,return-value]
    if stops_early(tar):
        first = counted(len(tar.getmembers()), "member")
        raise DataError(f"{path}: is cut or damaged after its first {first}; pack or download it again")
