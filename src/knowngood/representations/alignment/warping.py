"""The transform between an image and a reference, and resampling there and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from knowngood.data.pose.geometry import Floats, Quality, Size, inverse
from knowngood.errors import DataError


@dataclass(frozen=True, eq=False)
class Transform:
    """The affine map from the pixels of a reference to those of an image of the same size.

    matrix: (2, 3), (x', y') = matrix · (x, y, 1) takes reference coordinates to image coordinates; x is the column, y
        the row, in pixels, and (0, 0) is the centre of the upper left one.
    size: (H, W) of both.
    quality: correlation with the reference before and after alignment.
    accepted: false if the image could not be aligned. `reason` then says why, and `matrix` is the identity.
    """

    matrix: Floats
    size: Size
    quality: Quality
    accepted: bool = True
    reason: str = ""

    @property
    def identity(self) -> bool:
        return bool((self.matrix == np.eye(2, 3)).all())

    @property
    def centred(self) -> Floats:
        """(2, 3) the same with both origins in the middle of the image."""
        return _about(self.matrix, -_middle(self.size))


def from_centred(centred: Floats, size: Size) -> Floats:
    """(2, 3) about the middle of an image of `size` → (2, 3) about its upper left pixel."""
    return _about(centred, _middle(size))


def rotation_of(matrix: Floats) -> float:
    return math.degrees(math.atan2(matrix[0, 1] - matrix[1, 0], matrix[0, 0] + matrix[1, 1]))


def compose(outer: Floats, inner: Floats) -> Floats:
    """(2, 3) of `inner` first, then `outer`."""
    return np.column_stack((outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2] + outer[:, 2]))


def warp(image: np.ndarray, transform: Transform) -> np.ndarray:
    """The image (H, W, C) warped to the reference, (H, W, C) of the same dtype.

    Bilinear; integers are rounded; the edge is repeated beyond the image. By the identity it is the image, not a copy.

    Raises:
        DataError: the image is not (H, W, C) of the transform's size.
    """
    if image.ndim != 3 or image.shape[:2] != transform.size:
        raise DataError(f"an image to warp has shape {image.shape}; expected {(*transform.size, 'channels')}")
    if transform.identity:
        return image
    single = image.dtype == np.float32 or image.dtype.itemsize <= 2
    planes = torch.from_numpy(image.astype(np.float32 if single else np.float64).transpose(2, 0, 1)[None])
    warped, _ = sample(planes, transform.centred, transform.size, transform.size)
    values = warped[0].permute(1, 2, 0).numpy()
    if image.dtype.kind != "f":
        values = values.round()
    return np.ascontiguousarray(values.astype(image.dtype, copy=False))


def unwarp(map: np.ndarray, transform: Transform, shape: tuple[int, ...]) -> np.ndarray:
    """A map (h, w) over the reference → the map over the image, of `shape` (h', w', …), float32.

    The map and the result may be coarser or finer than the image: they cover all of it. Bilinear; 0 where the image
    shows what the reference does not.

    Raises:
        DataError: the map is not (h, w).
    """
    if map.ndim != 2:
        raise DataError(f"a map to unwarp has shape {map.shape}; expected (height, width)")
    out = (int(shape[0]), int(shape[1]))
    values = torch.from_numpy(np.array(map, dtype=np.float32))
    if transform.identity and values.shape == out:
        return values.numpy()
    back, grid = sample(values[None, None], inverse(transform.centred), transform.size, out)
    return (back * (grid.abs() <= 1).all(dim=3))[0, 0].numpy()


def sample(planes: Tensor, centred: Floats, size: Size, out: Size) -> tuple[Tensor, Tensor]:
    """Planes (1, C, h, w) sampled at a transform (2, 3) → (1, C, *out), and the sampling positions (1, *out, 2).

    The transform is in pixels of an image of `size` about its middle. Positions are (x, y), −1 and 1 at the outer edges
    of the planes, so neither their resolution nor that of the result matters. Bilinear, edges repeated.
    """
    half = np.array([size[1] / 2, size[0] / 2])
    relative = np.column_stack((centred[:, :2] * half, centred[:, 2])) / half[:, None]
    grid = affine_grid(torch.from_numpy(relative[None]).to(planes.dtype), [1, 1, *out], align_corners=False)
    return grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False), grid


def _about(matrix: Floats, middle: Floats) -> Floats:
    """The transform with both origins moved by −middle."""
    moved = matrix.copy()
    moved[:, 2] += middle - matrix[:, :2] @ middle
    return moved


def _middle(size: Size) -> Floats:
    return np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
