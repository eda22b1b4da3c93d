"""Images as histograms of oriented gradients (HOG), and the way back for maps.

Invariant to brightness (an added constant) and contrast (a positive factor); nearly so to shifts within a cell. Not
invariant to rotation, to scale, or to the polarity of an edge: dark to light differs from light to dark.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from knowngood.config import HOGOptions
from knowngood.data.imageset import ImageSet
from knowngood.representations.base import CHUNK, Fitted, in_parts, raise_first
from knowngood.representations.pixels import Pixels, upsampled

CELLS = 7  # a side
ORIENTATIONS = 8  # over 360°: dark to light differs from light to dark
BLUR = 0.025  # σ of the Gaussian over the image, as a share of its side
ROUNDING = 1e-6  # of the largest value of an image: gradients that rounding alone can make
AT_ONCE = 2**22  # values of planes, one per orientation, held at a time
POWER = 0.25
MEAN_OF = 4096  # training images that the mean is estimated from, at most
SHAPE = (ORIENTATIONS, CELLS, CELLS)
VALUES = math.prod(SHAPE)
DIRECTIONS = (  # dark to light, of each orientation
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

    pixels: Pixels
    centre: tuple[float, ...]

    @classmethod
    def fit(cls, images: ImageSet, options: HOGOptions) -> HOG:
        """From the training images.

        Raises:
            DataError, SettingsError: as `Pixels.fit`; or an image cannot be read.
        """
        return cls(pixels=Pixels.fit(images, options), centre=(0.0,) * VALUES).centred(images)

    def centred(self, images: ImageSet) -> Self:
        """A copy of this one, of which `centre` is 0, with the mean over these images. Raises DataError: as `fit`."""
        index = np.linspace(0, len(images) - 1, min(len(images), MEAN_OF)).round().astype(int)
        total = torch.zeros(VALUES, dtype=torch.float64)
        for start in range(0, len(index), CHUNK):
            native, errors = self.read(images, index[start : start + CHUNK])
            raise_first(images.ids, errors)
            total += self.scale(torch.from_numpy(native)).flatten(1).sum(0, dtype=torch.float64)
        return self.model_copy(update={"centre": tuple((total / len(index)).tolist())})

    @property
    def unseen(self) -> tuple[str, ...]:
        return ("brightness", "contrast", *self.pixels.unseen)

    @property
    def shape(self) -> tuple[int, int, int]:
        return SHAPE

    @property
    def bytes_per_image(self) -> int:
        return self.pixels.bytes_per_image

    def check(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.pixels.check(shape, dtype)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """The image of which HOG is computed, as `Pixels.prepare`."""
        return self.pixels.prepare(image)

    def read(
        self, images: ImageSet, index: np.ndarray | None = None, workers: int = 0
    ) -> tuple[np.ndarray, dict[int, str]]:
        return self.pixels.read(images, index, workers)

    def scale(self, batch: Tensor) -> Tensor:
        """Pixels (B, C, H, W) of any dtype → HOG features (B, 8, 7, 7) float32, centred, on their device."""
        return self.of_scaled(self.pixels.scale(batch))

    def of_scaled(self, x: Tensor) -> Tensor:
        """As `scale`, of pixels that are scaled already."""
        q = hog(x, CELLS, ORIENTATIONS, POWER)
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
        return self.pixels.to_image(upsampled(map, self.pixels.shape[1:]), source_shape)


def hog(x: Tensor, cells: int = CELLS, orientations: int = ORIENTATIONS, power: float = 0.5) -> Tensor:
    """Histograms of oriented gradients of images (B, C, H, W), (B, orientations · cells²) in float32, of length 1 each.

    The image is blurred with σ = 2.5 % of its side. The gradient at each pixel is that of the channel where it is
    longest. Its length is shared linearly between the two nearest orientations. Each orientation is summed around the
    centres of a grid of cells, under a Gaussian with σ = half a cell. The sums are raised to `power`, and the vector is
    divided by its length, so that neither brightness nor contrast counts. A constant image gives zeros.

    With power .5 the Euclidean distance is the Hellinger distance. A smaller power gives faint edges more weight.
    Values are by orientation, then by row of cells, then by column. Orientation o is a gradient, dark to light, that
    points 360° · o / orientations away from "to the right", clockwise on the screen: o = 2 of 8 is downwards.

    After Dalal and Triggs, Histograms of oriented gradients for human detection, CVPR 2005, with one norm for all.
    """
    size = x.shape[-2:]
    smooth = [_blur(n, x.device) for n in size]
    gather = [_cells(n, cells, x.device) for n in size]
    codes = []
    for part in in_parts(x, AT_ONCE, orientations * size.numel()):
        image = part.float()
        length, angle = _gradients(smooth[0] @ (image @ smooth[1].t()))
        length = (length - ROUNDING * image.abs().amax((1, 2, 3), keepdim=True)).clamp_min(0)
        planes = _shared(length, angle / (2 * math.pi) * orientations, orientations)
        codes.append((gather[0] @ (planes @ gather[1].t())).pow(power).flatten(1))
    codes = torch.cat(codes)
    norm = codes.norm(dim=1, keepdim=True)
    return codes / norm.where(norm > 0, 1)


def _gradients(image: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) → length and angle (−π to π) of the longest gradient of all channels, (B, 1, H, W) each."""
    padded = pad(image, (1, 1, 1, 1), mode="replicate")
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    length = (across.square() + down.square()).sqrt()
    if length.shape[1] == 1:
        return length, torch.atan2(down, across)
    length, channel = length.max(1, keepdim=True)
    return length, torch.atan2(down.gather(1, channel), across.gather(1, channel))


def _shared(length: Tensor, orientation: Tensor, orientations: int) -> Tensor:
    """Lengths (B, 1, H, W) shared between the two bins next to `orientation` (B, 1, H, W): (B, orientations, H, W).

    `orientation` is a real number, from minus half their number to half of it.
    """
    lower = orientation.floor()
    share = (orientation - lower) * length
    lower = torch.where(lower < 0, lower + orientations, lower).long()  # much faster than a remainder of integers
    upper = torch.where(lower == orientations - 1, 0, lower + 1)
    planes = length.new_zeros(length.shape[0], orientations, *length.shape[2:])
    planes.scatter_(1, lower, length - share)
    return planes.scatter_add_(1, upper, share)


@lru_cache(maxsize=32)
def _blur(n: int, device: torch.device) -> Tensor:
    """(n, n) weights that blur a side of n pixels."""
    return _gaussians(torch.arange(n, device=device), n, BLUR * n)


@lru_cache(maxsize=32)
def _cells(n: int, cells: int, device: torch.device) -> Tensor:
    """(cells, n) weights that add a side of n pixels up around the centres of cells."""
    centres = (torch.arange(cells, device=device) + 0.5) / cells
    return _gaussians(centres * n - 0.5, n, n / cells / 2)


def _gaussians(centre: Tensor, n: int, sigma: float) -> Tensor:
    """(M, n) float32 weights over pixels 0 … n − 1 around centres (M,), adding up to 1 each."""
    apart = torch.arange(n, dtype=torch.float32, device=centre.device) - centre[:, None]
    weights = (-0.5 * (apart / sigma).square()).exp()
    return weights / weights.sum(1, keepdim=True)
