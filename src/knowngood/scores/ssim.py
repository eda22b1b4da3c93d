"""Structural similarity, Wang et al. 2004 (IEEE TIP 13, eq. 13)."""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM at each pixel of two images whose data range is 1.

    Means, variances and the covariance are weighted by a Gaussian window of 11×11, σ = 1.5. At the border the window
    covers the pixels that exist, its weights adding up to 1 again, so that no pixel is invented and every pixel gets a
    value. On a side shorter than 11 the window is the largest odd number that fits, σ in proportion.

    Args:
        x, y: (B, C, H, W). Give float64: variances are differences of nearly equal numbers.

    Returns:
        (B, C, H, W) in [−1, 1]; 1 where the images agree.
    """
    rows, columns = (_weights(size, x) for size in x.shape[-2:])

    def local_mean(t: Tensor) -> Tensor:
        return rows @ t @ columns.t()

    mean_x, mean_y = local_mean(x), local_mean(y)
    var_x = local_mean(x * x) - mean_x * mean_x
    var_y = local_mean(y * y) - mean_y * mean_y
    covariance = local_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x * mean_x + mean_y * mean_y + C1)
    return luminance * (2 * covariance + C2) / (var_x + var_y + C2)


def _weights(size: int, like: Tensor) -> Tensor:
    """(size, size): row i holds the window's weights around pixel i, a banded matrix whose rows add up to 1."""
    window = min(WINDOW, size - 1 + size % 2)
    sigma = SIGMA * window / WINDOW
    position = torch.arange(size, dtype=like.dtype, device=like.device)
    distance = position[:, None] - position
    weights = torch.exp(-0.5 * (distance / sigma).square()) * (distance.abs() <= window // 2)
    return weights / weights.sum(1, keepdim=True)
