"""Pose normalisation: parts that lie anywhere, in any direction, are brought to one position, direction and crop.

The part is what differs from the colour of the picture's border. Its centre is that of this foreground. Its direction
is the rotation at which it correlates best with the mean normal part, so that head and tail are told apart by what the
part looks like, and a symmetric part is brought to any of its equal directions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PrivateAttr
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from knowngood.data.imageset import ImageSet
from knowngood.data.pixel_source import PixelSource
from knowngood.data.progress import track
from knowngood.errors import ArtifactError, DataError
from knowngood.representations.alignment.warping import Floats, Quality, Size, inverse, rotation

SEEN = 192  # pixels of the longer side at which the foreground is looked for
PROBED = 64  # normal images that the pose is learned from
BORDER = 0.03  # width of the border whose colour is the background's, a share of the side
LEAST_AREA, LARGEST_AREA = 0.005, 0.75  # of the picture that a part covers
TOUCHES = 0.02  # of the border that a part may cover
CONTRAST = 0.04  # of the range of values by which a part differs from the background, at least
NOISES = 4.0  # spreads of the background, likewise
FOUND = 0.9  # of the normal images that must show a part
ALONE = 0.7  # of all that stands out, which one part is; below, pictures show several
ALIKE = 0.35  # coefficient of variation of the parts' areas, at most
IN_PLACE = 0.93  # correlation of images with the mean of the others from which nothing has to be normalised
GAIN = 0.05  # correlation with the mean image that normalisation must gain
FLOOR = 0.5  # share of the normal parts' median correlation from which an image shows such a part
MARGIN = 1.12  # of the crop, times the part
SIDE = 128  # pixels of the square in which parts are compared
TURNS, RINGS = 360, 48  # of its polar form
CANDIDATES = 3  # rotations that are followed up
APART = 15  # degrees between two of them
NEAR = 6  # degrees within which a rotation is refined
ANY = 120  # degrees: where the directions of normal parts lie in a smaller arc, others are not looked for
SLACK = 10  # degrees added to the arc at both ends
REACH = 0.15  # of the square's side, within which the centre is refined
ROUNDS = 2  # in which the mean part is learned
ENLARGED = 3.0  # a part is enlarged by no more
MULTIPLE = 32  # of which the sides of the crop are multiples
NO_PART = "no part stands out against the background"
OTHER = "what stands out does not look like the normal parts"


@dataclass(frozen=True, eq=False)
class Posed:
    """Where the normalised picture lies in an image.

    matrix: (2, 3), takes (x, y, 1) in pixels of the normalised picture to pixels of the image, x the column, y the row,
        (0, 0) the centre of the upper left one.
    size: (H, W) of the normalised picture.
    quality: correlation with the mean normal part, as found and after the search.
    accepted: whether a part like the normal ones was found; if not, `reason` says what there was instead, and the
        matrix is the best guess.
    """

    matrix: Floats
    size: Size
    quality: Quality
    accepted: bool = True
    reason: str = ""
    identity: bool = False


class Foreground(NamedTuple):
    """What stands out of a picture: the distance of every pixel from the background's colour, and the part.

    plane: (h, w) float32 of the picture at `scale` (its pixels per plane pixel). centre (x, y), radius and area of the
    largest connected part, in pixels of the picture; area 0 if there is none. mask: (h, w) the part. share: of all that
    stands out, the part's.
    """

    plane: NDArray[np.float32]
    scale: float
    centre: Floats
    radius: float
    area: float
    mask: NDArray[np.bool_]
    share: float = 0.0


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
    _mean: NDArray[np.float32] | None = PrivateAttr(default=None)

    @classmethod
    def fit(cls, images: ImageSet, *, area: int, needed: bool = True) -> Self | None:
        """From normal images; at most 64 are read.

        Args:
            area: pixels of the normalised picture, about.
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
        start = _square(first, first.centre, _main_axis(first), half)
        draft = cls(size=(1, 1), scale=1.0, half=half, offset=(0.0, 0.0), floor=0.0, images=len(parts))
        draft._mean = _standard(start)
        found: list[_Match] = []
        for _ in range(ROUNDS):
            found = [draft._match(one) for one in track(parts, "positions of parts", len(parts))]
            kept = [match for match in found if match.after >= FLOOR * np.median([m.after for m in found])]
            draft._mean = _standard(np.mean([match.square for match in kept], axis=0))
        if not needed and _agreement([match.square for match in found]) < as_they_lie + GAIN:
            return None
        masks = [_square(one._replace(plane=one.mask.astype(np.float32)), m.centre, m.turn, half) for one, m in
                 zip(parts, found, strict=True)]  # fmt: skip
        rows, columns = (np.flatnonzero(np.max(masks, axis=0).max(axis=axis) > 0.5) for axis in (1, 0))
        step = 2 * half / SIDE
        height, width = (MARGIN * step * (at[-1] - at[0] + 1) for at in (rows, columns))
        middle = [(at[0] + at[-1] + 1) / 2 * step - half for at in (columns, rows)]
        size = crop_size(height, width, area)
        fitted = draft.model_copy(
            update={
                "size": size,
                "scale": max(height / size[0], width / size[1]),
                "offset": (float(middle[0]), float(middle[1])),
                "turns": _arc([match.turn for match in found]),
                "floor": FLOOR * float(np.median([match.after for match in found])),
            }
        )
        fitted._mean = draft._mean
        return fitted

    def locate(self, image: np.ndarray) -> Posed:
        """Where the part of an image (h, w, C) lies. Of one without a part the middle is taken, as it stands."""
        seen = foreground(image)
        if not seen.area:
            height, width = image.shape[:2]
            match = _Match(np.array([(width - 1) / 2, (height - 1) / 2]), 0.0, -1.0, -1.0, seen.plane)
        else:
            match = self._match(seen)
        reason = NO_PART if not seen.area else OTHER if match.after < self.floor else ""
        turn = rotation(-match.turn)
        middle = np.array([(self.size[1] - 1) / 2, (self.size[0] - 1) / 2])
        shift = match.centre + turn @ (np.array(self.offset) - self.scale * middle)
        matrix = np.column_stack((self.scale * turn, shift))
        return Posed(matrix, self.size, Quality(match.before, match.after), not reason, reason)

    def normalised(self, image: np.ndarray, posed: Posed) -> np.ndarray:
        """The normalised picture (H, W, C) of an image (h, w, C), in its dtype; its edge is repeated beyond it."""
        single = image.dtype == np.float32 or image.dtype.itemsize <= 2
        planes = torch.from_numpy(image.astype(np.float32 if single else np.float64).transpose(2, 0, 1)[None])
        if self.scale > 1:  # antialiased
            fewer = [max(1, round(side / self.scale)) for side in image.shape[:2]]
            planes = interpolate(planes, size=fewer, mode="bilinear", align_corners=False, antialias=True)
        values = _sampled(planes, posed.matrix, image.shape[:2], self.size)[0].permute(1, 2, 0).numpy()
        if image.dtype.kind != "f":
            values = values.round()
        return np.ascontiguousarray(values.astype(image.dtype, copy=False))

    def state(self) -> dict[str, Tensor]:
        """The mean part (S, S) float32."""
        assert self._mean is not None
        return {"mean": torch.from_numpy(self._mean)}

    def with_state(self, tensors: Mapping[str, Tensor]) -> Self:
        """A copy with the mean part that `state` gave. Raises ArtifactError: it is missing, or of another shape."""
        mean = tensors.get("mean")
        if mean is None or tuple(mean.shape) != (SIDE, SIDE):
            raise ArtifactError(f"pose: expected a mean part of shape {(SIDE, SIDE)}; the model is damaged")
        copy = self.model_copy()
        copy._mean = mean.detach().cpu().float().numpy()
        return copy

    def _match(self, seen: Foreground) -> _Match:
        """Centre and rotation at which a part correlates best with the mean part."""
        mean = self._mean
        assert mean is not None
        turns = _spectrum(mean)
        middle, reach = self.turns
        looked_for = _distance(np.arange(TURNS) * 360 / TURNS, middle) <= reach

        def tried(centre: Floats, turn: float) -> _Match:
            square = _square(seen, centre, turn, self.half)
            before = _correlation(square, mean)
            moved = centre + rotation(-turn) @ (_shift(square, mean) * 2 * self.half / SIDE)
            square = _square(seen, moved, turn, self.half)
            return _Match(moved, turn, before, _correlation(square, mean), square)

        likely = _turns(_square(seen, seen.centre, 0.0, self.half), turns)
        likely = np.where(looked_for, likely, -np.inf)
        best = max((tried(seen.centre, turn) for turn in _peaks(likely)), key=lambda match: match.after)
        fine = _turns(_square(seen, best.centre, best.turn, self.half), turns)
        nearest = _distance(np.arange(TURNS) * 360 / TURNS, 0.0) <= NEAR
        better = tried(best.centre, best.turn + _peak(np.where(nearest, fine, -np.inf)))
        return max(best, better, key=lambda match: match.after)._replace(before=best.before)


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


