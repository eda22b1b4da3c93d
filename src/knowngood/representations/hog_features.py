"""Histograms of oriented gradients (HOG) of batches of images, in torch.

Invariant to brightness and contrast of the image, not to rotation or scale. Shifts within a cell change little.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

CELLS = 7  # a side
ORIENTATIONS = 8  # over 360°: dark to light differs from light to dark
BLUR = 0.025  # σ of the Gaussian over the image, as a share of its side
ROUNDING = 1e-6  # of the largest value of an image: gradients that rounding alone can make
AT_ONCE = 2**22  # values of planes, one per orientation, held at a time


def hog(x: Tensor, cells: int = CELLS, orientations: int = ORIENTATIONS, power: float = 0.5) -> Tensor:
    """Histograms of oriented gradients of images (B, C, H, W), (B, orientations · cells²) in float32, of length 1 each.

    The image is blurred with σ = 2.5 % of its side. The gradient at each pixel is that of the channel where it is
    longest. Its length is shared linearly between the two nearest orientations. Each orientation is summed around the
    centres of a grid of cells, under a Gaussian with σ = half a cell. The sums are raised to `power`, and the vector is
    divided by its length, so that neither brightness nor contrast counts. A constant image gives zeros.

    With power .5 the Euclidean distance is the Hellinger distance. A smaller power gives faint edges more weight and
    makes the distribution of each value over many images more Gaussian; with 0 all edges would count the same.

    Values are by orientation, then by row of cells, then by column. Orientation o is a gradient, dark to light, that
    points 360° · o / orientations away from "to the right", clockwise on the screen: o = 2 of 8 is downwards.

    After Dalal and Triggs, Histograms of oriented gradients for human detection, CVPR 2005, with one norm for all.
    """
    size = x.shape[-2:]
    smooth = [_blur(n, x.device) for n in size]
    gather = [_cells(n, cells, x.device) for n in size]
    codes = []
    for part in x.split(max(1, AT_ONCE // (orientations * size.numel()))):
        image = part.float()
        length, angle = _gradients(smooth[0] @ (image @ smooth[1].t()))
        length = (length - ROUNDING * image.abs().amax((1, 2, 3), keepdim=True)).clamp_min(0)
        planes = _shared(length, angle / (2 * math.pi) * orientations, orientations)
        codes.append((gather[0] @ (planes @ gather[1].t())).pow(power).flatten(1))
    codes = torch.cat(codes)
    norm = codes.norm(dim=1, keepdim=True)
    return codes / norm.where(norm > 0, 1)


def _gradients(image: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) → length and angle (−π to π) of the longest gradient of all channels, (B, 1, H, W) each."""
    padded = pad(image, (1, 1, 1, 1), mode="replicate")
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    length = (across.square() + down.square()).sqrt()
    if length.shape[1] == 1:
        return length, torch.atan2(down, across)
    length, channel = length.max(1, keepdim=True)
    return length, torch.atan2(down.gather(1, channel), across.gather(1, channel))


def _shared(length: Tensor, orientation: Tensor, orientations: int) -> Tensor:
    """Lengths (B, 1, H, W) shared between the two bins next to `orientation` (B, 1, H, W): (B, orientations, H, W).

    `orientation` is a real number, from minus half their number to half of it.
    """
    lower = orientation.floor()
    share = (orientation - lower) * length
    lower = torch.where(lower < 0, lower + orientations, lower).long()  # much faster than a remainder of integers
    upper = torch.where(lower == orientations - 1, 0, lower + 1)
    planes = length.new_zeros(len(length), orientations, *length.shape[2:])
    planes.scatter_(1, lower, length - share)
    return planes.scatter_add_(1, upper, share)


@lru_cache(maxsize=32)
def _blur(n: int, device: torch.device) -> Tensor:
    """(n, n) weights that blur a side of n pixels."""
    return _gaussians(torch.arange(n, device=device), n, BLUR * n)


@lru_cache(maxsize=32)
def _cells(n: int, cells: int, device: torch.device) -> Tensor:
    """(cells, n) weights that add a side of n pixels up around the centres of cells."""
    centres = (torch.arange(cells, device=device) + 0.5) / cells
    return _gaussians(centres * n - 0.5, n, n / cells / 2)


def _gaussians(centre: Tensor, n: int, sigma: float) -> Tensor:
    """(M, n) float32 weights over pixels 0 … n − 1 around centres (M,), adding up to 1 each."""
    apart = torch.arange(n, dtype=torch.float32, device=centre.device) - centre[:, None]
    weights = (-0.5 * (apart / sigma).square()).exp()
    return weights / weights.sum(1, keepdim=True)
