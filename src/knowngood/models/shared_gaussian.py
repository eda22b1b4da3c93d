"""One Gaussian of the features for all locations: of surfaces that look alike everywhere, as sheet metal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from knowngood.config import SharedGaussianOptions
from knowngood.models.patch_gaussian import PatchGaussian

MOST_PATCHES = 1 << 19  # that a Gaussian is fitted to
OWN = ("lower", "ignored", "number_slope", "number_range")  # that are of locations, or not made of the patches


class SharedGaussian(PatchGaussian):
    """A `PatchGaussian` all of whose locations have one mean and covariance a cell, held once.

    It is fitted to patches as if each were an image of one location; of many, evenly spaced ones. So N pictures give
    N·P patches for it, and memory does not grow with the picture. Without context, coarse grid and bank.
    """

    kind = "shared_gaussian"
    update = None  # type: ignore[assignment]  # it is fitted again to all images

    def __init__(self, options: SharedGaussianOptions, shape: Sequence[int], *cells: Any, **sizes: Any) -> None:
        super().__init__(options, shape, *cells, **sizes)
        self._of_all(self.lower[:, :1])

    @torch.no_grad()
    def fit_grids(self, x: Tensor, cell: Tensor) -> Self:
        """Fit to feature grids x (N, F, h, w) in cells (N,)."""
        patches, of = x.permute(0, 2, 3, 1).flatten(0, 2), cell.repeat_interleave(self.locations)
        counted = (~self.ignored[cell]).flatten().nonzero()[:, 0]
        counted = counted[:: -(-len(counted) // MOST_PATCHES)]
        sizes = {name: value for name, value in self.sizes().items() if name not in ("shape", "images")}
        one = PatchGaussian(self.options, (len(patches[0]), 1, 1), **sizes)
        one.fit_grids(patches[counted, :, None, None], of[counted])
        for name, found in one.named_buffers():
            mine = getattr(self, name)
            if name not in OWN:
                setattr(self, name, found if found.shape == mine.shape else found.expand(mine.shape).clone())
        self._of_all(one.lower)
        return self

    def get_extra_state(self) -> Tensor:
        row, column = torch.tril_indices(*self.lower.shape[2:])
        return self.lower[:, :1, row, column]

    def set_extra_state(self, state: Tensor) -> None:
        row, column = torch.tril_indices(*self.lower.shape[2:])
        lower = torch.zeros(len(state), 1, *self.lower.shape[2:], device=self.lower.device)
        lower[:, :, row, column] = state.to(lower)
        self._of_all(lower)

    def _of_all(self, lower: Tensor) -> None:
        """One factor (K, 1, F, F) for all locations: a view, no copy."""
        self.lower = lower.clone().expand(-1, self.locations, -1, -1)
