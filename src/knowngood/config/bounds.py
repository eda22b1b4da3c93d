"""How large a file may be that is read: default and meaning by the name of the setting."""

from __future__ import annotations

from typing import NamedTuple


class Bound(NamedTuple):
    """The default of a bound, and what it bounds."""

    default: float
    description: str


BOUNDS = {
    "max_pixels": Bound(
        178_956_970,
        "height × width above which a picture is not decoded, times its channels if there are more than 4",
    ),
    "max_pages": Bound(4096, "pages of a TIFF above which it is not read"),
    "max_unpacked_gb": Bound(4.0, "size of an archive or .npz, unpacked, above which it is not read"),
}
