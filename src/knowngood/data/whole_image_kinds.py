"""Anomalies of whole images made of good ones: to choose scores and weights without ever seeing a real anomaly.

Where `defect_kinds` changes a place, these change the image. Patches put elsewhere are its cut-paste, several times
over; mixtures with another image follow 1905.04899 (CutMix). Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from knowngood.config import nearest
from knowngood.data.defect_kinds import KINDS as DEFECTS
from knowngood.data.defect_kinds import Floats
from knowngood.errors import DataError, SettingsError

VISIBLE = 0.03  # of the range of values: a smaller change of a pixel does not count
CHANGED = 0.01  # share of the pixels that change at least
LEAST_SIDE = 4
TRIES = 20


# Kinds: (H, W, C) on [0, 1], a generator and another image → the changed image, which may leave [0, 1] ---------------


def _cutpaste(x: Floats, rng: np.random.Generator, other: Floats | None) -> Floats:
    """Three to eight patches of the image, turned, at other places."""
    for _ in range(int(rng.integers(3, 9))):
        x = DEFECTS["cutpaste"](x, rng).clip(0, 1)
    return x


def _noise(x: Floats, rng: np.random.Generator, other: Floats | None) -> Floats:
    """Grain, fine or coarse."""
    from scipy.ndimage import gaussian_filter

    width = rng.choice([0, rng.uniform(0.01, 0.06)]) * min(x.shape[:2])
    grain = gaussian_filter(rng.standard_normal(x.shape), (width, width, 0))
    return x + grain / grain.std() * _between(rng, 0.1, 0.5) * _contrast(x)


def _blur(x: Floats, rng: np.random.Generator, other: Floats | None) -> Floats:
    """Out of focus."""
    from scipy.ndimage import gaussian_filter

    width = _between(rng, 0.05, 0.22) * min(x.shape[:2])
    return gaussian_filter(x, (width, width, 0))


def _warp(x: Floats, rng: np.random.Generator, other: Floats | None) -> Floats:
    """Pulled out of shape by smooth random displacements, the largest 8 to 30 % of the side."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    side, n = min(x.shape[:2]), x.shape[:2]
    width = rng.uniform(0.06, 0.2) * side
    moves = np.stack([gaussian_filter(rng.standard_normal(n), width) for _ in range(2)])
    moves *= _between(rng, 0.08, 0.3) * side / np.abs(moves).max()
    at = np.mgrid[: n[0], : n[1]] + moves
    return np.stack([map_coordinates(x[..., c], at, order=1, mode="mirror") for c in range(x.shape[2])], axis=-1)


def _shuffle(x: Floats, rng: np.random.Generator, other: Floats | None) -> Floats:
    """2×2 or 4×4 patches that have changed places; what is left at the border stays."""
    k = int(rng.choice([2, 4]))
    h, w = x.shape[0] // k, x.shape[1] // k
    order = np.arange(k * k)
    moved = rng.choice(k * k, int(rng.integers(2, k * k + 1)), replace=False)
    order[moved] = np.roll(moved, 1)
    made = x.copy()
    for to, source in enumerate(order):
        (i, j), (p, q) = divmod(to, k), divmod(int(source), k)
        made[i * h : (i + 1) * h, j * w : (j + 1) * w] = x[p * h : (p + 1) * h, q * w : (q + 1) * w]
    return made


def _mixture(x: Floats, rng: np.random.Generator, other: Floats | None) -> Floats:
    """Half of this image beside half of another, or both laid over each other."""
    assert other is not None
    if rng.random() < 0.5:
        share = np.full(x.shape[:2], rng.uniform(0.35, 0.65))
    else:
        h, w = x.shape[:2]
        angle = rng.uniform(0, 2 * np.pi)
        y = np.mgrid[:h, :w] - np.array([h - 1, w - 1])[:, None, None] * rng.uniform(0.35, 0.65, (2, 1, 1))
        share = (np.sin(angle) * y[0] + np.cos(angle) * y[1] + 0.5).clip(0, 1)
    return x + share[..., None] * (other - x)


