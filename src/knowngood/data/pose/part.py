"""A part found in a picture, brought to the pose of the mean normal part, and maps brought back.

The part is what differs from the colour of the picture's border. Its centre is that of this foreground. Its direction
is the rotation at which it correlates best with the mean normal part, so that head and tail differ by what the part
looks like, and a symmetric part is brought to any of its equal directions.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from knowngood.data.pose.foreground import AT_BORDER, Foreground, foreground
from knowngood.data.pose.geometry import Floats, Quality, Size, inverse, laid, reduced, rotation, sampled

PLANES = 2  # of a foreground
SIDE = 128  # pixels of the square in which parts are compared
TURNS, RINGS = 360, 48  # of its polar form
CANDIDATES = 3  # rotations that are followed up
APART = 15  # degrees between two of them
NEAR = 6  # degrees within which a rotation is refined
REACH = 0.15  # of the square's side, within which the centre is refined
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


@dataclass(frozen=True, eq=False)
class NormalPart:
    """The mean normal part, and the pose that parts are brought to; see `Pose`, which fits it.

    mean: (2, S, S) float32, each plane of mean 0 and variance 1; see `Foreground`.
    """

    size: Size
    scale: float
    half: float
    offset: tuple[float, float]
    floor: float
    turns: tuple[float, float]
    mean: NDArray[np.float32]

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """Of plain data that `facts` gave. Raises ValueError, KeyError: damaged."""
        mean = np.frombuffer(base64.b64decode(facts["mean"]), "<f4").reshape(PLANES, SIDE, SIDE).copy()
        pairs = {name: tuple(facts[name]) for name in ("size", "offset", "turns")}
        return cls(**pairs, **{name: facts[name] for name in ("scale", "half", "floor")}, mean=mean)

    def facts(self) -> dict[str, Any]:
        """Plain data, with the mean as text."""
        mean = base64.b64encode(self.mean.astype("<f4").tobytes()).decode()
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"mean": mean}

    def locate(self, image: np.ndarray) -> Posed:
        """Where the part of an image (h, w, C) lies. Of one without a part the middle is taken, as it stands."""
        seen = foreground(image, AT_BORDER)
        if not seen.area:
            height, width = image.shape[:2]
            match = Match(np.array([(width - 1) / 2, (height - 1) / 2]), 0.0, -1.0, -1.0, seen.planes)
        else:
            match = self.match(seen)
        reason = NO_PART if not seen.area else OTHER if match.after < self.floor else ""
        turn = rotation(-match.turn)
        middle = np.array([(self.size[1] - 1) / 2, (self.size[0] - 1) / 2])
        shift = match.centre + turn @ (np.array(self.offset) - self.scale * middle)
        matrix = np.column_stack((self.scale * turn, shift))
        return Posed(matrix, self.size, Quality(match.before, match.after), not reason, reason)

    def normalised(self, image: np.ndarray, posed: Posed) -> np.ndarray:
        """The normalised picture (H, W, C) of an image (h, w, C), in its dtype; its edge is repeated beyond it."""
        single = image.dtype == np.float32 or image.dtype.itemsize <= 2
        planes = reduced(image.astype(np.float32 if single else np.float64).transpose(2, 0, 1), self.scale)
        values = sampled(planes, posed.matrix, (image.shape[0], image.shape[1]), self.size).transpose(1, 2, 0)
        if image.dtype.kind != "f":
            values = values.round()
        return np.ascontiguousarray(values.astype(image.dtype, copy=False))

    @cached_property
    def _spectra(self) -> tuple[NDArray[np.complexfloating], NDArray[np.complexfloating]]:
        """Of the mean: over directions, and in the plane."""
        return _spectrum(self.mean), np.fft.rfft2(self.mean)

    def match(self, seen: Foreground) -> Match:
        """Centre and rotation at which a part correlates best with the mean part."""
        mean, (turns, plane) = self.mean, self._spectra
        middle, reach = self.turns
        looked_for = distance(np.arange(TURNS) * 360 / TURNS, middle) <= reach

        def tried(centre: Floats, turn: float) -> Match:
            square = part_square(seen, centre, turn, self.half)
            before = correlation(square, mean)
            moved = centre + rotation(-turn) @ (_shift(square, plane) * 2 * self.half / SIDE)
            square = part_square(seen, moved, turn, self.half)
            return Match(moved, turn, before, correlation(square, mean), square)

        likely = _turns(part_square(seen, seen.centre, 0.0, self.half), turns)
        likely = np.where(looked_for, likely, -np.inf)
        best = max((tried(seen.centre, turn) for turn in _peaks(likely)), key=lambda match: match.after)
        fine = _turns(part_square(seen, best.centre, best.turn, self.half), turns)
        further = np.arange(TURNS) * 360 / TURNS
        nearest = (distance(further, 0.0) <= NEAR) & (distance(best.turn + further, middle) <= reach)
        better = tried(best.centre, best.turn + _peak(np.where(nearest, fine, -np.inf)))
        return max(best, better, key=lambda match: match.after)._replace(before=best.before)


class Match(NamedTuple):
    """Where a part correlates with the mean part, and the square (2, S, S) of the picture there."""

    centre: Floats  # (x, y) in pixels of the image
    turn: float  # degrees, from the mean part to the image
    before: float
    after: float  # correlations
    square: NDArray[np.float32]


def unposed(map: np.ndarray, posed: Posed, shape: Size) -> NDArray[np.float32]:
    """A map (H, W) over the normalised picture → over the image, of `shape` (h, w); its least value outside of it."""
    values = np.asarray(map, np.float32)
    lowest = np.fmin.reduce(values, axis=None)
    return laid(values - lowest, inverse(posed.matrix), shape) + lowest


def part_square(seen: Foreground, centre: Floats, turn: float, half: float) -> NDArray[np.float32]:
    """(2, S, S) of the planes about a centre, at a rotation."""
    step = 2 * half / SIDE
    linear = step * rotation(-turn)
    middle = (SIDE - 1) / 2
    matrix = np.column_stack((linear, centre - linear @ np.array([middle, middle])))
    # From pixels of the image to those of the plane.
    matrix = matrix / seen.scale
    matrix[:, 2] += 0.5 / seen.scale - 0.5
    height, width = seen.planes.shape[1:]
    return sampled(seen.planes, matrix, (height, width), (SIDE, SIDE))


def _polar(square: NDArray[np.float32]) -> NDArray[np.float32]:
    """(2, RINGS, TURNS) of a square: each ring weighted by its length, each plane of variance 1."""
    angle = np.deg2rad(np.arange(TURNS) * 360 / TURNS)
    radius = (np.arange(RINGS) + 0.5) / RINGS * SIDE / 2
    middle = (SIDE - 1) / 2
    at = [middle + radius[:, None] * wave(angle) for wave in (np.sin, np.cos)]
    rings = np.stack([ndimage.map_coordinates(plane, at, order=1, mode="nearest") for plane in standard(square)])
    return (rings - rings.mean(axis=2, keepdims=True)) * np.sqrt(radius)[:, None]


def _spectrum(square: NDArray[np.float32]) -> NDArray[np.complexfloating]:
    return np.fft.rfft(_polar(square), axis=2)


def _turns(square: NDArray[np.float32], mean: NDArray[np.complexfloating]) -> Floats:
    """(TURNS,) correlation with the mean part of this spectrum of the square turned back by each angle."""
    return np.fft.irfft((_spectrum(square) * mean.conj()).sum(axis=(0, 1)), n=TURNS)


def _peaks(values: Floats) -> Iterator[float]:
    """Degrees of the largest values, some apart from each other."""
    rest = values.copy()
    for _ in range(CANDIDATES):
        yield _peak(rest)
        near = (int(rest.argmax()) + np.arange(-APART, APART + 1)) % TURNS
        rest[near] = -np.inf
        if not np.isfinite(rest.max()):
            return


def distance(degrees: Floats, other: float) -> Floats:
    """0 to 180: between directions."""
    return np.abs((degrees - other + 180) % 360 - 180)


def _peak(values: Floats) -> float:
    """Degrees at which a cyclic function is largest, by a parabola through three values."""
    at = int(values.argmax())
    before, here, after = values[at - 1], values[at], values[(at + 1) % len(values)]
    bend = before - 2 * here + after
    part = 0.5 * (before - after) / bend if np.isfinite(bend) and bend < 0 else 0.0
    return (at + part) * 360 / len(values)


def _shift(square: NDArray[np.float32], mean: NDArray[np.complexfloating]) -> Floats:
    """(x, y) in pixels of the square by which it lies off the mean part of this spectrum, by cross-correlation."""
    product = (np.fft.rfft2(standard(square)) * mean.conj()).sum(axis=0)
    values = np.fft.fftshift(np.fft.irfft2(product, s=square.shape[1:]))
    middle, reach = SIDE // 2, round(REACH * SIDE)
    near = values[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
    row, column = np.unravel_index(int(near.argmax()), near.shape)

    def fine(line: Floats, at: int) -> float:
        if not 0 < at < len(line) - 1:
            return float(at)
        bend = line[at - 1] - 2 * line[at] + line[at + 1]
        return at + (0.5 * (line[at - 1] - line[at + 1]) / bend if bend < 0 else 0.0)

    return np.array([fine(near[row], int(column)) - reach, fine(near[:, column], int(row)) - reach])


def standard(square: NDArray[np.float32]) -> NDArray[np.float32]:
    """(2, S, S) with each plane of mean 0 and variance 1."""
    centred = square - square.mean(axis=(1, 2), keepdims=True)
    return (centred / np.maximum(centred.std(axis=(1, 2), keepdims=True), 1e-12)).astype(np.float32)


def correlation(square: NDArray[np.float32], mean: NDArray[np.float32]) -> float:
    """Of a square with the mean part, whose planes have mean 0 and variance 1; the mean of both planes."""
    return float((standard(square) * mean).mean())
