"""The context of a patch: how the image as a whole differs from other good ones, in a few numbers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

RIDGE = 0.01  # added to variances, here of 1, as to those of features
IMAGES_EACH = 32  # images of a cell for each number of its context, at least
FLOOR = 1e-3  # standard deviation that features are standardised by, at least
LEAST = 1e-6  # variance of a component that is one


class Context(nn.Module):
    """From features to contexts (B, T), and to what these say of every place.

    The context u are the first T principal components of an image's features, averaged over all places that count and
    standardised, each with a variance of 1 / 1.01 over the good images: whitened, with the ridge that features have. A
    cell with few images has fewer, one for every 32 images; the others are 0. Features are always taken about their
    means.

    Buffers, for K cells, P places and F features:
        basis (K, T, F): u = basis · (features averaged over places).
        slope (K, P, F, T): covariance of features and context, so that slope · u is where the context moves the mean.

    Args:
        cells, places, features: K, P, F.
        size: T at most; after `fit` as many as any cell has.
    """

    basis: Tensor
    slope: Tensor

    def __init__(self, cells: int, places: int, features: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("basis", torch.zeros(cells, size, features))
        self.register_buffer("slope", torch.zeros(cells, places, features, size))

    def fit(self, some: Iterable[tuple[int, Tensor]], ignored: Tensor) -> None:
        """Learn the basis from cells and features (B, P, F) of some of their good images. `slope` becomes 0.

        Places that are `ignored` (K, P) take no part.
        """
        cells, places, features = self.slope.shape[:3]
        averages: list[list[Tensor]] = [[] for _ in range(cells)]
        for k, off in some:
            averages[k].append(average(off, ignored[k].expand(len(off), -1)))
        found = [principal(torch.cat(means).double(), self.size).float() for means in averages]
        most = max(len(basis) for basis in found)
        self.basis = torch.stack([pad(basis, (0, 0, 0, most - len(basis))) for basis in found])
        self.slope = torch.zeros(cells, places, features, most)

    def forward(self, off: Tensor, cell: Tensor, ignored: Tensor) -> Tensor:
        """(B, T) contexts of features (B, P, F) in cells (B,); `ignored` is (K, P)."""
        return (self.basis[cell] @ average(off, ignored[cell])[:, :, None])[:, :, 0]

    def moved(self, u: Tensor, k: int) -> Tensor:
        """(P, B, F): what contexts u (B, T) add to the mean of every place of cell k."""
        return u @ self.slope[k].mT


def average(off: Tensor, ignored: Tensor) -> Tensor:
    """(B, F): features (B, P, F) averaged over the places that are not `ignored` (B, P)."""
    if not ignored.any():
        return off.mean(1)
    counted = (~ignored).sum(1, keepdim=True).clamp_min(1)
    return off.masked_fill(ignored[:, :, None], 0).sum(1) / counted


def principal(averages: Tensor, most: int) -> Tensor:
    """(T, F): basis of averages (N, F) with mean 0: T ≤ `most`, at most N / 32, fewer where there is no variance."""
    n = len(averages)
    scale = averages.std(0).clamp_min(FLOOR)
    standard = averages / scale
    variance, direction = torch.linalg.eigh(standard.T @ standard / (n - 1))
    kept = min(most, n // IMAGES_EACH, int((variance > LEAST).sum()))
    variance, direction = variance.flip(0)[:kept], direction.flip(1)[:, :kept]
    return (direction / (variance * (1 + RIDGE)).sqrt() / scale[:, None]).T
