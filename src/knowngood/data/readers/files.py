"""One image file in, (H, W, C) in its native dtype out; or the reason why not, with the path."""

from __future__ import annotations

import stat
import struct
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError

from knowngood.data.findings import Unreadable
from knowngood.data.readers import dicom, raster, tiff
from knowngood.data.readers.header import Header
from knowngood.data.readers.limits import Limits

_TIFF = {".tif", ".tiff"}
_DICOM = {".dcm", ".dicom"}
_RASTER = {
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp", ".ppm", ".pgm", ".pbm", ".pnm",
    ".jp2", ".j2k", ".jpx", ".heic", ".heif",
}  # fmt: skip
# Image formats that are known but not read, because they would be cut to 8 bits or need another library.
_NOT_READ = {
    ".avif", ".exr", ".hdr", ".raw", ".dng", ".cr2", ".nef", ".arw", ".svg",
    ".psd", ".nii", ".tga", ".ico",
}  # fmt: skip
SUFFIXES = frozenset(_RASTER | _TIFF | _DICOM)


def is_image(path: Path) -> bool:
    """True if the file's name, or its DICOM mark, says that it is an image this library reads."""
    return (path.suffix.lower() in SUFFIXES and unread_reason(path) is None) or dicom.is_dicom(path)


def unread_reason(path: Path) -> str | None:
    """Why an image is not read, if its name says that it is of such a format."""
    suffix = path.suffix.lower()
    if suffix in raster.HEIC and find_spec("pillow_heif") is None:
        return raster.NEEDS_HEIF
    return (
        f"is an image of a kind that is not read ({path.suffix}); save it as PNG or TIFF" * (suffix in _NOT_READ)
        or None
    )


def read_header(path: Path) -> Header:
    """Shape, dtype and notes of an image file, from its header alone where the format allows.

    Raises:
        Unreadable: names the path and the reason.
    """
    return _read(path, pixels=False)[0]


def read_image(path: Path, limits: Limits | None = None) -> np.ndarray:
    """Pixels of an image file: (H, W, C), native dtype, turned upright. See `raster`, `tiff` and `dicom` for details.

    Raises:
        Unreadable: names the path and the reason: zero-byte, truncated, not-an-image, unsupported, too-large or
            unreadable.
    """
    return read_with_header(path, limits)[1]


def read_with_header(path: Path, limits: Limits | None = None) -> tuple[Header, np.ndarray]:
    """Header and pixels in one go. Raises Unreadable."""
    header, image = _read(path, pixels=True, limits=limits)
    assert image is not None
    if image.shape != header.shape:
        raise Unreadable(path, "unreadable", f"its header says {header.shape}, its pixels are {image.shape}")
    return header, image


def unopened(path: Path, error: OSError) -> Unreadable:
    """What is wrong with a file that the system does not let be read."""
    if isinstance(error, FileNotFoundError):
        return Unreadable(path, "missing", "does not exist")
    return Unreadable(path, "unreadable", f"cannot be read: {error.strerror}")


def _read(path: Path, pixels: bool, limits: Limits | None = None) -> tuple[Header, np.ndarray | None]:
    suffix = path.suffix.lower()
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            raise Unreadable(path, "unreadable", "is a folder, pipe or device; expected a file")
        if found.st_size == 0:
            raise Unreadable(path, "zero-byte", "is empty (0 bytes)")
        if suffix in _DICOM or dicom.is_dicom(path):
            return dicom.read(path, pixels, limits)
        return (tiff if suffix in _TIFF or tiff.is_tiff(path) else raster).read(path, pixels, limits)
    except Unreadable:
        raise
    except (UnidentifiedImageError, struct.error):  # of a file of a few bytes
        named = f", though it is named {suffix}" * bool(suffix)
        raise Unreadable(path, "not-an-image", f"is no image, or is cut off early{named}") from None
    except Exception as error:  # decoders raise many types on damaged files; each is a fact about this file
        if isinstance(error, OSError) and error.errno is not None:
            raise unopened(path, error) from None
        message = str(error).replace(str(path), "").strip() or type(error).__name__
        cut = any(word in message.lower() for word in ("truncated", "end of file", "eof", "not enough image data"))
        raise Unreadable(path, "truncated" if cut else "unreadable", f"cannot be decoded: {message}") from error
