"""What an image file says about itself, and how it is turned upright."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Header:
    """Shape and dtype an image will have once read, and what reading changes (`notes`, empty for most files)."""

    height: int
    width: int
    channels: int
    dtype: str
    notes: tuple[str, ...] = ()
    unit: bool = False  # the values are in a unit of their own, as in DICOM

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, C) stored with EXIF/TIFF orientation 1..8, as a viewer shows it; 5 to 8 swap height and width."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def upright_header(
    height: int, width: int, channels: int, dtype: str, notes: tuple[str, ...], orientation: int
) -> Header:
    """The header of an image stored with this height and width, once `upright`."""
    if orientation in (5, 6, 7, 8):
        height, width = width, height
    turned = (f"turned upright (orientation tag {orientation})",) if 2 <= orientation <= 8 else ()
    return Header(height, width, channels, dtype, (*notes, *turned))