class _Match(NamedTuple):
    centre: Floats  # (x, y) in pixels of the image
    turn: float  # degrees, from the mean part to the image
    before: float
    after: float  # correlations
    square: NDArray[np.float32]


def foreground(image: np.ndarray) -> Foreground:
    """What stands out of an image (h, w, C) of any number type against the colour of its border."""
    height, width = image.shape[:2]
    scale = max(1.0, max(height, width) / SEEN)
    planes = torch.from_numpy(image.astype(np.float32).transpose(2, 0, 1)[None])
    if scale > 1:
        fewer = [max(1, round(side / scale)) for side in (height, width)]
        planes = interpolate(planes, size=fewer, mode="bilinear", align_corners=False, antialias=True)
    small = planes[0].numpy()
    wide = max(1, round(BORDER * min(small.shape[1:])))
    border = np.ones(small.shape[1:], bool)
    border[wide:-wide, wide:-wide] = False
    away = np.sqrt(np.square(small - np.median(small[:, border], axis=1)[:, None, None]).sum(axis=0))
    away = np.asarray(ndimage.gaussian_filter(away, 0.7), np.float32)
    least = max(CONTRAST * float(small.max() - small.min()), NOISES * 1.4826 * float(np.median(away[border])))
    mask = ndimage.binary_opening(away > max(least, _otsu(away)))
    mask = np.asarray(ndimage.binary_fill_holes(mask), bool)
    labelled: Any = ndimage.label(mask)
    parts = labelled[0]
    nothing = Foreground(away, scale, np.zeros(2), 0.0, 0.0, mask)
    if not parts.any():
        return nothing
    areas = np.bincount(parts.ravel())[1:]
    mask = parts == 1 + areas.argmax()
    share = mask.mean()
    edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    if not LEAST_AREA <= share <= LARGEST_AREA or edge.mean() > TOUCHES:
        return nothing
    y, x = np.nonzero(mask)
    steps = np.array([width / mask.shape[1], height / mask.shape[0]])
    at = (np.column_stack([x, y]) + 0.5) * steps - 0.5
    centre = at.mean(axis=0)
    radius = float(np.quantile(np.hypot(*(at - centre).T), 0.995))
    alone = float(areas.max() / areas.sum())
    return Foreground(away, scale, centre, radius, float(share * height * width), mask, alone)


