"""The context of a patch: how the image as a whole differs from other normal ones, in a few numbers."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 0.01  # added to the variances of features; those of contexts, here 1, get the same share
IMAGES_EACH = 32  # normal images of a cell for each number of its context, at least
FLOOR = 1e-3  # standard deviation by which mean features are standardised, at least
LEAST = 1e-6  # variance of a component that is one


def average(grids: Tensor, ignored: Tensor) -> Tensor:
    """(N, F): features (N, F, P) averaged over the locations that are not `ignored` (P,), float32."""
    if not ignored.any():
        return grids.mean(2, dtype=torch.float32)
    return grids[:, :, ~ignored].mean(2, dtype=torch.float32)


def principal(averages: Tensor, most: int) -> Tensor:
    """(T, F): the basis of the context u = basis · (mean features about their mean).

    u are the first principal components of the standardised mean features, each with a variance of 1 / 1.01 over the
    normal images, as whitened features have it with the ridge. T ≤ `most`, at most N / 32, fewer where there is no
    variance.

    Args:
        averages: (N, F) mean features of normal images, centred, float64.
    """
    n = len(averages)
    if n < IMAGES_EACH:
        return averages[:0]
    scale = averages.std(0).clamp_min(FLOOR)
    standard = averages / scale
    variance, direction = torch.linalg.eigh(standard.T @ standard / (n - 1))
    kept = min(most, n // IMAGES_EACH, int((variance > LEAST).sum()))
    variance, direction = variance.flip(0)[:kept], direction.flip(1)[:, :kept]
    return (direction / (variance * (1 + RIDGE)).sqrt() / scale[:, None]).T