KINDS: dict[str, Callable[[Floats, np.random.Generator, Floats | None], Floats]] = {
    "cutpaste": _cutpaste,
    "noise": _noise,
    "blur": _blur,
    "warp": _warp,
    "shuffle": _shuffle,
    "mixture": _mixture,
}


def anomalous(
    image: np.ndarray,
    rng: np.random.Generator,
    kind: str,
    other: np.ndarray | None = None,
    span: tuple[float, float] | None = None,
) -> tuple[np.ndarray, str]:
    """A copy of a good image that is changed all over, and the kind of change.

    Of the pixels at least 1 % change by 3 % of the range of values or more, which is not left. The range is 0 to 255
    for 8 bits (0 to 1 if no value is above 1), else 0 to 1, widened to the values of this image if they lie outside.

    Args:
        image: (H, W, C), any number type, both sides at least 4.
        kind: one of `KINDS`.
        other: another image of the same shape and type, of another condition where there are several: for "mixture".
        span: the range of values, if it is known.

    Returns:
        The image, same shape and type, and the kind. Where 20 draws of a kind cannot be seen (a blur of a plain
        surface) or "mixture" has no other image, noise is made instead, and the kind says so.

    Raises:
        DataError: not (H, W, C), too small, holds values that are not finite, or so plain that nothing can be seen.
        SettingsError: an unknown kind.
    """
    if kind not in KINDS:
        raise SettingsError(f"kind = '{kind}'{nearest(kind, list(KINDS))}")
    if image.ndim != 3 or min(image.shape[:2]) < LEAST_SIDE or image.shape[2] < 1:
        raise DataError(f"an image has shape {image.shape}; expected (H, W, C), both sides at least {LEAST_SIDE}")
    low, high = _range(image) if span is None else span
    x = (image.astype(np.float64) - low) / (high - low)
    second = None if other is None else (other.astype(np.float64) - low) / (high - low)
    for name in ([] if kind == "mixture" and second is None else [kind]) + ["noise"]:
        for _ in range(TRIES):
            made = low + KINDS[name](x, rng, second).clip(0, 1) * (high - low)
            made = (made.round() if image.dtype.kind in "iu" else made).astype(image.dtype).clip(low, high)
            change = np.abs(made.astype(np.float64) - image).max(axis=2)
            if (change >= VISIBLE * (high - low)).mean() >= CHANGED:
                return made.astype(image.dtype), name
    raise DataError(f"no change could be seen on an image with values from {low:g} to {high:g}")


def altered(images: np.ndarray, kind: str, seed: int | Sequence[int], strata: np.ndarray | None = None) -> np.ndarray:
    """One anomaly of this kind of each image (N, C, H, W); see `anomalous`.

    What becomes of an image follows from the seed, the kind and its position. A mixture takes an image of another
    stratum (N,) where there is one, else another image.
    """
    strata = np.zeros(len(images), dtype=np.int64) if strata is None else np.asarray(strata)
    span = _range(images) if images.size else None
    made, every = np.empty_like(images), np.arange(len(images))
    root = [seed] if isinstance(seed, int) else [*seed]
    for i, image in enumerate(images):
        rng = np.random.default_rng([*root, list(KINDS).index(kind) if kind in KINDS else 0, i])
        rest = every[strata != strata[i]]
        rest = rest if len(rest) else every[every != i]
        other = images[rng.choice(rest)].transpose(1, 2, 0) if len(rest) else None
        made[i] = anomalous(image.transpose(1, 2, 0), rng, kind, other, span)[0].transpose(2, 0, 1)
    return made


def _range(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise DataError("the image holds NaN or infinite values")
    top = 255.0 if values.dtype == np.uint8 and high > 1 else 1.0
    return min(low, 0.0), max(high, top)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Uniform on the scale of logarithms."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _contrast(x: Floats) -> float:
    """What lies between the light and the dark of an image, at least 1/4."""
    dark, light = np.quantile(x, (0.02, 0.98))
    return max(float(light - dark), 0.25)
