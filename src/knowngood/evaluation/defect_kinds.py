"""Kinds of synthetic defects: each a small function of an image on [0, 1], and the shapes they are made of.

Cut-paste and scar follow 2104.04015 (CutPaste), foreign textures 2108.07610 (DRÆM); the others are drawn. Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SMALLEST, LARGEST = 0.003, 0.15  # share of the image that a defect covers


# Kinds: (H, W, C) on [0, 1] and a generator → the changed image, which may leave [0, 1] ------------------------------


def _cutpaste(x: Floats, rng: np.random.Generator) -> Floats:
    """A patch of the same image, rotated, a little larger or smaller, brighter or darker."""
    return _blend(x, _elsewhere(x, rng), _patch(x, rng, _area(rng), rng.uniform(0.4, 1), power=rng.uniform(2, 8)))


def _scar(x: Floats, rng: np.random.Generator) -> Floats:
    """The same, thin and long."""
    return _blend(x, _elsewhere(x, rng), _patch(x, rng, _area(rng, most=0.03), rng.uniform(0.06, 0.2), power=8))


def _blotch(x: Floats, rng: np.random.Generator) -> Floats:
    """A cloud of another brightness or colour, with a soft edge."""
    cloud = 0.6 + 0.4 * _clouds(x, rng, rng.uniform(4, 16))
    shape = _blob(x, rng, _area(rng), soft=rng.uniform(0.1, 0.6))
    return x + (shape * cloud)[..., None] * _tint(x, rng) * _strength(x, rng, 0.1, 0.8)


def _scratch(x: Floats, rng: np.random.Generator) -> Floats:
    """A thin curve, brighter or darker, of changing strength."""
    side = min(x.shape[:2])
    start, angle, length = _location(x, rng), rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.8) * side
    ahead = np.array([np.sin(angle), np.cos(angle)])
    bend = rng.normal(0, 0.15) * length * ahead[::-1] * (1, -1)
    t = np.linspace(0, 1, 2 * side)[:, None]
    points = start + t * length * ahead + 4 * t * (1 - t) * bend
    shape = _line(x, points, rng.uniform(0.004, 0.014) * side)
    fade = 0.7 + 0.3 * _clouds(x, rng, rng.uniform(4, 16))
    return x + (shape * fade)[..., None] * _strength(x, rng, 0.15, 1)


def _hole(x: Floats, rng: np.random.Generator) -> Floats:
    """A dark or bright spot with a soft edge."""
    shape = _patch(x, rng, _area(rng, most=0.02), rng.uniform(0.6, 1), power=2, edge=rng.uniform(0.5, 3))
    bottom = np.full_like(x, rng.uniform(0, 0.15) if rng.random() < 0.7 else rng.uniform(0.85, 1))
    return _blend(x, bottom, shape * _between(rng, 0.1, 1))


def _crack(x: Floats, rng: np.random.Generator) -> Floats:
    """A thin, dark, irregular line with a few branches."""
    side = min(x.shape[:2])
    points = _walk(_location(x, rng), rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.9) * side, rng)
    if rng.random() < 0.5:
        joint = points[int(rng.integers(len(points)))]
        branch = _walk(joint, rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.3) * side, rng)
        points = np.concatenate([points, branch])
    return x * (1 - _line(x, points, rng.uniform(0.003, 0.01) * side) * _between(rng, 0.2, 0.9))[..., None]


def _noise(x: Floats, rng: np.random.Generator) -> Floats:
    """Grain, fine or coarse, grey or coloured."""
    from scipy.ndimage import gaussian_filter

    grain = rng.standard_normal((*x.shape[:2], x.shape[2] if rng.random() < 0.5 else 1))
    grain = gaussian_filter(grain, (*[rng.uniform(0, 0.006) * min(x.shape[:2])] * 2, 0))
    shape = _blob(x, rng, _area(rng), soft=rng.uniform(0.05, 0.4))
    return x + shape[..., None] * grain / grain.std() * abs(_strength(x, rng, 0.08, 0.4))


def _blur(x: Floats, rng: np.random.Generator) -> Floats:
    """A region out of focus."""
    from scipy.ndimage import gaussian_filter

    width = rng.uniform(0.008, 0.04) * min(x.shape[:2])
    return _blend(x, gaussian_filter(x, (width, width, 0)), _blob(x, rng, _area(rng), soft=0.15))


def _warp(x: Floats, rng: np.random.Generator) -> Floats:
    """A region that is rotated about its centre, or shifted."""
    y, shape = _grid(x), _blob(x, rng, _area(rng), soft=0.4)
    if not shape.any():
        return x
    if rng.random() < 0.5:
        middle = (y * shape).sum(axis=(1, 2), keepdims=True) / shape.sum()
        angle = rng.choice([-1, 1]) * rng.uniform(0.4, 2) * shape
        dy, dx = y - middle
        turned = np.stack([np.cos(angle) * dy - np.sin(angle) * dx, np.sin(angle) * dy + np.cos(angle) * dx])
        source = middle + turned
    else:
        push = rng.normal(size=(2, 1, 1))
        push *= rng.uniform(0.02, 0.08) * min(x.shape[:2]) / np.linalg.norm(push)
        source = y - shape * push
    return np.where(shape[..., None] > 0, _sampled(x, source), x)


def foreign(x: Floats, rng: np.random.Generator, texture: Floats | None = None) -> Floats:
    """Another texture, more or less opaque: a given one, or made of clouds or stripes of two colours."""
    if texture is not None:
        top = _sampled(texture, _turned(x, rng, _location(x, rng), _location(texture, rng), rng.uniform(0.4, 1.5)))
    else:
        pattern = _clouds(x, rng, rng.uniform(16, 64))
        if rng.random() < 0.5:
            angle, waves = rng.uniform(0, np.pi), rng.uniform(8, 40)
            y = _grid(x) / min(x.shape[:2])
            pattern = np.sin(2 * np.pi * waves * (np.cos(angle) * y[0] + np.sin(angle) * y[1]) + 2 * pattern)
        colours = rng.uniform(0, 1, size=(2, x.shape[2]))
        share = (0.5 + 0.5 * pattern)[..., None]
        top = share * colours[0] + (1 - share) * colours[1]
    return _blend(x, top, _blob(x, rng, _area(rng), soft=rng.uniform(0.02, 0.2)) * _between(rng, 0.15, 1))


KINDS: dict[str, Callable[[Floats, np.random.Generator], Floats]] = {
    "cutpaste": _cutpaste,
    "scar": _scar,
    "blotch": _blotch,
    "scratch": _scratch,
    "hole": _hole,
    "crack": _crack,
    "noise": _noise,
    "blur": _blur,
    "warp": _warp,
    "foreign": foreign,
}


# What they are made of. Shapes are (H, W) on [0, 1]; locations are (row, column) in pixels ---------------------------


def _area(rng: np.random.Generator, most: float = LARGEST) -> float:
    """A share of the image."""
    return _between(rng, SMALLEST, most)


def _strength(x: Floats, rng: np.random.Generator, faint: float, strong: float) -> float:
    """A change, up or down, as a share of the contrast of an image (2 % to 98 % quantile), at least 1/4."""
    dark, light = np.quantile(x, (0.02, 0.98))
    return float(rng.choice([-1, 1])) * _between(rng, faint, strong) * max(float(light - dark), 0.25)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Uniform on a logarithmic scale."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _tint(x: Floats, rng: np.random.Generator) -> Floats:
    """(C,) how much each channel changes, the most by 1: all alike, or one colour more."""
    if rng.random() < 0.5:
        return np.ones(x.shape[2])
    tint = rng.uniform(-0.3, 1, x.shape[2])
    return tint / np.abs(tint).max()


def _location(x: Floats, rng: np.random.Generator) -> Floats:
    return rng.uniform(0.05, 0.95, 2) * x.shape[:2]


def _grid(x: Floats) -> Floats:
    """(2, H, W): row and column of every pixel."""
    return np.indices(x.shape[:2]).astype(np.float64)


def _blend(x: Floats, top: Floats, shape: Floats) -> Floats:
    return x + shape[..., None] * (top - x)


def _ellipse(x: Floats, rng: np.random.Generator, area: float, aspect: float) -> tuple[Floats, float]:
    """Coordinates (2, H, W) in which an ellipse of this area, anywhere, is the unit disc; its short radius."""
    radius = np.sqrt(area * x.shape[0] * x.shape[1] / np.pi)
    y = _grid(x) - _location(x, rng)[:, None, None]
    angle = rng.uniform(0, np.pi)
    along, across = np.cos(angle) * y[0] + np.sin(angle) * y[1], np.cos(angle) * y[1] - np.sin(angle) * y[0]
    long, short = radius / np.sqrt(aspect), radius * np.sqrt(aspect)
    return np.stack([along / long, across / short]), float(short)


def _patch(x: Floats, rng: np.random.Generator, area: float, aspect: float, power: float, edge: float = 1.0) -> Floats:
    """An ellipse (power 2) to a rectangle (power 8) with an edge of some pixels."""
    y, short = _ellipse(x, rng, area, aspect)
    r = (np.abs(y) ** power).sum(axis=0) ** (1 / power)
    return np.clip((1 - r) * short / edge + 0.5, 0, 1)


def _blob(x: Floats, rng: np.random.Generator, area: float, soft: float) -> Floats:
    """An ellipse with a wavy outline; `soft`: width of its edge over its radius."""
    y, _ = _ellipse(x, rng, area, rng.uniform(0.3, 1))
    angle, wave = np.arctan2(y[0], y[1]), np.zeros(x.shape[:2])
    for k in range(2, 7):
        wave += rng.normal(0, 0.25 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    edge = np.clip((1 + wave - np.hypot(y[0], y[1])) / soft + 0.5, 0, 1)
    return edge * edge * (3 - 2 * edge)


def _clouds(x: Floats, rng: np.random.Generator, cells: float) -> Floats:
    """Smooth noise on [−1, 1] in three octaves; `cells`: how many of the largest fit the shorter side."""
    from scipy.ndimage import map_coordinates

    y, total = _grid(x) / min(x.shape[:2]), np.zeros(x.shape[:2])
    for octave in range(3):
        at = y * cells * 2**octave
        knots = rng.uniform(-1, 1, (int(at[0].max()) + 2, int(at[1].max()) + 2))
        total += map_coordinates(knots, at, order=1, mode="nearest") / 2**octave
    return total / np.abs(total).max()


def _line(x: Floats, points: Floats, width: float) -> Floats:
    """A line through points (K, 2) that lie closer than a pixel, `width` pixels wide, at least one."""
    from scipy.ndimage import distance_transform_edt

    at = points.round().astype(np.int64)
    at = at[((at >= 0) & (at < x.shape[:2])).all(axis=1)]
    off = np.ones(x.shape[:2], dtype=bool)
    off[at[:, 0], at[:, 1]] = False
    if off.all():
        return np.zeros(x.shape[:2])
    distance = np.asarray(distance_transform_edt(off))
    return np.clip(max(width, 1.0) / 2 + 0.5 - distance, 0, 1)


def _walk(start: Floats, angle: float, length: float, rng: np.random.Generator) -> Floats:
    """(K, 2) points half a pixel apart whose direction wanders."""
    steps = int(2 * length) + 1
    turns = rng.normal(0, 0.12, steps) + (rng.random(steps) < 0.03) * rng.normal(0, 0.6, steps)
    angles = angle + np.cumsum(turns)
    return start + 0.5 * np.cumsum(np.stack([np.sin(angles), np.cos(angles)], axis=1), axis=0)


def _turned(x: Floats, rng: np.random.Generator, at: Floats, source: Floats, scale: float) -> Floats:
    """(2, H, W): where in the source each pixel comes from, if `source` comes to `at`, turned by a random angle."""
    angle, y = rng.uniform(0, 2 * np.pi), _grid(x) - at[:, None, None]
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.einsum("ij,jhw->ihw", turn, y) + source[:, None, None]


def _elsewhere(x: Floats, rng: np.random.Generator) -> Floats:
    """The same image moved and turned, each channel a little lighter or darker."""
    moved = _sampled(x, _turned(x, rng, _location(x, rng), _location(x, rng), rng.uniform(0.7, 1.4)))
    return moved * rng.uniform(0.85, 1.15, x.shape[2] if rng.random() < 0.3 else 1)


def _sampled(x: Floats, at: Floats) -> Floats:
    """Bilinear; what lies outside is mirrored."""
    from scipy.ndimage import map_coordinates

    return np.stack([map_coordinates(x[..., c], at, order=1, mode="mirror") for c in range(x.shape[2])], axis=-1)
