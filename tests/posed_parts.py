"""Parts drawn at a known position and direction, in closed form."""

from __future__ import annotations

import numpy as np

SIDE = 120


def part(
    turn: float = 0.0,
    centre: tuple[float, float] = (60.0, 60.0),
    *,
    defect: bool = False,
    size: tuple[int, int] = (SIDE, SIDE),
    dtype: type = np.uint8,
) -> np.ndarray:
    """(H, W, 3) a bar of 48 × 16 px with a round head at one end and a dark hole, turned clockwise by degrees."""
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    angle = np.deg2rad(turn)
    right, down = x - centre[0], y - centre[1]
    along, across = right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)

    def inside(distance: np.ndarray) -> np.ndarray:
        return np.clip(0.5 - distance, 0, 1)

    bar = inside(np.maximum(np.abs(along) - 24, np.abs(across) - 8))
    head = inside(np.hypot(along - 20, across) - 14)
    hole = inside(np.hypot(along + 14, across) - 4)
    value = 30 + 150 * np.maximum(bar, head) - 110 * hole
    if defect:
        value -= 100 * inside(np.hypot(along - 4, across + 2) - 4)
    return np.repeat((value / (255 if dtype is np.float32 else 1))[..., None], 3, axis=2).astype(dtype)


def lying(n: int, seed: int = 0, noise: float = 2.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (n, H, W, 3), their turns in degrees and centres (n, 2)."""
    rng = np.random.default_rng(seed)
    turns, centres = rng.uniform(0, 360, n), rng.uniform(42, SIDE - 42, (n, 2))
    images = [part(t, tuple(c)) for t, c in zip(turns, centres, strict=True)]
    noisy = np.stack(images) + rng.normal(0, noise, (n, SIDE, SIDE, 1))
    return noisy.clip(0, 255).astype(np.uint8), turns, centres
