"""How light images of a kind usually are, and how much lighter or darker than that one of them is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PrivateAttr
from torch import Tensor
from torch.nn.functional import interpolate

from knowngood.errors import ArtifactError

Floats = NDArray[np.float64]

SIDE = 64  # cells a side, at most, on which light is compared
FULL = 0.98  # a cell this light may be saturated, and then tells little
LOST = 0.05  # share of its light that saturation may cost a cell that still has a say
ENOUGH = 0.1  # share of the cells that must be left
ALIKE = 0.5  # correlation of images with the mean of the others above which they show the same at the same place
ODD = 3.0  # spreads from what the light explains: a cell farther off has no say
SPREAD = 1.4826  # standard deviation of a Gaussian over its median absolute deviation
STEPS = 10
SETTLED = 1e-6
EXTREMES = 0.01, 0.99  # quantiles of good images' factors


class Illumination(BaseModel):
    """The usual light of images of one kind, as the mean of their V (HSV), and the factors that are undone.

    An image is taken for g·m + what is odd, m the usual image; g is its light relative to the usual one. g is fitted
    first by least absolute deviations, which half of the image may be odd without moving far, then by least squares
    over the cells that lie within 3 spreads of it. So a defect, however dark, hardly counts.

    low, high: factors beyond them are undone as far as them: the smallest and largest of good images, times
        1 − tolerance and 1 + tolerance.
    layout: good images show the same at the same place, and m is their mean. If not, m is a constant.
    images: how many it was taken from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float
    high: float
    layout: bool
    images: int
    _usual: Floats | None = PrivateAttr(default=None)

    @classmethod
    def fit(cls, planes: Floats, tolerance: float) -> Self:
        """From `planes` of good images (N, h, w), N ≥ 1; the light may change by the share `tolerance` beyond theirs.

        The usual image is such that the median of their factors is 1.
        """
        mean = planes.mean(axis=0)
        even = planes / np.maximum([_factor(plane, mean) for plane in planes], SETTLED)[:, None, None]
        layout = _likeness(even) >= ALIKE
        usual = even.mean(axis=0) if layout else np.ones_like(mean)
        factors = np.array([_factor(plane, usual) for plane in planes])
        middle = float(np.median(factors))
        least, most = np.quantile(factors / middle, EXTREMES).tolist() if middle > 0 else (1.0, 1.0)
        low, high = (1 - tolerance) * min(1.0, least), (1 + tolerance) * max(1.0, most)
        return cls(low=max(low, SETTLED), high=high, layout=layout, images=len(planes))._with(usual * middle)

    def factor(self, plane: Floats) -> float:
        """How many times as light as usual an image is, from its plane (h, w); 0 for a black one."""
        if self._usual is None:
            raise ArtifactError("the usual light is missing; give it the saved tensors by with_tensors")
        return _factor(plane, self._usual)

    def undone(self, images: Tensor, factor: float) -> Tensor:
        """Images (..., H, W) scaled to 0…1 as they would be at the usual light, as far as the limits; 1 stays the top.

        What was saturated stays at what becomes of it.
        """
        return torch.minimum(images / min(max(factor, self.low), self.high), images.clamp_min(1))

    def tensors(self) -> dict[str, Tensor]:
        """The usual image (h, w), float64."""
        assert self._usual is not None
        return {"light": torch.from_numpy(self._usual)}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """The same with the usual image that `tensors` gave.

        Raises:
            ArtifactError: it is missing.
        """
        if "light" not in tensors or tensors["light"].ndim != 2:
            raise ArtifactError("illumination: the usual image is missing; the model is damaged")
        return self._with(tensors["light"].detach().cpu().double().numpy())

    def _with(self, usual: Floats) -> Self:
        copy = self.model_copy()
        copy._usual = usual
        return copy


def planes(images: Tensor) -> Floats:
    """Images (B, C, H, W) scaled to 0…1 → V of the HSV colours, means over at most 64 × 64 cells, (B, h, w)."""
    value = images.amax(dim=1, keepdim=True)
    size = [min(side, SIDE) for side in value.shape[-2:]]
    return interpolate(value, size=size, mode="area")[:, 0].double().numpy()


def _factor(plane: Floats, usual: Floats) -> float:
    """g of plane ≈ g·usual, both (h, w); 1 where the usual image is black."""
    lit = usual > SETTLED * usual.max()
    if not lit.any():
        return 1.0
    known = _enough(lit & (usual < FULL), lit)
    clear = _enough(known & (plane < FULL), known)
    found = _median(plane[clear] / usual[clear], usual[clear])
    # Where next to nothing was lost, leaving out the saturated cells would change what is compared, for no gain.
    used = _enough(known & ((plane < FULL) | (found * usual <= 1 + LOST)), known)
    x, m = plane[used], usual[used]
    found = _median(x / m, m)
    for _ in range(STEPS):
        off = np.abs(x - found * m)
        near = off <= ODD * SPREAD * np.median(off)
        before, found = found, float(x[near] @ m[near] / (m[near] @ m[near]))
        if abs(found - before) <= SETTLED:
            break
    return found


def _enough(cells: NDArray[np.bool_], otherwise: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return cells if cells.mean() >= ENOUGH else otherwise


def _median(values: Floats, weights: Floats) -> float:
    """The g that makes Σ weights·|values − g| least."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(reached, reached[-1] / 2)]])


def _likeness(planes: Floats) -> float:
    """Median correlation of planes (N, h, w) with the mean of the others; 0 for one, or where all are constant."""
    flat = planes.reshape(len(planes), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    others = flat.sum(axis=0) - flat
    size = np.linalg.norm(flat, axis=1) * np.linalg.norm(others, axis=1)
    return float(np.median(np.divide((flat * others).sum(axis=1), size, out=np.zeros(len(flat)), where=size > 1e-9)))
