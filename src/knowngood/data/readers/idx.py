"""The idx format of MNIST and similar sets: strict about magic number, dimensions and length."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np

from knowngood.data.readers.damage import named_damage
from knowngood.errors import DataError

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def parse_idx(data: bytes, name: str) -> np.ndarray:
    """An idx file, plain or gzipped, as an array of its own shape and (native-endian) dtype.

    Raises:
        DataError: not idx, cut off, or longer than its header says; names the file and what was expected.
    """
    if data[:2] == b"\x1f\x8b":
        with named_damage(name, "damaged gzip file", "download it again"):
            data = gzip.decompress(data)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _DTYPES or not 1 <= data[3] <= 8:
        raise DataError(
            f"{name}: not an idx file; expected it to start with 0, 0, a type (8 for uint8) and the number of "
            f"dimensions, found {list(data[:4])}"
        )
    dtype, n_dims = np.dtype(_DTYPES[data[2]]), data[3]
    start = 4 + 4 * n_dims
    if len(data) < start:
        raise DataError(f"{name}: cut off within its header; expected {n_dims} dimensions, found {len(data)} bytes")
    shape = tuple(np.frombuffer(data, ">u4", n_dims, 4).tolist())
    expected = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise DataError(f"{name}: {len(data)} bytes, but a {'×'.join(map(str, shape))} idx file has {expected}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))  # a writable copy


def parse_images(data: bytes, name: str) -> np.ndarray:
    """Images of an idx file: (N, H, W, C), C = 1 unless the file has four dimensions."""
    images = parse_idx(data, name)
    if images.ndim not in (3, 4):
        raise DataError(f"{name}: expected images, N×H×W or N×H×W×C, found shape {images.shape}")
    return images[..., None] if images.ndim == 3 else images


def parse_labels(data: bytes, name: str, images: np.ndarray, image_name: str) -> np.ndarray:
    """Labels (N,) of an idx file; DataError unless there is one an image."""
    labels = parse_idx(data, name)
    if labels.shape != (len(images),):
        raise DataError(
            f"{name} has shape {labels.shape}; expected ({len(images)},): one label an image of {image_name}"
        )
    return labels


def read_pair(images: Path, labels: Path | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Images (N, H, W, C) of one idx file and classes (N,) of another, as text; None without that."""
    block = parse_images(images.read_bytes(), str(images))
    if labels is None:
        return block, None
    return block, parse_labels(labels.read_bytes(), str(labels), block, str(images)).astype(str)


def labels_beside(path: Path) -> Path | None:
    """The labels file that belongs to an images file by its official name, if it is there."""
    images = path.name.removesuffix(".gz")
    labels = images.replace("images-idx3", "labels-idx1").replace("images.idx3", "labels.idx1")
    candidates = () if labels == images else (path.with_name(f"{labels}.gz"), path.with_name(labels))
    return next((candidate for candidate in candidates if candidate.is_file()), None)
