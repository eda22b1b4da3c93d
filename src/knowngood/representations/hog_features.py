"""What edges an image has, where and which way: a description of shape that no net has to learn."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

CELLS = 7  # a side
ORIENTATIONS = 8  # of the full turn: dark to light is another way than light to dark
BLUR = 0.025  # σ of the Gaussian over the image, as a share of its side
ROUNDING = 1e-6  # of the largest value of an image: gradients that rounding alone may make
AT_ONCE = 2**22  # values of planes, one an orientation, held at a time


def hog(x: Tensor, cells: int = CELLS, orientations: int = ORIENTATIONS, power: float = 0.5) -> Tensor:
    """Histograms of oriented gradients of images (B, C, H, W), (B, orientations · cells²) in float32, of length 1 each.

    The image is blurred a little. Its gradient at each pixel, that of the channel where it is longest, is shared
    between the two nearest of the orientations, by its length. Each is added up around the centres of a grid of cells,
    under a Gaussian of half a cell. The sums are raised to a power and the whole is brought to length 1, so that
    neither contrast nor brightness counts. An image of one value gives zeros.

    With the power .5 the Euclidean distance is that of Hellinger. A smaller one has faint edges count for more beside
    strong ones, and makes what each value is like over many images more like a Gaussian; at 0 all edges would be equal.

    Values are by orientation, then by row of cells, then by column. Orientation o is a gradient, dark to light, that
    points by 360° · o / orientations away from "to the right", clockwise as one sees it: o = 2 of 8 is downwards.

    After Dalal and Triggs, Histograms of oriented gradients for human detection, CVPR 2005, with one norm for all.
    """
    size = x.shape[-2:]
    smooth = [_blur(n, x.device) for n in size]
    gather = [_cells(n, cells, x.device) for n in size]
    found = []
    for part in x.split(max(1, AT_ONCE // (orientations * size.numel()))):
        image = part.float()
        length, way = _edges(smooth[0] @ (image @ smooth[1].t()))
        length = (length - ROUNDING * image.abs().amax((1, 2, 3), keepdim=True)).clamp_min(0)
        planes = _shared(length, way / (2 * math.pi) * orientations, orientations)
        found.append((gather[0] @ (planes @ gather[1].t())).pow(power).flatten(1))
    codes = torch.cat(found)
    norm = codes.norm(dim=1, keepdim=True)
    return codes / norm.where(norm > 0, 1)


def _edges(image: Tensor) -> tuple[Tensor, Tensor]:
    """Of images (B, C, H, W) length and angle, −π to π, of the longest gradient of all channels, (B, 1, H, W) each."""
    edged = pad(image, (1, 1, 1, 1), mode="replicate")
    across = edged[..., 1:-1, 2:] - edged[..., 1:-1, :-2]
    down = edged[..., 2:, 1:-1] - edged[..., :-2, 1:-1]
    length = (across.square() + down.square()).sqrt()
    if length.shape[1] == 1:
        return length, torch.atan2(down, across)
    length, channel = length.max(1, keepdim=True)
    return length, torch.atan2(down.gather(1, channel), across.gather(1, channel))


def _shared(length: Tensor, way: Tensor, orientations: int) -> Tensor:
    """Lengths (B, 1, H, W) shared between the two orientations next to `way` (B, 1, H, W): (B, orientations, H, W).

    `way` counts orientations, from minus half their number to half of it.
    """
    lower = way.floor()
    share = (way - lower) * length
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
