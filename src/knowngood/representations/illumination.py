"""The mean illumination of normal images of one kind, and the factor by which that of one image differs from it.

The factor is robust to defects and to saturation: it is a fit by least absolute deviations, refined on the inliers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PrivateAttr
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from knowngood.errors import ArtifactError

Floats = NDArray[np.float64]

SIDE = 64  # cells a side, at most, on which illumination is compared
FULL = 0.98  # a value at least this bright may be saturated
LOST = 0.05  # share of its value that saturation may cost a cell which is still used
ENOUGH = 0.02  # least share of the cells that a selection keeps: a small part on a white ground
LAYOUT = 0.5  # correlation of images with the mean of the others from which they share a layout
INLIER = 3.0  # standard deviations of the residual: cells beyond are excluded from the fit
SPREAD = 1.4826  # standard deviation of a Gaussian over its median absolute deviation
STEPS = 10
TOLERANCE = 1e-6  # relative: the fit has converged; a value is black
EXTREMES = 0.01, 0.99  # quantiles of the factors of normal images


class Illumination(BaseModel):
    """The mean illumination of normal images of one kind, and the range of factors that are corrected.

    Illumination is compared on V of the HSV colours. An image is modelled as g·m + anomalies, with m the mean normal
    image and g the illumination factor. g is fitted first by least absolute deviations, which tolerate anomalies in up
    to half of the image, then by least squares over the cells within 3 standard deviations of that fit.

    low, high: limits of the correction: the 1 % and 99 % quantiles of the factors of normal images, times
        1 − tolerance and 1 + tolerance. A factor beyond a limit is corrected as far as the limit.
    layout: normal images show the same at the same location, and m is their mean. If not, m is a constant.
    images: how many images it was fitted on.
    brightest: the 99 % quantile of the factors of normal images, at least 1; None in a model saved before it was kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float
    high: float
    layout: bool
    images: int
    brightest: float | None = None
    _mean: Floats | None = PrivateAttr(default=None)

    @classmethod
    def fit(cls, planes: Floats, tolerance: float) -> Self:
        """From `planes` of normal images (N, h, w), N ≥ 1; `tolerance` is the share by which the limits go beyond them.

        The mean image is scaled such that the median of their factors is 1.
        """
        mean = planes.mean(axis=0)
        normalised = planes / np.maximum([_factor(plane, mean) for plane in planes], TOLERANCE)[:, None, None]
        layout = _correlation(normalised) >= LAYOUT
        mean = normalised.mean(axis=0) if layout else np.ones_like(mean)
        factors = np.array([_factor(plane, mean) for plane in planes])
        median = float(np.median(factors))
        least, most = np.quantile(factors / median, EXTREMES).tolist() if median > 0 else (1.0, 1.0)
        low, high = (1 - tolerance) * min(1.0, least), (1 + tolerance) * max(1.0, most)
        found = cls(low=max(low, TOLERANCE), high=high, layout=layout, images=len(planes), brightest=max(1.0, most))
        return found._with(mean * median)

    def factor(self, plane: Floats) -> float:
        """Illumination of an image relative to the mean, from its plane (h, w); 1 is the mean, 0 a black image."""
        if self._mean is None:
            raise ArtifactError("the mean illumination is missing; pass the saved tensors to with_state")
        return _factor(plane, self._mean)

    def corrected(self, images: Tensor, factor: float) -> Tensor:
        """Images (..., C, H, W) scaled to 0…1, divided by the factor within the limits; values do not rise above 1.

        Of a saturated value in an image brighter than normal ones only a lower bound is known, that of the division.
        Where images share a layout and the mean normal image is above that bound, it takes the value of the mean: a
        white ground stays white.
        """
        factor = min(max(factor, self.low), self.high)
        divided = torch.minimum(images / factor, images.clamp_min(1))
        if self.brightest is None or factor <= self.brightest or not self.layout or self._mean is None:
            return divided
        mean = max_pool2d(torch.from_numpy(self._mean).to(images)[None, None], 3, 1, 1)  # parts lie a little apart
        mean = interpolate(mean, size=images.shape[-2:], mode="bilinear", align_corners=False)[0].clamp_max(1)
        return torch.where(images >= FULL, torch.maximum(divided, mean), divided)

    def state(self) -> dict[str, Tensor]:
        """The mean image (h, w), float64."""
        assert self._mean is not None
        return {"illumination": torch.from_numpy(self._mean)}

    def with_state(self, tensors: Mapping[str, Tensor]) -> Self:
        """A copy with the mean image that `state` gave. Raises ArtifactError: it is missing."""
        if "illumination" not in tensors or tensors["illumination"].ndim != 2:
            raise ArtifactError("illumination: the mean image is missing; the model is damaged")
        return self._with(tensors["illumination"].detach().cpu().double().numpy())

    def _with(self, mean: Floats) -> Self:
        copy = self.model_copy()
        copy._mean = mean
        return copy


def planes(images: Tensor) -> Floats:
    """Images (B, C, H, W) scaled to 0…1 → V of the HSV colours, means over at most 64 × 64 cells, (B, h, w)."""
    value = images.amax(dim=1, keepdim=True)
    size = [min(side, SIDE) for side in value.shape[-2:]]
    return interpolate(value, size=size, mode="area")[:, 0].double().numpy()


def _factor(plane: Floats, mean: Floats) -> float:
    """g of plane ≈ g·mean, both (h, w); 1 if the mean image is black."""
    bright = mean > TOLERANCE * mean.max()
    if not bright.any():
        return 1.0
    known = _enough(bright & (mean < FULL), bright)
    clear = _enough(known & (plane < FULL), known)
    factor = _median(plane[clear] / mean[clear], mean[clear])
    # Saturated cells that lost next to nothing stay in: excluding them would change what is compared, for no gain.
    used = _enough(known & ((plane < FULL) | (factor * mean <= 1 + LOST)), known)
    x, m = plane[used], mean[used]
    factor = _median(x / m, m)
    for _ in range(STEPS):
        residual = np.abs(x - factor * m)
        inlier = residual <= INLIER * SPREAD * np.median(residual)
        before, factor = factor, float(x[inlier] @ m[inlier] / (m[inlier] @ m[inlier]))
        if abs(factor - before) <= TOLERANCE:
            break
    return factor


def _enough(cells: NDArray[np.bool_], otherwise: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return cells if cells.mean() >= ENOUGH else otherwise


def _median(values: Floats, weights: Floats) -> float:
    """The g that makes Σ weights·|values − g| least."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(reached, reached[-1] / 2)]])


def _correlation(planes: Floats) -> float:
    """Median correlation of planes (N, h, w) with the mean of the others; 0 for one, or where all are constant."""
    flat = planes.reshape(len(planes), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    others = flat.sum(axis=0) - flat
    size = np.linalg.norm(flat, axis=1) * np.linalg.norm(others, axis=1)
    return float(np.median(np.divide((flat * others).sum(axis=1), size, out=np.zeros(len(flat)), where=size > 1e-9)))
