"""ImageSet: N images and what is known about them. Everything that enters the library becomes one."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knowngood.data.findings import Finding
from knowngood.data.labels import parse_labels
from knowngood.data.pixel_source import ArrayPixels, PixelSource
from knowngood.data.readers.files import read_mask
from knowngood.errors import DataError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N images with labels, conditions, splits and masks. Pixels are read only when asked for.

    Attributes:
        pixels: gives image i as (H, W, C) in its native dtype.
        ids: (N,) str, unique and stable: the path relative to the opened folder, or a zero-padded index.
        labels: (N,) float64: 0 normal, 1 anomalous, NaN unknown.
        conditions: column → (N,) values; None or NaN where unknown.
        splits: (N,) str such as "train" and "test", or None if the source has none.
        masks: a path or None for each image, or None if the source has no masks.
        name: data set or folder name, or "array".
        variant: how this copy differs from the official data, or None.
        rejected: files set aside, and files noted, while opening.
    """

    pixels: PixelSource
    ids: np.ndarray
    labels: np.ndarray
    conditions: dict[str, np.ndarray]
    splits: np.ndarray | None = None
    masks: tuple[Path | None, ...] | None = None
    name: str = "array"
    variant: str | None = None
    rejected: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.pixels)
        parts: dict[str, Any] = {"ids": self.ids, "labels": self.labels, "splits": self.splits, "masks": self.masks}
        parts |= {f"condition '{column}'": values for column, values in self.conditions.items()}
        for what, values in parts.items():
            if values is not None and len(values) != n:
                raise DataError(f"{self.name}: {n} images but {len(values)} values of {what}; expected one an image")

    @classmethod
    def from_arrays(
        cls,
        array: Any,
        labels: Any = None,
        conditions: Mapping[str, Any] | None = None,
        ids: Any = None,
        name: str = "array",
    ) -> ImageSet:
        """Images from memory: NumPy (N, H, W) or (N, H, W, C), or a torch tensor (N, H, W) or (N, C, H, W).

        The dtype stays (bool becomes uint8 0/1); pixels are not copied.

        Raises:
            DataError: another type, dtype or number of dimensions; wrong lengths; repeated ids; unknown label words.
        """
        pixels = ArrayPixels(_image_array(array))
        n = len(pixels)
        if ids is None:
            width = len(str(max(n - 1, 0)))
            ids = np.char.zfill(np.arange(n).astype(str), width)
        else:
            ids = np.asarray(ids).astype(str)
            check_unique(ids, name)
        images = cls(pixels, ids, np.full(n, np.nan), {}, name=name)
        return images.annotate(labels, conditions)

    def annotate(self, labels: Any = None, conditions: Mapping[str, Any] | None = None) -> ImageSet:
        """A copy with other labels (see `parse_labels`) and added or replaced condition columns."""
        changes: dict[str, Any] = {}
        if labels is not None:
            changes["labels"] = parse_labels(labels, self.ids if len(labels) == len(self) else None)
        if conditions is not None:
            columns = {str(column): _column(values) for column, values in conditions.items()}
            changes["conditions"] = {**self.conditions, **columns}
        return self.replace(**changes)

    def __len__(self) -> int:
        return len(self.pixels)

    def __repr__(self) -> str:
        normal, anomalous = int(np.sum(self.labels == 0)), int(np.sum(self.labels == 1))
        extra = f", conditions {list(self.conditions)}" if self.conditions else ""
        variant = f" [{self.variant}]" if self.variant else ""
        return f"ImageSet({self.name}{variant}: {len(self)} images, {normal} normal, {anomalous} anomalous{extra})"

    def __getitem__(self, key: Any) -> ImageSet:
        """The images at a slice, a boolean mask (N,) or indices (M,), in that order."""
        if isinstance(key, slice):
            index = np.arange(len(self))[key]
        else:
            index = np.atleast_1d(np.asarray(key))
            if index.dtype == bool:
                if len(index) != len(self):
                    raise DataError(f"{self.name}: a mask of {len(index)} values for {len(self)} images")
                index = np.flatnonzero(index)
            elif index.size == 0:
                index = index.astype(np.int64)
            elif index.dtype.kind not in "iu":
                raise DataError(f"{self.name}: cannot index with {index.dtype} values; use a slice, a mask or integers")
            index = np.arange(len(self))[index]  # negative indices become plain; too large ones raise IndexError
        return self.replace(
            pixels=self.pixels.take(index),
            ids=self.ids[index],
            labels=self.labels[index],
            conditions={column: values[index] for column, values in self.conditions.items()},
            splits=None if self.splits is None else self.splits[index],
            masks=None if self.masks is None else tuple(self.masks[i] for i in index),
        )

    def split(self, name: str) -> ImageSet:
        """The images of one split.

        Raises:
            DataError: the source has no such split; names the known ones.
        """
        known = [] if self.splits is None else sorted(set(self.splits.tolist()))
        if self.splits is None or name not in known:
            has = f"its splits are: {', '.join(known)}" if known else "it has no splits"
            raise DataError(f"{self.name} has no split '{name}'; {has}")
        return self[self.splits == name]

    def read(self, i: int) -> np.ndarray:
        """Image i: (H, W, C), native dtype. Raises `Unreadable` (a DataError) for a damaged file."""
        return self.pixels.read(i)

    def mask(self, i: int) -> np.ndarray | None:
        """Anomaly mask of image i, (H, W) bool, or None. See `read_mask` for which pixels count."""
        path = None if self.masks is None else self.masks[i]
        return None if path is None else read_mask(path)

    def shapes(self) -> np.ndarray:
        """(N, 3) int64: height, width, channels, without decoding pixels."""
        return self.pixels.shapes()

    def replace(self, **changes: Any) -> ImageSet:
        """A copy with some attributes changed."""
        return dataclasses.replace(self, **changes)

    def fingerprint(self) -> str:
        """SHA-256 (hex) over pixels (file bytes for files), labels and conditions. The order of the images counts."""
        digest = hashlib.sha256()
        self.pixels.update(digest)
        labels = np.where(np.isnan(self.labels), -1, self.labels).astype(np.int8)
        digest.update(labels.tobytes())
        for column in sorted(self.conditions):
            digest.update(f"\n{column}\n".encode())
            digest.update("\x1f".join(map(str, self.conditions[column].tolist())).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()


def check_unique(ids: np.ndarray, name: str) -> None:
    """Raise DataError if an id occurs twice."""
    if len(set(ids.tolist())) == len(ids):
        return
    values, counts = np.unique(ids, return_counts=True)
    raise DataError(f"{name}: id '{values[counts > 1][0]}' occurs {counts.max()} times; ids must be unique")


def _column(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    array = np.asarray(values)
    if array.dtype.kind in "US":
        return array.astype(str)
    if array.dtype.kind not in "biuf":
        array = np.asarray(values, dtype=object)
    if array.ndim != 1:
        raise DataError(f"a condition column has shape {array.shape}; expected one value an image: (N,)")
    return array


def _image_array(array: Any) -> np.ndarray:
    if isinstance(array, np.ndarray):
        found = array
        if found.ndim == 4 and found.shape[1] in (1, 3, 4) and min(found.shape[2:]) >= 8:
            raise DataError(
                f"array of shape {found.shape} seems to be channels-first; NumPy images are (N, H, W) or (N, H, W, C): "
                "pass array.transpose(0, 2, 3, 1)"
            )
    elif hasattr(array, "detach"):
        tensor = array.detach().cpu()
        if "bfloat16" in str(tensor.dtype):
            tensor = tensor.float()
        found = tensor.numpy()
        if found.ndim == 4:
            found = found.transpose(0, 2, 3, 1)
    else:
        raise DataError(
            f"cannot make images of a {type(array).__name__}; expected a NumPy array (N, H, W) or (N, H, W, C), "
            "a torch tensor (N, C, H, W), or a path"
        )
    if found.ndim == 3:
        found = found[..., None]
    if found.ndim != 4:
        raise DataError(
            f"array of shape {array.shape} is not a set of images; expected (N, H, W) or (N, H, W, C), "
            "as a torch tensor (N, C, H, W); one image alone is image[None]; tables (N, F) go to Detector as they are"
        )
    if 0 in found.shape[1:]:
        raise DataError(f"array of shape {array.shape} has images without pixels")
    if found.dtype == bool:
        found = found.astype(np.uint8)
    if found.dtype.kind not in "uif":
        raise DataError(f"array of dtype {found.dtype}; expected integers or floats")
    if not found.dtype.isnative:
        found = found.astype(found.dtype.newbyteorder("="))
    return found
