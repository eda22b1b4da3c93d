"""What decoders raise on damaged files, as an error of this library that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from knowngood.data.findings import printable
from knowngood.errors import DataError, KnowngoodError


@contextmanager
def named_damage(path: str | Path, what: str, way_out: str) -> Iterator[None]:
    """Within, any foreign error becomes a DataError "path: what (reason); way out". Errors of this library pass.

    Which types a decoder raises on damage is not documented: `np.load` raises `tokenize.TokenError`, `zipfile` raises
    `NotImplementedError`. So no list of types is kept.
    """
    try:
        yield
    except KnowngoodError:
        raise
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise DataError(f"{printable(str(path))}: {what} ({reason}); {way_out}") from error
