"""PNG, JPEG, JPEG 2000, HEIC, BMP, GIF, WebP, PNM and simple TIFF, through Pillow, without ever losing bits.

HEIC needs pillow-heif (extra `heic`).
PNG of 16-bit colour, or of 16-bit grey with alpha, needs OpenCV (extra `align`): Pillow would cut it to 8 bits.

What becomes of each kind: 8-bit grey and colour stay; 16-bit grey and colour stay uint16; 1-bit becomes 0 and 255;
2- and 4-bit grey are spread over 0..255, as the PNG standard says; a palette becomes RGB, or grey if all its colours
are grey; CMYK and YCbCr become RGB. An alpha channel is dropped and the colour under it kept as stored; every such
change is noted in the header. Files with several frames are refused, except the preview frames of camera JPEGs.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from knowngood.data.findings import Unreadable
from knowngood.data.readers.header import Header, upright, upright_header
from knowngood.data.readers.limits import Limits

FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "PPM", "TIFF", "JPEG2000")
HEIC = (".heic", ".heif")
NEEDS_HEIF = "is HEIC, which is not read without pillow-heif: pip install 'knowngood[heic]', or save it as PNG"
ORIENTATION = 0x0112
_PLAIN = {"L": "uint8", "I": "int32", "F": "float32", "RGB": "uint8"}
_TO_RGB = {"RGBA", "RGBX", "RGBa", "CMYK", "YCbCr"}


def read(path: Path, pixels: bool = True, limits: Limits | None = None) -> tuple[Header, np.ndarray | None]:
    """Header and, if asked for, pixels (H, W, C) of a file that Pillow reads. Pillow's own errors pass through."""
    # Given a path, Pillow maps uncompressed TIFF into memory, and then garbles those with an orientation tag.
    with path.open("rb") as file, _opened(path, file) as image:
        if pixels:
            (limits or Limits()).check_picture(path, image.height, image.width)
        if getattr(image, "is_animated", False) and image.format != "MPO":
            frames = getattr(image, "n_frames", "several")
            raise Unreadable(path, "unsupported", f"holds {frames} frames; save each frame as its own file")
        if image.format == "PNG":
            deep = _deep_png(path)
            if deep:
                return _read_deep_png(path, image, deep, pixels)
        if image.format == "PPM":
            _refuse_deep_pnm(path)
        if image.format == "JPEG2000" and image.mode != "I;16":
            _refuse_deep_jpeg2000(path)
        if image.info.get("bit_depth", 8) > 8:  # of HEIC
            raise Unreadable(path, "unsupported", f"has {image.info['bit_depth']} bits; save it as 16-bit PNG or TIFF")
        return _read(path, image, pixels)


def picture(image: Image.Image) -> np.ndarray:
    """A Pillow image in memory as (H, W, C), by the same rules as a file.

    Raises:
        Unreadable: its mode is not read.
    """
    target, dtype, _ = _plan(Path("image"), image)
    array = np.array(image if target is None else _convert(image, target))
    return upright(array.reshape(*array.shape[:2], -1).astype(dtype, copy=False), _orientation(image))


def open_bounded(file: IO[bytes], formats: tuple[str, ...] = FORMATS) -> ImageFile.ImageFile:
    """As `Image.open`, without its bound on the size, which is one for the whole process: see `Limits`."""
    Image.preinit()  # the commonest; all others take longer than reading a picture
    start = file.read(16)
    for name in formats:
        if name not in Image.OPEN:
            Image.init()
        factory, accept = Image.OPEN[name]
        if accept is None or accept(start) is True:
            file.seek(0)
            try:
                return factory(file, "")  # type: ignore[return-value]
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue
    raise UnidentifiedImageError("cannot identify image file")


def _opened(path: Path, file: IO[bytes]) -> ImageFile.ImageFile:
    if path.suffix.lower() not in HEIC:
        return open_bounded(file)
    try:
        import pillow_heif  # type: ignore[import-not-found]
    except ImportError:
        raise Unreadable(path, "unsupported", NEEDS_HEIF) from None
    pillow_heif.register_heif_opener()
    return open_bounded(file, ("HEIF", *FORMATS))


def _read(path: Path, image: ImageFile.ImageFile, pixels: bool) -> tuple[Header, np.ndarray | None]:
    target, dtype, notes = _plan(path, image)
    orientation = _orientation(image)
    # Pillow turns a TIFF itself while loading, so the size it reports there is upright already.
    tiff: Any = getattr(image, "tag_v2", None)
    stored = (image.height, image.width) if tiff is None else (int(tiff[257]), int(tiff[256]))
    header = upright_header(*stored, 3 if (target or image.mode) == "RGB" else 1, dtype, notes, orientation)
    if not pixels:
        return header, None
    # Pillow inverts "white is zero" in 8-bit files, but not in deeper ones.
    inverted = int(tiff[258][0]) if tiff is not None and tiff.get(262) == 0 and image.mode.startswith("I;16") else None
    image.load()
    converted = image if target is None else _convert(image, target)
    array = np.array(converted)
    array = array.reshape(array.shape[0], array.shape[1], -1).astype(dtype, copy=False)
    if inverted is not None:
        array = (2**inverted - 1 - array).astype(dtype)
    return header, array if tiff is not None else upright(array, orientation)


