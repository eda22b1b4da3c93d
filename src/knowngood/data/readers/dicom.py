"""DICOM through pydicom: one image a file, in the units the file means.

DICOM is recognised by its content, whatever the name. MONOCHROME1 ("larger is darker") is inverted, so that a larger
value is always brighter. A rescale slope and intercept other than 1 and 0 is applied and gives float32, so that files
with different slopes can be compared; an empty one is 1 or 0. Window settings are for viewing and ignored. Palette and
YBR colours become RGB. Files with several frames are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from knowngood.data.findings import Unreadable
from knowngood.data.readers.header import Header
from knowngood.data.readers.limits import Limits

RESCALED = "rescale slope and intercept applied"


def is_dicom(path: Path) -> bool:
    """True if the file carries the DICOM mark after its preamble."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read(path: Path, pixels: bool = True, limits: Limits | None = None) -> tuple[Header, np.ndarray | None]:
    """Header and, if asked for, pixels (H, W, C) of a DICOM file."""
    try:
        import pydicom
    except ImportError:
        raise Unreadable(
            path, "unsupported", "is DICOM, which needs pydicom: pip install 'knowngood[formats]'"
        ) from None
    data: Any = pydicom.dcmread(path, stop_before_pixels=not pixels)
    if "Rows" not in data or "Columns" not in data:
        raise Unreadable(path, "not-an-image", "is DICOM without an image")
    if int(data.get("NumberOfFrames", 1) or 1) > 1:
        raise Unreadable(path, "unsupported", f"holds {data.NumberOfFrames} frames; save each frame as its own file")
    kind = str(data.PhotometricInterpretation)
    slope, intercept = _number(path, data, "RescaleSlope", 1.0), _number(path, data, "RescaleIntercept", 0.0)
    if slope == 0:
        raise Unreadable(path, "unreadable", "has RescaleSlope 0, which leaves nothing of its values")
    rescaled = (slope, intercept) != (1.0, 0.0)
    bits, signed = int(data.BitsAllocated), bool(data.PixelRepresentation)
    if "FloatPixelData" in data:
        stored = "float32"
    elif kind == "PALETTE COLOR":
        stored = f"uint{int(data.RedPaletteColorLookupTableDescriptor[2])}"
    else:
        stored = f"{'int' if signed else 'uint'}{max(bits, 8)}"
    channels = 3 if kind == "PALETTE COLOR" else int(data.SamplesPerPixel)
    notes = ("MONOCHROME1 inverted",) if kind == "MONOCHROME1" else ()
    if rescaled:
        notes += (RESCALED,)
    dtype = "float32" if rescaled else stored
    header = Header(int(data.Rows), int(data.Columns), channels, dtype, notes, unit=True)
    if not pixels:
        return header, None
    (limits or Limits()).check_picture(path, header.height, header.width, channels)
    array = data.pixel_array
    if kind == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        array = apply_color_lut(array, data)
    if kind == "MONOCHROME1":
        used = int(data.BitsStored)
        array = (-1 if signed else 2**used - 1) - array.astype(np.int64)
    if rescaled:
        array = array * slope + intercept
    return header, np.ascontiguousarray(array.reshape(*header.shape).astype(dtype))


def _number(path: Path, data: Any, name: str, default: float) -> float:
    """A number of the file; `default` where it is not there or empty."""
    value = data.get(name)
    if value is None or str(value).strip() == "":
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise Unreadable(path, "unreadable", f"has {name} {value!r}; expected a finite number")
    return number
