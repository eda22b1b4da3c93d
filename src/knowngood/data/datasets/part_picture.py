"""How a camera sees a part: a height map, shaded, shadowed, blurred, tinted and with noise.

The surface is a height h(u, v). Its normal is (−∂h/∂x, −∂h/∂y, 1), normalised. The light comes from 45° above the mat
and is reflected by Lambert's law, with an ambient share and Blinn's highlights. A dent, a scratch and a crack are
changes of h (the last two of the reflectance too), so that they change with the light as the part does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from knowngood.data.datasets.part_shapes import PRODUCTS, Grid, Product, disc, segment

FINEST = 96  # pixels a side, below which a picture is drawn larger and averaged
LATTICE = 96  # points of the texture, along a picture
MAT = (0.1, 0.11, 0.12)
CLEARANCE = 0.1  # of a local defect's centre from the edge of the part
INSERT = 0.08  # radius
GOOD = "good"
LOCAL = ("scratch", "dent", "stain", "crack", "missing_hole")
LOGICAL = ("missing_part", "doubled_part", "wrong_slot")


@dataclass(frozen=True)
class Camera:
    """noise: standard deviation of a pixel, of 1. blur: σ, in widths of the picture. gains: of red, green, blue."""

    noise: float
    blur: float
    gains: tuple[float, float, float]


CAMERAS = {
    "A": Camera(0.008, 0.002, (1.0, 1.0, 1.0)),
    "B": Camera(0.014, 0.004, (1.1, 1.0, 0.88)),
    "C": Camera(0.02, 0.007, (0.88, 1.0, 1.1)),
}


@dataclass(frozen=True)
class Scene:
    """What a picture shows; the columns of the set say what is what. `seed` and `index` give all that has no column."""

    seed: int
    index: int
    product: str
    camera: str
    x: float
    y: float
    rotation: float
    light: float
    strength: float
    texture: float
    variation: float
    defect: str = GOOD

    def random(self, stream: int) -> np.random.Generator:
        """Numbers of this scene alone, whatever its defect and size: 1 texture, 2 noise of the sensor, 3 defect."""
        return np.random.default_rng([self.seed, self.index, stream])


def picture(scene: Scene, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The picture (size, size, 3), and where it differs from the same scene without its defect, (size, size).

    A pixel that the defect changes by at most one grey level, before noise, is as without it.
    """
    seen = plain = _exposed(replace(scene, defect=GOOD), size)
    if scene.defect in (*LOCAL, *LOGICAL):
        seen = _exposed(scene, size)
        seen = np.where((np.abs(seen - plain) > 1).any(axis=2, keepdims=True), seen, plain)
    noise = np.round(255 * CAMERAS[scene.camera].noise * scene.random(2).standard_normal(plain.shape))
    image, good = (np.clip(np.round(values) + noise, 0, 255).astype(np.uint8) for values in (seen, plain))
    return image, (image != good).any(axis=2)


