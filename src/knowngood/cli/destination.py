"""Where `score` writes its table: a file, or an object store by way of a file beside the working folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from knowngood.data.stores.address import Address, is_url
from knowngood.errors import OutputError

TABLE = "scores.parquet"  # below a URL that names a folder


@dataclass(frozen=True)
class Destination:
    """path: the file that is written, None for stdout. address: where it goes then, if to an object store."""

    path: Path | None
    address: Address | None = None

    @classmethod
    def of(cls, output: str | None) -> Destination:
        """What --output names. A URL without the suffix of a file is a folder: scores.parquet below it.

        Raises:
            SettingsError: a URL that is none of an object store, or holds credentials.
        """
        if output is None or not is_url(output):
            return cls(None if output is None else Path(output))
        address = Address.of(output)
        if output.endswith("/") or not Path(address.name).suffix:
            address = address.child(TABLE)
        if address.scheme == "file":
            return cls(Path(address.path))
        name = Path(address.name)
        key = hashlib.sha256(str(address).encode()).hexdigest()[:8]
        return cls(Path(f"{name.stem}-{key}{name.suffix}"), address)

    def __str__(self) -> str:
        return str(self.address or self.path)

    def deliver(self) -> str:
        """Put the file where it goes; it is then no longer here. The name of the place.

        Raises:
            OutputError: the store does not take it; the file stays.
        """
        if self.address is None or self.path is None:
            return str(self.path)
        try:
            self.address.fs.put_file(str(self.path), self.address.path)
        except Exception as error:  # its message may hold a signed URL
            raise OutputError(
                f"{self.address} cannot be written ({type(error).__name__}): check the credentials and the rights of "
                f"their owner. The table is kept: {self.path}"
            ) from None
        self.path.unlink()
        return str(self.address)
