"""ImageSet: N images and what is known about them. Everything that enters the library becomes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knowngood.config.words import counted
from knowngood.data.findings import UNUSABLE, Finding, Unreadable
from knowngood.data.itemset import ItemSet, numbered
from knowngood.data.pixel_source import ArrayPixels, PixelSource
from knowngood.data.readers.mask_file import Mask, read_masks
from knowngood.errors import DataError

Marks = tuple[Path, ...] | Callable[[], Mask]


@dataclass(frozen=True, eq=False)
class ImageSet(ItemSet):
    """N images with labels, conditions, splits and masks. Pixels are read only when asked for.

    Attributes:
        pixels: gives image i as (H, W, C) in its native dtype.
        ids, labels, conditions, splits, groups: see `ItemSet`. Ids are paths relative to the opened folder, or numbers.
        masks: of each image its mask files, which are joined, a function that draws its mask, (H, W) bool, or None; or
            None if the source has no masks.
        name: data set or folder name, or "array".
        variant: how this copy differs from the official data, or None.
        rejected: files set aside, and files noted, while opening.
    """

    pixels: PixelSource
    ids: np.ndarray
    labels: np.ndarray
    conditions: dict[str, np.ndarray]
    splits: np.ndarray | None = None
    masks: tuple[Marks | None, ...] | None = None
    name: str = "array"
    variant: str | None = None
    rejected: tuple[Finding, ...] = ()
    groups: np.ndarray | None = None

    item = "image"

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
        if ids is None:
            ids = numbered(len(pixels))
        else:
            ids = np.asarray(ids).astype(str)
            values, counts = np.unique(ids, return_counts=True)
            if (counts > 1).any():
                raise DataError(f"{name}: id '{values[counts > 1][0]}' occurs {counts.max()} times; ids must be unique")
        return cls(pixels, ids, np.full(len(pixels), np.nan), {}, name=name).annotate(labels, conditions)

    def __len__(self) -> int:
        return len(self.pixels)

    def __repr__(self) -> str:
        normal, anomalous = int(np.sum(self.labels == 0)), int(np.sum(self.labels == 1))
        extra = f", conditions {list(self.conditions)}" if self.conditions else ""
        variant = f" [{self.variant}]" if self.variant else ""
        images = counted(len(self), "image")
        return f"ImageSet({self.name}{variant}: {images}, {normal} normal, {anomalous} anomalous{extra})"

    @property
    def unusable(self) -> list[Finding]:
        """Why files that would be images of it are none."""
        return [one for one in self.rejected if one.kind in UNUSABLE]

    def _take(self, index: np.ndarray) -> dict[str, Any]:
        masks = None if self.masks is None else tuple(self.masks[i] for i in index)
        return {"pixels": self.pixels.take(index), "masks": masks}

    def _update_one(self, i: int, digest: Any) -> None:
        self.pixels.take(np.array([i])).update(digest)

    def _update(self, digest: Any) -> None:
        self.pixels.update(digest)

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

    def expect(self, index: np.ndarray) -> None:
        """Say which images (M,) are read next, in that order: what comes from afar is fetched meanwhile."""
        if (announced := getattr(self.pixels, "expect", None)) is not None:
            announced(index)

    def mask(self, i: int) -> np.ndarray | None:
        """Anomaly mask of image i, (H, W) bool, or None. See `read_mask` for which pixels count."""
        marks = None if self.masks is None else self.masks[i]
        if callable(marks):
            return marks()
        return None if marks is None else read_masks(marks, getattr(self.pixels, "limits", None))

    def shapes(self) -> np.ndarray:
        """(N, 3) int64: height, width, channels, without decoding pixels."""
        return self.pixels.shapes()

    def declared(self) -> ImageSet:
        """The images whose shape is known without decoding pixels; those that are not here cannot be read."""
        kept = np.ones(len(self), dtype=bool)
        try:
            self.shapes()
        except Unreadable:
            for i in range(len(self)):
                try:
                    self.pixels.take(np.array([i])).shapes()
                except Unreadable:
                    kept[i] = False
        return self if kept.all() else self[kept]

    def kinds(self) -> list[tuple[int, str]]:
        """Channels and dtype of every image, as far as its source knows them without decoding pixels."""
        known = getattr(self.pixels, "kinds", None)
        return [] if known is None else known()


def join_splits(parts: Mapping[str, tuple[np.ndarray, np.ndarray | None]], name: str) -> ImageSet:
    """Arrays of images and their classes (None if unknown), by split, as one set with condition "class"."""
    blocks = [_image_array(block) for block, _ in parts.values()]
    if len({block.shape[1:] for block in blocks}) > 1:
        raise DataError(f"{name}: its splits have images of different shapes: {[b.shape for b in blocks]}")
    whole = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    images = ImageSet.from_arrays(whole, name=name)
    if any(given is not None for _, given in parts.values()):
        classes = [np.full(len(block), None) if given is None else given for block, given in parts.values()]
        images = images.annotate(conditions={"class": np.concatenate(classes)})
    return images.replace(splits=np.repeat(list(parts), [len(block) for block in blocks]))


def channels_last(shape: tuple[int, ...]) -> bool:
    """Whether one picture of a torch tensor, (C, H, W), seems to be (H, W, C)."""
    return len(shape) == 3 and shape[2] in (1, 3, 4) and shape[0] not in (1, 3, 4) and min(shape[:2]) >= 8


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
        if channels_last(found.shape[1:]):
            raise DataError(
                f"tensor of shape {found.shape} seems to be channels-last; images of torch are (N, C, H, W): pass "
                "tensor.permute(0, 3, 1, 2)"
            )
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
    return found.astype(found.dtype.newbyteorder("="), copy=False)