def _exposed(scene: Scene, size: int) -> Grid:
    """What the camera records without noise, (size, size, 3), 0 to 255."""
    times = -(-FINEST // size)
    camera, light = CAMERAS[scene.camera], _light(scene, size * times)
    light = light.reshape(size, times, size, times, 3).mean(axis=(1, 3))
    blurred = ndimage.gaussian_filter(light, (camera.blur * size, camera.blur * size, 0), truncate=2.5)
    return 255 * np.clip(blurred * camera.gains, 0, 1)


def _light(scene: Scene, n: int) -> Grid:
    """The light that reaches the camera, (n, n, 3); 1 saturates it."""
    product, step = PRODUCTS[scene.product], 2 / n
    at = (np.arange(n) + 0.5) * step - 1
    dx, dy, turn = at[None, :] - 2 * scene.x, at[:, None] - 2 * scene.y, np.deg2rad(scene.rotation)
    u, v = np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx
    grain = _grain(scene, product, u, v)
    hole = int(scene.random(3).integers(len(product.holes))) if scene.defect == "missing_hole" else None
    edge = product.body(u, v, scene.variation, hole)
    on_part = np.clip(0.5 - edge / step, 0, 1)
    ink = 0.0 if product.ink is None else product.ink(u, v, scene.variation)
    mottled = 1 + 0.06 * scene.texture * grain
    colour = np.array(product.colour) * (mottled * (1 - 0.9 * ink))[..., None]
    height = product.thickness * _rise(-edge / 0.045) + 0.0012 * scene.texture * grain
    height, colour = _with_inserts(scene, product, u, v, height, colour, step)
    if scene.defect in LOCAL[:-1]:
        depth, tint, amount = _damage(scene, product, u, v)
        amount = (amount * (edge < 0))[..., None]
        height, colour = height - depth * (edge < 0), colour * (1 - amount) + np.array(tint) * amount
    colour = on_part[..., None] * colour + (1 - on_part)[..., None] * np.array(MAT) * (1 + 0.1 * grain)[..., None]
    toward = np.deg2rad(scene.light)
    rays = np.array([np.cos(toward), -np.sin(toward), 1.0]) / np.sqrt(2)
    slope_y, slope_x = np.gradient(height, step)
    normal = np.stack([-slope_x, -slope_y, np.ones_like(height)]) / np.sqrt(1 + slope_x**2 + slope_y**2)
    lambert = np.maximum(np.tensordot(rays, normal, 1), 0) / rays[2]
    halfway = rays + np.array([0, 0, 1])
    halfway /= np.linalg.norm(halfway)
    highlight = product.gloss * on_part * np.maximum(np.tensordot(halfway, normal, 1), 0) ** 30
    away = 2.5 * product.thickness / step * np.array([rays[1], rays[0]])
    shadow = ndimage.gaussian_filter(ndimage.shift(on_part, -away, order=1), 0.02 / step, truncate=2.5)
    lambert *= 1 - 0.7 * shadow * (1 - on_part)
    return scene.strength * (colour * (0.35 + 0.75 * lambert)[..., None] + highlight[..., None])


def _grain(scene: Scene, product: Product, u: Grid, v: Grid) -> Grid:
    """The texture at (u, v), of mean 0 and standard deviation about 1, the same at every size."""
    lattice = ndimage.gaussian_filter(scene.random(1).standard_normal((LATTICE, LATTICE)), 0.8, mode="wrap")
    points = np.stack([v * product.grain, u]) * (LATTICE / 2)
    return ndimage.map_coordinates(lattice / lattice.std(), points, order=3, mode="grid-wrap")


def _rise(t: Grid) -> Grid:
    """0 below 0, 1 above 1, smooth between."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def _with_inserts(
    scene: Scene, product: Product, u: Grid, v: Grid, height: Grid, colour: Grid, step: float
) -> tuple[Grid, Grid]:
    """Slots are shallow recesses, inserts are domes in them, or where a logical defect puts them."""
    for x, y in product.slots:
        height = height - 0.4 * product.thickness * _rise(-disc(u, v, x, y, 0.7 * INSERT) / 0.02)
    rng, inserts = scene.random(3), [product.slots[i] for i in product.filled]
    if scene.defect in LOGICAL:
        which, turn = int(rng.integers(len(inserts))), rng.uniform(0, 2 * np.pi)
        (x, y), free = inserts[which], [s for i, s in enumerate(product.slots) if i not in product.filled]
        if scene.defect == "doubled_part":
            inserts.append((x + 1.1 * INSERT * np.cos(turn), y + 1.1 * INSERT * np.sin(turn)))
        else:
            del inserts[which]
            inserts += [free[int(rng.integers(len(free)))]] if scene.defect == "wrong_slot" else []
    for x, y in inserts:
        edge = disc(u, v, x, y, INSERT)
        there = np.clip(0.5 - edge / step, 0, 1)
        height = height + 0.04 * _rise(-edge / INSERT)
        colour = colour * (1 - there)[..., None] + np.array(product.insert) * there[..., None]
    return height, colour


def _damage(scene: Scene, product: Product, u: Grid, v: Grid) -> tuple[Grid, tuple[float, float, float], Grid]:
    """Depth (n, n) of a local defect, its colour, and how much of that there is (n, n)."""
    rng = scene.random(3)
    across, down = rng.uniform(-0.65, 0.65, (2, 400))
    first = int(np.argmax(product.body(across, down, scene.variation) < -CLEARANCE))
    x, y = float(across[first]), float(down[first])
    turn, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.2)
    if scene.defect == "scratch":
        along, across = np.cos(turn) * (u - x) + np.sin(turn) * (v - y), np.cos(turn) * (v - y) - np.sin(turn) * (u - x)
        bowed = np.abs(across - rng.uniform(-0.4, 0.4) * along**2)
        groove = _rise(1 - bowed / 0.02) * _rise(3 - 3 * np.abs(along) / (0.25 * length))
        return 0.015 * groove, (0.7, 0.7, 0.7), 0.5 * groove
    if scene.defect == "dent":
        bowl = np.maximum(1 - ((u - x) ** 2 + (v - y) ** 2) / (0.12 * length) ** 2, 0) ** 2
        return 0.05 * bowl, MAT, 0 * bowl
    if scene.defect == "stain":
        angle = np.arctan2(v - y, u - x)
        reach = 0.11 * length * (1 + 0.25 * np.sin(2 * angle + turn) + 0.15 * np.sin(3 * angle + 2 * turn))
        spot = _rise((reach - np.hypot(u - x, v - y)) / 0.03)
        return 0 * spot, (0.16, 0.1, 0.04), rng.uniform(0.5, 0.8) * spot
    turns = turn + np.cumsum(rng.normal(0, 0.6, 6))
    path = np.array([x, y]) + 0.07 * length * np.cumsum(np.stack([np.cos(turns), np.sin(turns)], axis=1), axis=0)
    path = np.concatenate([[[x, y]], path])
    gaps = [segment(u, v, a, b) / (0.02 - 0.002 * i) for i, (a, b) in enumerate(pairwise(path))]
    gap = _rise(1.2 * (1 - np.min(gaps, axis=0)))
    return 0.01 * gap, (0.02, 0.02, 0.02), 0.9 * gap
