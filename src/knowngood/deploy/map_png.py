"""Anomaly maps as 16-bit grey PNG: anomaly = offset + scale · grey level."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

LEVELS = 65535


def scale_of(smallest: float, largest: float) -> float:
    """The size of a grey level, for values from the smallest to the largest."""
    return (largest - smallest) / LEVELS if largest > smallest else 1.0


def grey_levels(values: np.ndarray, offset: float, scale: float) -> np.ndarray:
    """(H, W) uint16; where the map is NaN, since a region is ignored, the lowest value."""
    values = np.nan_to_num(values, nan=offset)
    return np.rint(np.clip((values - offset) / scale, 0, LEVELS)).astype(np.uint16)


def map_record(values: np.ndarray) -> dict[str, Any]:
    """A map (H, W) for JSON: `png` in base64, and its own `offset` and `scale`."""
    values = np.asarray(values, np.float32)
    read = values[~np.isnan(values)]
    offset = float(read.min()) if read.size else 0.0
    scale = scale_of(offset, float(read.max()) if read.size else 0.0)
    file = io.BytesIO()
    Image.fromarray(grey_levels(values, offset, scale)).save(file, "PNG")
    return {"png": base64.b64encode(file.getvalue()).decode(), "offset": offset, "scale": scale}
