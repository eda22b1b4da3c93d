"""Files of a data set, out of the archive it is published as, or of a folder where that was unpacked."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from knowngood.data.readers.damage import named_damage
from knowngood.errors import DataError


def read_members(source: Path, names: Sequence[str], expected: str) -> dict[str, bytes]:
    """The named files of a folder, of a zip or of a tar archive; in archives, whatever folder they are in.

    Raises:
        DataError: the archive is damaged, or a file is missing; says what source was `expected`.
    """
    found: dict[str, bytes] = {}
    with named_damage(source, "damaged archive", "download it again"):
        if source.is_dir():
            found = {name: (source / name).read_bytes() for name in names if (source / name).is_file()}
        elif source.suffix == ".zip":
            with zipfile.ZipFile(source) as archive:
                paths = {Path(path).name: path for path in archive.namelist()}
                found = {name: archive.read(paths[name]) for name in names if name in paths}
        else:
            with tarfile.open(source, "r:*") as archive:
                for member in archive:
                    stream = archive.extractfile(member) if Path(member.name).name in names else None
                    if stream is not None:
                        found[Path(member.name).name] = stream.read()
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{source}: has no file {', '.join(missing)}; expected {expected}")
    return found
