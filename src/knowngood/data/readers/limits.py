"""How large a file may be once decoded: checked against what it declares, before anything is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowngood.config.words import for_caller, in_pixels
from knowngood.data.findings import Unreadable
from knowngood.errors import DataError

if TYPE_CHECKING:
    from knowngood.config import DataOptions

SETTINGS = {"max_pixels": "pixels", "max_pages": "pages", "max_unpacked_gb": "gigabytes"}  # names of the same
COLOURS = 4  # channels of an ordinary picture; a picture of more counts them all


@dataclass(frozen=True)
class Limits:
    """Bounds on one file; the settings of the group `data` raise them.

    pixels: height × width of a picture, times its channels if there are more than 4. The default is where Pillow takes
    a picture for a decompression bomb. pages: of a TIFF. gigabytes: of an archive or .npz, unpacked.
    """

    pixels: int = 2 * 89_478_485
    pages: int = 4096
    gigabytes: float = 4.0

    @classmethod
    def of(cls, options: DataOptions) -> Limits:
        """As the settings say."""
        return cls(options.max_pixels, options.max_pages, options.max_unpacked_gb)

    def with_settings(self, given: Mapping[str, Any]) -> Limits:
        """These bounds, but for those that are given by the name of their setting."""
        return replace(self, **{SETTINGS[name]: value for name, value in given.items()})

    def check_picture(self, path: Path, height: int, width: int, channels: int = 1) -> None:
        """Raises Unreadable: there is no pixel, or there are more than may be."""
        if min(height, width, channels) < 1:
            raise Unreadable(
                path, "not-an-image", f"declares {in_pixels((height, width))} pixels of {channels} channels"
            )
        pixels = height * width * (channels if channels > COLOURS else 1)
        if pixels > self.pixels:
            of = f" × {channels} channels" if channels > COLOURS else ""
            allowed = for_caller(f'data={{"max_pixels": {pixels}}}', f"--max-pixels {pixels}")
            raise Unreadable(
                path,
                "too-large",
                f"declares {in_pixels((height, width))}{of} = {pixels:,} pixels, above the limit of {self.pixels:,}; "
                f"if that is meant, allow it: {allowed}",
            )

    def check_pages(self, path: Path, pages: int) -> None:
        """Raises Unreadable: more pages than may be."""
        if pages > self.pages:
            more = 10 * self.pages
            raise Unreadable(
                path,
                "too-large",
                f"has more than {self.pages:,} pages; if that is meant, allow more: "
                + for_caller(f'data={{"max_pages": {more}}}', f"--max-pages {more}"),
            )

    def check_unpacked(self, path: Path, size: int) -> None:
        """Raises DataError: more bytes than an archive may have, unpacked."""
        if size > self.gigabytes * 1e9:
            needed = -(-size // 10**9)
            allowed = for_caller(f'data={{"max_unpacked_gb": {needed}}}', f"--max-unpacked-gb {needed}")
            raise DataError(
                f"{path}: declares {size:,} bytes once unpacked, above the limit of {self.gigabytes:g} GB; if that is "
                f"meant, allow it: {allowed}"
            )