def crop_size(height: float, width: float, area: int, enlarged: float = ENLARGED) -> Size:
    """(H, W) of about `area` pixels with the aspect of (height, width), multiples of 32; enlarged by 3 at most."""
    factor = min(math.sqrt(area / (height * width)), enlarged)
    rounded = [max(MULTIPLE, round(side * factor / MULTIPLE) * MULTIPLE) for side in (height, width)]
    return rounded[0], rounded[1]


def unposed(map: np.ndarray, posed: Posed, shape: Size) -> NDArray[np.float32]:
    """A map (H, W) over the normalised picture → over the image, of `shape` (h, w); 0 outside of the picture."""
    values = torch.from_numpy(np.array(map, dtype=np.float32))
    back = inverse(posed.matrix)
    inside = _sampled(torch.ones(1, 1, *posed.size), back, posed.size, shape, padding="zeros")
    moved = _sampled(values[None, None], back, posed.size, shape)
    return (moved * (inside > 0.5))[0, 0].numpy()


def _sampled(planes: Tensor, matrix: Floats, size: tuple[int, ...], out: Size, padding: str = "border") -> Tensor:
    """Planes (1, C, ·, ·) of a picture of `size` at `matrix`, from pixels of `out` to those of the picture."""
    rows, columns = (np.arange(n) for n in out)
    x, y = (row[0] * columns + (row[1] * rows + row[2])[:, None] for row in matrix)
    grid = np.stack([(2 * x + 1) / size[1] - 1, (2 * y + 1) / size[0] - 1], axis=2)
    at = torch.from_numpy(grid[None]).to(planes.dtype)
    return grid_sample(planes, at, mode="bilinear", padding_mode=padding, align_corners=False)


def _square(seen: Foreground, centre: Floats, turn: float, half: float) -> NDArray[np.float32]:
    """(S, S) of the plane about a centre, at a rotation."""
    step = 2 * half / SIDE
    linear = step * rotation(-turn)
    middle = (SIDE - 1) / 2
    matrix = np.column_stack((linear, centre - linear @ np.array([middle, middle])))
    height, width = seen.plane.shape
    # From pixels of the image to those of the plane.
    matrix = matrix / seen.scale
    matrix[:, 2] += 0.5 / seen.scale - 0.5
    planes = torch.from_numpy(np.ascontiguousarray(seen.plane))[None, None]
    return _sampled(planes, matrix, (height, width), (SIDE, SIDE))[0, 0].numpy()


def _polar(square: NDArray[np.float32]) -> NDArray[np.float32]:
    """(RINGS, TURNS) of a square: each ring weighted by its length."""
    angle = np.deg2rad(np.arange(TURNS) * 360 / TURNS)
    radius = (np.arange(RINGS) + 0.5) / RINGS * SIDE / 2
    middle = (SIDE - 1) / 2
    at = [middle + radius[:, None] * wave(angle) for wave in (np.sin, np.cos)]
    rings = ndimage.map_coordinates(square, at, order=1, mode="nearest")
    return (rings - rings.mean(axis=1, keepdims=True)) * np.sqrt(radius)[:, None]


