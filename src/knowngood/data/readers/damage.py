"""What decoders raise on damaged files, as an error of this library that names the file."""

from __future__ import annotations

import errno
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from knowngood.data.findings import Finding, printable
from knowngood.errors import DataError, KnowngoodError, OutputError

if TYPE_CHECKING:
    from knowngood.data.stores.address import Address

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def named_damage(path: str | Path, what: str, way_out: str) -> Iterator[None]:
    """Within, any foreign error becomes a DataError "path: what (reason); way out". Errors of this library pass.

    Which types a decoder raises on damage is not documented: `np.load` raises `tokenize.TokenError`, `zipfile` raises
    `NotImplementedError`. So no list of types is kept. A full disk is no damage: what is unpacked has no room, and that
    is an OutputError.
    """
    try:
        yield
    except KnowngoodError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise OutputError(
                f"{printable(str(path))}: no room to unpack it in {tempfile.gettempdir()}: {error.strerror}; free some "
                "space there, or name another folder by TMPDIR"
            ) from error
        reason = str(error).strip() or type(error).__name__
        raise DataError(f"{printable(str(path))}: {what} ({reason}); {way_out}") from error


def repeats(times: Mapping[str, int], file: Path | Address) -> list[Finding]:
    """A finding for each member that is more than once in an archive."""
    reason = "is {} times in {}: the last one counts, as where that is unpacked"
    found = [(name, reason.format(n, printable(file.name))) for name, n in times.items() if n > 1]
    return [Finding(printable(name), "repeated", why, "warning") for name, why in found]


def stops_early(tar: tarfile.TarFile) -> bool:
    """Whether a tar file of which all members were listed has no end mark where they end.

    `tarfile` stops without an error at a header that is cut or damaged, and what follows is lost.
    """
    file = tar.fileobj
    assert file is not None
    file.seek(tar.offset)
    return file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE
