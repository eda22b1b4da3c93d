"""Images as their edges, by place and direction, and the way back for maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn.functional import interpolate

from knowngood.config import HOGOptions
from knowngood.data.imageset import ImageSet
from knowngood.errors import DataError
from knowngood.representations.hog_features import CELLS, ORIENTATIONS, hog
from knowngood.representations.pixels import Pixels

POWER = 0.25
LOOKED_AT = 4096  # training images that the centre is taken from, at most
TOGETHER = 512  # images described at a time
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


class HOG(BaseModel):
    """How images become their oriented gradients (8, 7, 7): 8 directions by 7×7 cells. Fitted once; plain JSON.

    Images are prepared by `pixels` and kept so, in their own type; `scale` makes of them √V · q − centre, V = 392, with
    q of length 1 (see `oriented_gradients`, here with the power .25). So values are of order 1, and neither brightness
    nor contrast changes them. Images of any size have the same cells.

    centre: (V,) mean of √V · q over the training images, at most 4,096 of them, spread evenly.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pixels: Pixels
    centre: tuple[float, ...]

    @classmethod
    def fit(cls, images: ImageSet, options: HOGOptions) -> HOG:
        """From the training images.

        Raises:
            DataError, SettingsError: as `Pixels.fit`; or an image cannot be read.
        """
        found = cls(pixels=Pixels.fit(images, options), centre=(0.0,) * VALUES)
        chosen = np.linspace(0, len(images) - 1, min(len(images), LOOKED_AT)).round().astype(int)
        total = torch.zeros(VALUES, dtype=torch.float64)
        for start in range(0, len(chosen), TOGETHER):
            prepared, errors = found.read(images, chosen[start : start + TOGETHER])
            if errors:
                first = min(errors)
                raise DataError(f"{images.ids[first]}: {errors[first]}")
            total += found.scale(torch.from_numpy(prepared)).flatten(1).sum(0, dtype=torch.float64)
        return found.model_copy(update={"centre": tuple((total / len(chosen)).tolist())})

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
        """Memory of one prepared image of the training type."""
        return self.pixels.bytes_per_image

    def check(self, shape: tuple[int, ...], dtype: Any) -> None:
        """Raise DataError if an image (h, w, c) of this dtype does not fit."""
        self.pixels.check(shape, dtype)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """One image (h, w, c) → its prepared pixels (C, H, W), see `Pixels.prepare`."""
        return self.pixels.prepare(image)

    def read(
        self, images: ImageSet, index: np.ndarray | None = None, workers: int = 0
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Prepared pixels (M, C, H, W) of the images at `index`, and why some could not be read: `Pixels.read`."""
        return self.pixels.read(images, index, workers)

    def scale(self, batch: Tensor) -> Tensor:
        """Prepared pixels (B, C, H, W) of any dtype → edges (B, 8, 7, 7) float32, centred, on their device."""
        q = hog(self.pixels.scale(batch), CELLS, ORIENTATIONS, POWER)
        return (math.sqrt(VALUES) * q - q.new_tensor(self.centre)).unflatten(1, SHAPE)

    def scale_all(self, prepared: np.ndarray) -> Tensor:
        """The same of N images, some at a time: (N, 8, 7, 7), 1.5 kB each."""
        found = torch.empty(len(prepared), *SHAPE)
        for first in range(0, len(prepared), TOGETHER):
            part = np.ascontiguousarray(prepared[first : first + TOGETHER])
            found[first : first + TOGETHER] = self.scale(torch.from_numpy(part))
        return found

    def unscale(self, x: Tensor) -> Tensor:
        """Edges (B, 8, 7, 7) → q (B, 8, 7, 7), of length 1 where they came from an image that has any."""
        return (x + x.new_tensor(self.centre).unflatten(0, SHAPE)) / math.sqrt(VALUES)

    def state(self) -> dict[str, Tensor]:
        """No tensors."""
        return {}

    def with_state(self, tensors: Mapping[str, Tensor]) -> Self:
        """Itself: there are no tensors."""
        return self

    def to_image(self, map: np.ndarray, source_shape: tuple[int, ...]) -> np.ndarray:
        """Maps over the cells (..., 7, 7) → (..., h, w) float32 over the source image of shape (h, w[, c]).

        Bilinear between the centres of cells, constant beyond the outermost; then as `Pixels.restore`.
        """
        if map.shape[-2:] != SHAPE[1:]:
            raise ValueError(f"a map has shape {map.shape}; expected (..., {CELLS}, {CELLS})")
        flat = torch.from_numpy(np.ascontiguousarray(map, dtype=np.float32).reshape(-1, 1, CELLS, CELLS))
        size = self.pixels.shape[1:]
        whole = interpolate(flat, size=size, mode="bilinear", align_corners=False)[:, 0].numpy()
        return self.pixels.to_image(whole.reshape(*map.shape[:-2], *size), source_shape)