def _spectrum(square: NDArray[np.float32]) -> NDArray[np.complex128]:
    return np.fft.rfft(_polar(square), axis=1)


def _turns(square: NDArray[np.float32], mean: NDArray[np.complex128]) -> Floats:
    """(TURNS,) correlation with the mean part of this spectrum of the square turned back by each angle."""
    return np.fft.irfft((_spectrum(square) * mean.conj()).sum(axis=0), n=TURNS)


def _peaks(values: Floats) -> Iterator[float]:
    """Degrees of the largest values, some apart from each other."""
    rest = values.copy()
    for _ in range(CANDIDATES):
        yield _peak(rest)
        near = (int(rest.argmax()) + np.arange(-APART, APART + 1)) % TURNS
        rest[near] = -np.inf
        if not np.isfinite(rest.max()):
            return


def _distance(degrees: Floats, other: float) -> Floats:
    """0 to 180: between directions."""
    return np.abs((degrees - other + 180) % 360 - 180)


def _arc(turns: list[float]) -> tuple[float, float]:
    """Middle and half the width, in degrees, of the smallest arc with all directions; all of 360° where it is wide."""
    order = np.sort(np.mod(turns, 360))
    gaps = np.diff(np.append(order, order[0] + 360))
    wide = 360 - float(gaps.max())
    if wide > ANY:
        return 0.0, 180.0
    start = float(order[(int(gaps.argmax()) + 1) % len(order)])
    return (start + wide / 2) % 360, wide / 2 + SLACK


def _peak(values: Floats) -> float:
    """Degrees at which a cyclic function is largest, by a parabola through three values."""
    at = int(values.argmax())
    before, here, after = values[at - 1], values[at], values[(at + 1) % len(values)]
    bend = before - 2 * here + after
    part = 0.5 * (before - after) / bend if np.isfinite(bend) and bend < 0 else 0.0
    return (at + part) * 360 / len(values)


def _shift(square: NDArray[np.float32], mean: NDArray[np.float32]) -> Floats:
    """(x, y) in pixels of the square by which it lies off the mean part, by cross-correlation."""
    product = np.fft.rfft2(square - square.mean()) * np.fft.rfft2(mean).conj()
    values = np.fft.fftshift(np.fft.irfft2(product, s=square.shape))
    middle, reach = SIDE // 2, round(REACH * SIDE)
    near = values[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
    row, column = np.unravel_index(int(near.argmax()), near.shape)

    def fine(line: Floats, at: int) -> float:
        if not 0 < at < len(line) - 1:
            return float(at)
        bend = line[at - 1] - 2 * line[at] + line[at + 1]
        return at + (0.5 * (line[at - 1] - line[at + 1]) / bend if bend < 0 else 0.0)

    return np.array([fine(near[row], int(column)) - reach, fine(near[:, column], int(row)) - reach])


def _main_axis(seen: Foreground) -> float:
    """Degrees by which the main axis of the part is turned from the horizontal."""
    y, x = np.nonzero(seen.mask)
    spread = np.cov(np.stack([x, y]))
    _, axes = np.linalg.eigh(spread)
    return math.degrees(math.atan2(axes[1, 1], axes[0, 1]))


def _otsu(values: NDArray[Any]) -> float:
    """The threshold that separates two classes best (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=128)
    at = (edges[:-1] + edges[1:]) / 2
    below, above = counts.cumsum(), counts.sum() - counts.cumsum()
    sums = (counts * at).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * np.square(sums / below - (sums[-1] - sums) / above)
    return float(at[int(np.nan_to_num(between).argmax())])


def _standard(square: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = square - square.mean()
    return (centred / max(float(centred.std()), 1e-12)).astype(np.float32)


def _correlation(square: NDArray[np.float32], mean: NDArray[np.float32]) -> float:
    """Of a square with the mean part, which has mean 0 and variance 1."""
    centred = square - square.mean()
    return float((centred * mean).mean() / max(float(centred.std()), 1e-12))


def _whole(seen: list[Foreground]) -> list[NDArray[np.float32]]:
    """The whole pictures as squares."""
    scaled = (ndimage.zoom(one.plane, [SIDE / side for side in one.plane.shape], order=1) for one in seen)
    return [np.asarray(one, np.float32) for one in scaled]


def _agreement(squares: list[NDArray[np.float32]]) -> float:
    """Mean correlation of each square with the mean of the others."""
    standard = np.stack([_standard(square) for square in squares])
    others = (standard.sum(axis=0) - standard) / max(1, len(squares) - 1)
    return float(np.mean([_correlation(one, _standard(rest)) for one, rest in zip(standard, others, strict=True)]))
