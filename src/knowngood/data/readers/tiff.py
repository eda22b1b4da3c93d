"""TIFF: simple files through Pillow, everything else (many channels, 16-bit colour, several pages) through tifffile.

One file is one image. Pages of one size, and any axis beside height and width (channel, depth, time), become channels
in stored order; pages that tifffile cannot decompress alone (LZW, JPEG) are read by Pillow.
Reduced-size copies (thumbnails, pyramids) are left aside; pages of different sizes are refused.
"White is zero" is inverted, so that a larger value is always brighter. Alpha is dropped, as everywhere.
"""

from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import UnidentifiedImageError

from knowngood.data.findings import Unreadable
from knowngood.data.readers import raster
from knowngood.data.readers.header import Header, upright, upright_header
from knowngood.data.readers.limits import Limits

_MINISWHITE, _MINISBLACK, _RGB, _YCBCR = 0, 1, 2, 6
_OWN_CODECS = {1, 8, 32773, 32946}  # none, deflate, PackBits: tifffile needs no other library


def is_tiff(path: Path) -> bool:
    """True if the file begins as TIFF and BigTIFF do."""
    with path.open("rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read(path: Path, pixels: bool = True, limits: Limits | None = None) -> tuple[Header, np.ndarray | None]:
    """Header and, if asked for, pixels (H, W, C) of a TIFF file."""
    limits = limits or Limits()
    _check_pages(path, limits)
    if _simple(path, limits):
        return raster.read(path, pixels, limits)
    try:
        import tifffile
    except ImportError:
        raise Unreadable(
            path, "unsupported", "is a TIFF that needs tifffile to keep all its bits: pip install 'knowngood[formats]'"
        ) from None
    with tifffile.TiffFile(path) as file:
        series = [one for one in file.series if not one.keyframe.is_reduced]
        if len(series) != 1:
            sizes = ", ".join("×".join(map(str, one.shape)) for one in series[:4])
            raise Unreadable(
                path, "unsupported", f"holds {len(series)} images of different shape ({sizes}); save one a file"
            )
        page, axes, shape = series[0].keyframe, series[0].axes, series[0].shape
        if "Y" not in axes or "X" not in axes:
            raise Unreadable(path, "unsupported", f"has axes {axes} and no image plane")
        photometric, pillow = int(page.photometric), not _decodes(page)
        if photometric not in (_MINISWHITE, _MINISBLACK, _RGB) and not (pillow and photometric == _YCBCR):
            raise Unreadable(path, "unsupported", f"has colours of kind {page.photometric!s}; save it as grey or RGB")
        tag = page.tags.get("Orientation")
        orientation = int(tag.value) if tag is not None else 1
        others = [k for k, axis in enumerate(axes) if axis not in "YX"]
        channels = int(np.prod([shape[k] for k in others], dtype=int))
        keep = _without_alpha(channels, page.samplesperpixel, page.extrasamples)
        notes = ("alpha channel dropped",) if len(keep) < channels else ()
        height, width = shape[axes.index("Y")], shape[axes.index("X")]
        dtype = np.dtype(series[0].dtype).newbyteorder("=")
        if dtype.kind == "b":
            dtype = np.dtype(np.uint8)
        header = upright_header(height, width, len(keep), dtype.name, notes, orientation)
        if not pixels:
            return header, None
        limits.check_picture(path, height, width, channels)
        limits.check_picture(path, *page.chunks[:2])
        if pillow:
            wanted = [one.index for one in series[0].pages if one is not None]
            return header, _through_pillow(path, page, wanted, axes)[..., keep].astype(dtype)
        array = series[0].asarray().transpose(axes.index("Y"), axes.index("X"), *others)
        array = array.reshape(array.shape[0], array.shape[1], channels)[..., keep].astype(dtype)
        if photometric == _MINISWHITE and dtype.kind == "u":
            array = (2**page.bitspersample - 1 - array).astype(dtype)
        return header, upright(array, orientation)


def _decodes(page: Any) -> bool:
    """Whether tifffile decompresses a page: without imagecodecs only what Python itself can."""
    return int(page.compression) in _OWN_CODECS or find_spec("imagecodecs") is not None


def _through_pillow(path: Path, page: Any, wanted: list[int], axes: str) -> np.ndarray:
    """Pages (H, W, C) by Pillow, upright; Unreadable if it would lose bits or channels."""
    bits, samples, kind = page.bitspersample, page.samplesperpixel, int(page.sampleformat)
    whole = (bits, samples, kind) in {(8, 1, 1), (16, 1, 1), (32, 1, 3), (8, 3, 1)}
    if not whole or (page.is_tiled and bits > 8) or axes[-3:] not in ("YXS", axes[-3:-2] + "YX", "YX"):
        raise Unreadable(
            path,
            "unsupported",
            f"is compressed by {page.compression.name}, which needs imagecodecs: "
            "pip install imagecodecs, or save it without compression",
        )
    planes = []
    with path.open("rb") as file, raster.open_bounded(file, ("TIFF",)) as image:
        for index in wanted:
            image.seek(index)
            planes.append(np.array(image))
    array = np.stack(planes, axis=2).reshape(*planes[0].shape[:2], -1)
    inverted = int(page.photometric) == _MINISWHITE and array.dtype == np.uint16  # Pillow inverts only 8 bits
    return (2**bits - 1 - array).astype(array.dtype) if inverted else array


def _check_pages(path: Path, limits: Limits) -> None:
    """Follow the chain of pages, which may end too early, without end, or in a circle.

    Readers take a file that was cut between two pages for one with fewer pages, and some follow a circle for ever.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(start[:2])
        if order is None or len(start) < 8:
            return  # no TIFF: the reader says so
        big = struct.unpack(order + "H", start[2:4])[0] == 43
        count, link, entry = ("Q", "Q", 20) if big else ("H", "I", 12)
        at, visited = struct.unpack_from(order + link, start.ljust(16, b"\0"), 8 if big else 4)[0], set()
        while at:
            if at in visited:
                reason = f"has a circular chain of pages: after page {len(visited)} comes one of them again"
                raise Unreadable(path, "unreadable", reason)
            visited.add(at)
            limits.check_pages(path, len(visited))
            file.seek(at)
            head = file.read(struct.calcsize(count))
            entries = struct.unpack(order + count, head)[0] if len(head) == struct.calcsize(count) else size
            end = at + len(head) + entries * entry
            if end + struct.calcsize(link) > size:
                raise Unreadable(path, "truncated", f"is cut off: page {len(visited)} begins at or runs past its end")
            file.seek(end)
            at = struct.unpack(order + link, file.read(struct.calcsize(link)))[0]


def _without_alpha(channels: int, samples: int, extra: tuple[int, ...]) -> list[int]:
    """Channel indices to keep: extra samples marked as alpha (1 or 2) go, unmarked ones are data."""
    if channels != samples or not extra:
        return list(range(channels))
    first = samples - len(extra)
    return [k for k in range(samples) if k < first or int(extra[k - first]) not in (1, 2)]


def _simple(path: Path, limits: Limits) -> bool:
    """True if Pillow reads the file without loss: one page, and 8-bit, 16-bit grey or 32-bit float grey."""
    try:
        with path.open("rb") as file, raster.open_bounded(file, ("TIFF",)) as image:
            tags = getattr(image, "tag_v2", {})
            if 322 in tags and 323 in tags:
                limits.check_picture(path, int(tags[323]), int(tags[322]))
            if getattr(image, "n_frames", 1) > 1:
                return False
            declared = int(tags.get(256, 0)) * int(tags.get(257, 0)) * max(tags.get(258, (1,))) * tags.get(277, 1) // 8
            if tags.get(259, 1) == 1 and declared > path.stat().st_size:
                raise Unreadable(path, "truncated", f"declares {declared:,} bytes of pixels, more than the whole file")
            bits, samples, kind = tags.get(258, (1,)), tags.get(277, 1), tags.get(339, (1,))[0]
            photometric, extra = tags.get(262), tags.get(338, ())
            if samples == 1:
                return (max(bits), kind) in {(1, 1), (2, 1), (4, 1), (8, 1), (12, 1), (16, 1), (32, 3)}
            known_extra = all(int(value) in (1, 2) for value in extra)
            plain = (photometric, samples - len(extra)) in {(_MINISBLACK, 1), (_RGB, 3), (5, 4), (6, 3)}
            return max(bits) <= 8 and kind == 1 and known_extra and plain
    except (UnidentifiedImageError, SyntaxError):
        return False
