"""Images as histograms of oriented gradients (HOG), and the way back for maps.

Invariant to brightness (an added constant) and contrast (a positive factor); nearly so to shifts within a cell. Not
invariant to rotation, to scale, or to the polarity of an edge: dark to light differs from light to dark.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from knowngood.config import HOGOptions
from knowngood.data.imageset import ImageSet
from knowngood.representations.base import CHUNK, Fitted, raise_first
from knowngood.representations.hog_features import CELLS, ORIENTATIONS, hog
from knowngood.representations.pixels import Pixels

POWER = 0.25
MEAN_OF = 4096  # training images that the mean is estimated from, at most
SHAPE = (ORIENTATIONS, CELLS, CELLS)
VALUES = math.prod(SHAPE)
DIRECTIONS = (
    "to the right",
    "to the lower right",
    "downwards",
    "to the lower left",
    "to the left",
    "to the upper left",
    "upwards",
    "to the upper right",
)


class HOG(Fitted):
    """How images become HOG features (8, 7, 7): 8 orientations in 7 × 7 cells. Fitted once; plain JSON.

    `read` gives pixels in their native dtype; `scale` makes of them √V · q − centre, with V = 392 values and q of
    length 1 (see `hog`, here with the power .25). So values are of order 1. Images of any size have the same cells.

    centre: (V,) mean of √V · q over the training images, at most 4,096 of them, evenly spread.
    """

    directions: ClassVar[tuple[str, ...]] = DIRECTIONS  # dark to light, of each orientation

    pixels: Pixels
    centre: tuple[float, ...]

    @classmethod
    def fit(cls, images: ImageSet, options: HOGOptions) -> HOG:
        """From the training images.

        Raises:
            DataError, SettingsError: as `Pixels.fit`; or an image cannot be read.
        """
        uncentred = cls(pixels=Pixels.fit(images, options), centre=(0.0,) * VALUES)
        index = np.linspace(0, len(images) - 1, min(len(images), MEAN_OF)).round().astype(int)
        total = torch.zeros(VALUES, dtype=torch.float64)
        for start in range(0, len(index), CHUNK):
            native, errors = uncentred.read(images, index[start : start + CHUNK])
            raise_first(images.ids, errors)
            total += uncentred.scale(torch.from_numpy(native)).flatten(1).sum(0, dtype=torch.float64)
        return uncentred.model_copy(update={"centre": tuple((total / len(index)).tolist())})

    @property
    def shape(self) -> tuple[int, int, int]:
        """(8, 7, 7)."""
        return SHAPE

    @property
    def rule(self) -> str:
        """Why raw values are scaled as they are."""
        return self.pixels.rule

    @property
    def bytes_per_image(self) -> int:
        """Memory of one image as `read` gives it, of the training dtype."""
        return self.pixels.bytes_per_image

    def check(self, shape: tuple[int, ...], dtype: Any) -> None:
        """Raise DataError if an image (h, w, c) of this dtype does not fit."""
        self.pixels.check(shape, dtype)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """One image (h, w, c) → its pixels (C, H, W), see `Pixels.prepare`."""
        return self.pixels.prepare(image)

    def read(
        self, images: ImageSet, index: np.ndarray | None = None, workers: int = 0
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Pixels (M, C, H, W) of the images at `index`, and why some cannot be read: `Pixels.read`."""
        return self.pixels.read(images, index, workers)

    def scale(self, batch: Tensor) -> Tensor:
        """Pixels (B, C, H, W) of any dtype → HOG features (B, 8, 7, 7) float32, centred, on their device."""
        q = hog(self.pixels.scale(batch), CELLS, ORIENTATIONS, POWER)
        return (math.sqrt(VALUES) * q - q.new_tensor(self.centre)).unflatten(1, SHAPE)

    def unscale(self, x: Tensor) -> Tensor:
        """Centred HOG features (B, 8, 7, 7) → q (B, 8, 7, 7), of length 1 unless the image is constant."""
        return (x + x.new_tensor(self.centre).unflatten(0, SHAPE)) / math.sqrt(VALUES)

    def to_image(self, map: np.ndarray, source_shape: tuple[int, ...]) -> np.ndarray:
        """Maps over the cells (..., 7, 7) → (..., h, w) float32 over the source image of shape (h, w[, c]).

        Bilinear between the centres of cells, constant beyond the outermost; then as `Pixels.to_image`.
        """
        if map.shape[-2:] != SHAPE[1:]:
            raise ValueError(f"a map has shape {map.shape}; expected (..., {CELLS}, {CELLS})")
        flat = torch.from_numpy(np.ascontiguousarray(map, dtype=np.float32).reshape(-1, 1, CELLS, CELLS))
        size = self.pixels.shape[1:]
        full = interpolate(flat, size=size, mode="bilinear", align_corners=False)[:, 0].numpy()
        return self.pixels.to_image(full.reshape(*map.shape[:-2], *size), source_shape)
