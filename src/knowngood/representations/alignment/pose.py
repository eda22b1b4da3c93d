"""Pose normalisation: parts that lie anywhere, in any direction, are brought to one position, direction and crop.

What is learned of normal images, for `knowngood.data.pose`, which finds parts without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PrivateAttr
from scipy import ndimage
from torch import Tensor

from knowngood.data.imageset import ImageSet
from knowngood.data.pixel_source import PixelSource
from knowngood.data.pose.foreground import Foreground, foreground
from knowngood.data.pose.geometry import Size
from knowngood.data.pose.part import PLANES, SIDE, Match, NormalPart, Posed, correlation, part_square, standard
from knowngood.data.progress import track
from knowngood.errors import ArtifactError, DataError

PROBED = 64  # normal images that the pose is learned from
FOUND = 0.9  # of the normal images that must show a part
ALONE = 0.7  # of all that stands out, which one part is; below, pictures show several
ALIKE = 0.35  # coefficient of variation of the parts' areas, at most
IN_PLACE = 0.93  # correlation of images with the mean of the others from which nothing has to be normalised
GAIN = 0.05  # correlation with the mean image that normalisation must gain
FLOOR = 0.5  # share of the normal parts' median correlation from which an image shows such a part
MARGIN = 1.12  # of the crop, times the part
TURNED = 1.4  # times as far from alike are parts that must be turned, if they are not; else it is noise that turns them
ANY = 120  # degrees: where the directions of normal parts lie in a smaller arc, others are not looked for
SLACK = 10  # degrees added to the arc at both ends
ROUNDS = 2  # in which the mean part is learned
ENLARGED = 3.0  # a part is enlarged by no more
LEAST_AREA, MOST_AREA = 384 * 384, 512 * 512  # pixels of a resized image, about
MULTIPLE = 32  # of which the sides of the crop are multiples


class Pose(BaseModel):
    """The mean normal part, to whose position and direction parts are brought. Fitted once; plain JSON and a tensor.

    size: (H, W) of the normalised picture. scale: pixels of the image per pixel of it. half: half the side, in pixels
        of the image, of the square in which parts are compared. turns: middle and half the width, in degrees, of the
        arc of directions that are looked for; normal parts lie in it, and one that does not is anomalous. offset:
        (x, y) from the part's centre to that of the crop, in pixels of the image. floor: correlation from which an
        image shows such a part. images: learned from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: Size
    scale: float
    half: float
    offset: tuple[float, float]
    floor: float
    images: int
    turns: tuple[float, float] = (0.0, 180.0)
    _part: NormalPart | None = PrivateAttr(default=None)

    @classmethod
    def fit(cls, images: ImageSet, *, area: int | None = None, needed: bool = True) -> Self | None:
        """From normal images; at most 64 are read.

        Args:
            area: pixels of the normalised picture, about; None: by `area_for`.
            needed: refuse pictures without a part; else None of such pictures, of pictures of several parts, of which
                one crop would show one, and of parts that lie in one position already, that is where normalised ones
                are not more alike.

        Raises:
            DataError: an image cannot be read; with `needed`, too few images show one part on a plain background.
        """
        index = np.unique(np.linspace(0, len(images) - 1, PROBED).astype(int))
        seen = [foreground(images.read(int(i))) for i in track(index, "looking for parts", len(index))]
        as_they_lie = 0.0 if needed else _agreement(_whole(seen))
        if as_they_lie >= IN_PLACE:
            return None
        parts = [one for one in seen if one.area]
        areas = np.array([one.area for one in parts])
        if len(parts) < FOUND * len(seen) or areas.std() > ALIKE * areas.mean():
            if needed:
                raise DataError(
                    f"{images.name}: align = 'pose' needs one part of the same kind on a plain background; "
                    f"{len(parts)} of {len(seen)} normal images show one. Take another align, or 'none'"
                )
            return None
        if not needed and np.median([one.share for one in parts]) < ALONE:
            return None
        half = MARGIN * float(np.quantile([one.radius for one in parts], 0.95))
        first = parts[int(np.abs(areas - np.median(areas)).argmin())]
        part, found = _learned(parts, half, first, _along(first), 180.0)
        apart = TURNED * (1 - _alike(found))
        for reach in (0.0, SLACK):  # the least turning that makes parts alike
            less, there = _learned(parts, half, first, 0.0, reach)
            if 1 - _alike(there) < apart:
                part, found = less, there
                break
        if not needed and _alike(found) < as_they_lie + GAIN:
            return None
        seen = [one._replace(planes=one.mask[None].astype(np.float32)) for one in parts]
        masks = [part_square(one, m.centre, m.turn, half)[0] for one, m in zip(seen, found, strict=True)]
        rows, columns = (np.flatnonzero(np.max(masks, axis=0).max(axis=axis) > 0.5) for axis in (1, 0))
        step = 2 * half / SIDE
        height, width = (float(MARGIN * step * (at[-1] - at[0] + 1)) for at in (rows, columns))
        middle = [(at[0] + at[-1] + 1) / 2 * step - half for at in (columns, rows)]
        size = crop_size(height, width, area_for(height * width) if area is None else area)
        fitted = cls(
            size=size,
            scale=max(height / size[0], width / size[1]),
            half=half,
            offset=(float(middle[0]), float(middle[1])),
            floor=FLOOR * float(np.median([match.after for match in found])),
            images=len(parts),
            turns=_arc([match.turn for match in found]) if part.turns[1] else part.turns,
        )
        return fitted._with(part.mean)

    @property
    def part(self) -> NormalPart:
        """What locates parts and brings them to the pose."""
        assert self._part is not None
        return self._part

    def locate(self, image: np.ndarray) -> Posed:
        """Where the part of an image (h, w, C) lies. Of one without a part the middle is taken, as it stands."""
        return self.part.locate(image)

    def normalised(self, image: np.ndarray, posed: Posed) -> np.ndarray:
        """The normalised picture (H, W, C) of an image (h, w, C), in its dtype; its edge is repeated beyond it."""
        return self.part.normalised(image, posed)

    def state(self) -> dict[str, Tensor]:
        """The mean part (2, S, S) float32."""
        return {"mean": torch.from_numpy(self.part.mean)}

    def with_state(self, tensors: Mapping[str, Tensor]) -> Self:
        """A copy with the mean part that `state` gave. Raises ArtifactError: it is missing, or of another shape."""
        mean = tensors.get("mean")
        if mean is None or tuple(mean.shape) != (PLANES, SIDE, SIDE):
            raise ArtifactError(f"pose: expected a mean part of shape {(PLANES, SIDE, SIDE)}; the model is damaged")
        return self._with(mean.detach().cpu().float().numpy())

    def _with(self, mean: NDArray[np.float32]) -> Self:
        copy = self.model_copy()
        copy._part = NormalPart(self.size, self.scale, self.half, self.offset, self.floor, self.turns, mean)
        return copy