def _plan(path: Path, image: Image.Image) -> tuple[str | None, str, tuple[str, ...]]:
    """(Pillow mode to convert to or None, dtype, notes) of an open file."""
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        return None, "uint16", ()
    if mode in _PLAIN:
        notes = ("transparent colour ignored",) if "transparency" in image.info else ()
        return None, _PLAIN[mode], notes
    if mode == "1":
        return "L", "uint8", ()
    if mode in ("LA", "La"):
        return "L", "uint8", ("alpha channel dropped",)
    if mode in ("P", "PA"):
        palette = np.array(image.getpalette() or [0, 0, 0]).reshape(-1, 3)
        grey = bool((palette == palette[:, :1]).all())
        alpha = ("alpha channel dropped",) if mode == "PA" or "transparency" in image.info else ()
        return "L" if grey else "RGB", "uint8", (f"palette turned into {'grey' if grey else 'RGB'}", *alpha)
    if mode in _TO_RGB:
        note = "alpha channel dropped" if mode.startswith("RGB") else f"{mode} turned into RGB"
        return "RGB", "uint8", () if mode == "RGBX" else (note,)
    raise Unreadable(path, "unsupported", f"has colour mode {mode}; save it as grey or RGB")


def _convert(image: Image.Image, target: str) -> Image.Image:
    if image.mode in ("LA", "La"):
        return (image.convert("LA") if image.mode == "La" else image).getchannel(0)
    if image.mode in ("P", "PA"):
        colours = image.convert("RGB")
        return colours.getchannel(0) if target == "L" else colours
    if image.mode == "RGBa":
        image = image.convert("RGBA")
    return image.convert(target)


def _orientation(image: Image.Image) -> int:
    # A PNG's EXIF may follow its pixels; it counts only if it comes first, so that the header alone tells the shape.
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info):
        return 1
    value = image.getexif().get(ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


# 16-bit colour PNG: Pillow keeps only the high bytes, so OpenCV decodes the pixels. -----------------------------------


def _deep_png(path: Path) -> int | None:
    """PNG colour type (2 RGB, 4 grey + alpha, 6 RGB + alpha) if 16 bits deep and not plain grey, else None."""
    with path.open("rb") as file:
        start = file.read(26)
    depth, colour = start[24], start[25]
    return colour if depth == 16 and colour in (2, 4, 6) else None


def _read_deep_png(
    path: Path, image: ImageFile.ImageFile, colour: int, pixels: bool
) -> tuple[Header, np.ndarray | None]:
    try:
        import cv2
    except ImportError:
        raise Unreadable(
            path,
            "unsupported",
            "is a PNG of 16-bit colour or grey with alpha, which needs OpenCV to keep all its bits: pip install "
            "'knowngood[align]', or save it as 16-bit grey or 8-bit colour",
        ) from None
    orientation = _orientation(image)
    notes = ("alpha channel dropped",) if colour in (4, 6) else ()
    header = upright_header(image.height, image.width, 1 if colour == 4 else 3, "uint16", notes, orientation)
    if not pixels:
        return header, None
    # IMREAD_UNCHANGED keeps 16 bits, leaves orientation alone and gives BGR(A); grey with alpha comes as BGRA.
    # OpenCV opens no path whose name is not text.
    array = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise Unreadable(path, "truncated", "cannot be decoded: its pixel data is cut off or damaged")
    return header, upright(array[..., :1] if colour == 4 else array[..., 2::-1], orientation)


def _refuse_deep_pnm(path: Path) -> None:
    """Pillow stretches or cuts PNM values that are not 0..255 or 16-bit grey 0..65535."""
    with path.open("rb") as file:
        start = file.read(2048)
    words = b"\n".join(line.split(b"#")[0] for line in start.split(b"\n")).split()
    if words[0] in (b"P2", b"P3", b"P5", b"P6"):
        largest = int(words[3])
        if largest != 255 and not (largest == 65535 and words[0] in (b"P2", b"P5")):
            raise Unreadable(path, "unsupported", f"is a PNM with values 0..{largest}; save it as PNG or TIFF")


def _refuse_deep_jpeg2000(path: Path) -> None:
    """Pillow cuts colour and alpha of more than 8 bits; the depths stand in the segment SIZ of the code stream."""
    with path.open("rb") as file:
        start = file.read(1 << 16)
    at = start.find(b"\xff\x4f\xff\x51")
    components = int.from_bytes(start[at + 40 : at + 42]) if at >= 0 else 0
    depths = {(byte & 127) + 1 for byte in start[at + 42 : at + 42 + 3 * components : 3]}
    if max(depths, default=8) > 8:
        raise Unreadable(
            path, "unsupported", f"is JPEG 2000 of {max(depths)}-bit colour; save it as 16-bit PNG or TIFF"
        )