class PosedPixels:
    """A `PixelSource` of normalised pictures. `found`: where the part lay in each image read so far."""

    def __init__(self, base: PixelSource, pose: Pose) -> None:
        self.base, self.pose = base, pose
        self.found: dict[int, Posed] = {}

    def __len__(self) -> int:
        return len(self.base)

    def read(self, i: int) -> np.ndarray:
        """Picture i: (H, W, C), native dtype."""
        image = self.base.read(i)
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            return image  # which is refused for that where it is prepared
        self.found[i] = self.pose.locate(image)
        return self.pose.normalised(image, self.found[i])

    def take(self, indices: np.ndarray) -> PosedPixels:
        """The pictures at `indices` (M,), in that order."""
        return PosedPixels(self.base.take(indices), self.pose)

    def shapes(self) -> np.ndarray:
        """(N, 3) int64: height, width, channels."""
        shapes = self.base.shapes().copy()
        shapes[:, :2] = self.pose.size
        return shapes

    def update(self, digest: Any) -> None:
        """Feed the content of the images to a hashlib object."""
        self.base.update(digest)


def area_for(pixels: float) -> int:
    """Of images of so many pixels those that they are resized to, if no image_size is given: their own within limits.

    Small images are enlarged, for a finer grid of locations; large ones are reduced, since costs grow with the area.
    """
    return int(min(max(pixels, LEAST_AREA), MOST_AREA))


def crop_size(height: float, width: float, area: int, enlarged: float = ENLARGED) -> Size:
    """(H, W) of about `area` pixels with the aspect of (height, width), multiples of 32; enlarged by 3 at most."""
    factor = min(math.sqrt(area / (height * width)), enlarged)
    rounded = [max(MULTIPLE, round(side * factor / MULTIPLE) * MULTIPLE) for side in (height, width)]
    return rounded[0], rounded[1]


def _arc(turns: list[float]) -> tuple[float, float]:
    """Middle and half the width, in degrees, of the smallest arc with all directions; all of 360° where it is wide."""
    order = np.sort(np.mod(turns, 360))
    gaps = np.diff(np.append(order, order[0] + 360))
    wide = 360 - float(gaps.max())
    if wide > ANY:
        return 0.0, 180.0
    start = float(order[(int(gaps.argmax()) + 1) % len(order)])
    return (start + wide / 2) % 360, wide / 2 + SLACK


def _learned(
    parts: list[Foreground], half: float, first: Foreground, turn: float, reach: float
) -> tuple[NormalPart, list[Match]]:
    """The mean part, beginning with one of them, and where parts match it, turned by up to `reach` degrees."""
    start = part_square(first, first.centre, turn, half)
    part = NormalPart((1, 1), 1.0, half, (0.0, 0.0), 0.0, (0.0, reach), standard(start))
    found: list[Match] = []
    for _ in range(ROUNDS):
        found = [part.match(one) for one in track(parts, "positions of parts", len(parts))]
        kept = [match for match in found if match.after >= FLOOR * np.median([m.after for m in found])]
        part = replace(part, mean=standard(np.mean([match.square for match in kept], axis=0)))
    return part, found


def _along(seen: Foreground) -> float:
    """Degrees by which the smallest rectangle around the part is turned, its longer side from the horizontal."""
    y, x = (values - values.mean() for values in np.nonzero(seen.mask))
    angle = np.deg2rad(np.arange(90))[:, None]
    cos, sin = np.cos(angle), np.sin(angle)
    wide, high = (np.ptp(along, axis=1) for along in (x * cos + y * sin, y * cos - x * sin))
    best = int((wide * high).argmin())
    return float(best if wide[best] >= high[best] else best + 90)


def _alike(found: list[Match]) -> float:
    return _agreement([match.square for match in found])


def _whole(seen: list[Foreground]) -> list[NDArray[np.float32]]:
    """The whole pictures as squares."""
    scaled = (ndimage.zoom(one.planes, [1, *(SIDE / side for side in one.planes.shape[1:])], order=1) for one in seen)
    return [np.asarray(one, np.float32) for one in scaled]


def _agreement(squares: list[NDArray[np.float32]]) -> float:
    """Mean correlation of each square with the mean of the others."""
    own = np.stack([standard(square) for square in squares])
    others = (own.sum(axis=0) - own) / max(1, len(squares) - 1)
    return float(np.mean([correlation(one, standard(rest)) for one, rest in zip(own, others, strict=True)]))
