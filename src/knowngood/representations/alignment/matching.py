"""How one grey image lies against another: phase correlation, then refinement of the correlation coefficient.

B. S. Reddy, B. N. Chatterji, "An FFT-based technique for translation, rotation, and scale-invariant image
registration", IEEE Trans. Image Processing 5(8), 1996, for the first; G. D. Evangelidis, E. Z. Psarakis, "Parametric
image alignment using enhanced correlation coefficient maximization", IEEE TPAMI 30(10), 2008, for the second. Neither
is changed by brightness or contrast.

Transforms here are (2, 3) about the middle of an image of `size`, in its pixels, and take reference coordinates to
image coordinates; the planes that are compared may be coarser.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from knowngood.representations.alignment.warping import Floats, Size, sample

Mode = Literal["shift", "rigid", "affine"]

LONGEST, SHORTEST = 128, 32  # sides at which images are compared
TURNS = (0.0, -5.0, 5.0, -10.0, 10.0, -15.0, 15.0)  # degrees, where refinement may start
REACH = 0.25  # of a side, how far a shift is looked for
SMOOTH = 0.15  # cycles a pixel, width of the Gaussian that keeps noise out of the phase correlation
STEPS = 20  # of the refinement, on each level
SETTLED = 0.01  # compared pixels: a step this short is the last
ODD = 3.0  # times the root mean square of what differs: what differs more has no say in the end
SLACK = 0.01  # by which the correlation may fall where each step chooses its pixels
CONSTANT = 1e-6  # spread over size of the values, below which there is nothing to align


@dataclass(frozen=True, eq=False)
class Plane:
    """A grey image (h, w), float32, of mean 0 and variance 1, as it is compared."""

    values: Tensor

    @classmethod
    def of(cls, grey: NDArray[np.floating]) -> Plane | None:
        """From an image (H, W) of any size; None if it is constant."""
        values = torch.from_numpy(np.ascontiguousarray(grey))
        if values.std(correction=0) <= CONSTANT * values.abs().max():
            return None
        values = (values - values.mean())[None, None]
        size = compared_size(grey.shape)
        if size != grey.shape:
            values = interpolate(values, size=size, mode="bilinear", align_corners=False, antialias=True)
        spread = values.std(correction=0)
        return cls((values / spread)[0, 0].float()) if spread > 0 else None

    @cached_property
    def coarse(self) -> Plane:
        """At half the resolution, or itself where that would leave too little."""
        height, width = self.values.shape
        if min(height, width) < 2 * SHORTEST:
            return self
        half = (height // 2, width // 2)
        mode = {"mode": "bilinear", "align_corners": False, "antialias": True}
        return Plane(interpolate(self.values[None, None], size=half, **mode)[0, 0])

    @cached_property
    def slopes(self) -> Tensor:
        """(1, 3, h, w): values, and their slopes to the right and down, a pixel of the plane."""
        down, right = torch.gradient(self.values)
        return torch.stack((self.values, right, down))[None]

    @cached_property
    def spectrum(self) -> Tensor:
        return _spectrum(self.values[None])


def compared_size(size: tuple[int, ...]) -> Size:
    """What an image of `size` is brought to: its longer side at most 128, its shorter at least 32 if it was."""
    share = min(1.0, max(LONGEST / max(size), SHORTEST / min(size)))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def match(reference: Plane, image: Plane, size: Size, mode: Mode) -> Floats:
    """The transform (2, 3) of this mode that makes the image most like the reference, as far as it is found.

    In the end the pixels that differ most are left out, so that a defect does not pull the image towards itself.
    """
    found = _start(reference.coarse, image.coarse, size, TURNS if mode != "shift" else TURNS[:1])
    found = _refine(reference.coarse, image.coarse, found, size, mode)
    return _refine(reference, image, found, size, mode, wary=True)


def correlations(reference: Plane, image: Plane, centred: Floats, size: Size) -> Floats:
    """(2,) correlation as the image lies and where the transform says, over what both show there; NaN: undefined."""
    both = np.stack((np.eye(2, 3), centred))
    values, grid = sample(image.values[None, None], both, size, _shape(reference))
    inside = _inside(grid[1], reference.values)
    return _correlation(reference.values[inside], values[:, 0, inside])


def _start(reference: Plane, image: Plane, size: Size, turns: tuple[float, ...]) -> Floats:
    """The best of: as it lies, and for each angle the shift by phase correlation."""
    angles = np.radians(turns)
    cos, sin = np.cos(angles), np.sin(angles)
    linear = np.stack((cos, sin, -sin, cos), axis=1).reshape(-1, 2, 2)
    starts = np.concatenate((linear, np.zeros((len(angles), 2, 1))), axis=2)
    shape = _shape(reference)
    turned, _ = sample(image.values[None, None], starts, size, shape)
    shifts = _phase_shifts(reference.spectrum, _spectrum(turned[:, 0]), shape) * (
        size[1] / shape[1],
        size[0] / shape[0],
    )
    starts[:, :, 2] = (linear @ shifts[:, :, None])[:, :, 0]
    starts = np.concatenate((np.eye(2, 3)[None], starts))
    values, grid = sample(image.values[None, None], starts, size, shape)
    inside = _inside(grid, reference.values)
    found = [float(_correlation(reference.values[i], v[0, i][None])[0]) for v, i in zip(values, inside, strict=True)]
    return starts[int(np.argmax(np.nan_to_num(found, nan=-1)))]


def _spectrum(planes: Tensor) -> Tensor:
    """(B, h, w) → their spectra under a Hann window."""
    height, width = planes.shape[-2:]
    window = torch.hann_window(height + 2)[1:-1, None] * torch.hann_window(width + 2)[1:-1]
    mean = (planes * window).sum(dim=(1, 2), keepdim=True) / window.sum()
    return torch.fft.rfft2((planes - mean) * window)


def _phase_shifts(reference: Tensor, images: Tensor, shape: Size) -> Floats:
    """(B, 2) how far to the right and down, in pixels of the planes: a parabola through the peak and its neighbours."""
    height, width = shape
    cross = reference.conj() * images
    cross = cross / (cross.abs() + 1e-3 * cross.abs().mean(dim=(1, 2), keepdim=True) + 1e-30)
    frequency = torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width) ** 2
    peaks = torch.fft.irfft2(cross * torch.exp(-frequency / (2 * SMOOTH**2)), s=shape).numpy()
    down, right = max(1, int(REACH * height)), max(1, int(REACH * width))
    rows, columns = np.arange(-down, down + 1), np.arange(-right, right + 1)
    near = peaks[:, rows[:, None], columns]  # negative shifts are at the end
    flat = near.reshape(len(near), -1).argmax(axis=1)
    result = np.empty((len(near), 2))
    for i, (row, column) in enumerate(zip(*np.unravel_index(flat, near.shape[1:]), strict=True)):
        at, along = int(rows[row]), int(columns[column])
        plane = peaks[i]
        beside = plane[at, [(along - 1) % width, along, (along + 1) % width]]
        above = plane[[(at - 1) % height, at, (at + 1) % height], along]
        result[i] = along + _vertex(beside), at + _vertex(above)
    return result


def _vertex(three: NDArray[np.floating]) -> float:
    """Where the parabola through values at −1, 0, 1 has its top, the middle one being the largest."""
    bend = float(2 * three[1] - three[0] - three[2])
    return float(three[2] - three[0]) / (2 * bend) if bend > 0 else 0.0


def _refine(reference: Plane, image: Plane, start: Floats, size: Size, mode: Mode, *, wary: bool = False) -> Floats:
    """Gauss–Newton on the correlation coefficient, until it no longer rises.

    With r the reference, w the image as warped now and G its derivative by the parameters, all without their means,
    the step is d = (GᵀG)⁻¹ Gᵀ(λr − w), λ = (‖w‖² − wᵀPw) / (rᵀw − rᵀPw), P the projection on the columns of G.
    `wary`: over pixels that are usual, a choice made anew for each step; so the coefficient may also fall a little.
    """
    shape = _shape(reference)
    half = np.array([size[1], size[0]]) / 2
    radius = half.max()
    per_pixel = (shape[1] / size[1], shape[0] / size[0])
    settled = SETTLED / max(per_pixel)
    parameters = _parameters(start, mode, radius)
    places = (_places(shape) * half[:, None, None] / radius).reshape(2, -1)
    known = reference.values.flatten().numpy()
    best, highest = start, -1.0
    for _ in range(STEPS):
        centred = _matrix(parameters, radius)
        planes, grid = sample(image.slopes, centred[None], size, shape)
        warped, to_right, to_down = planes[0].flatten(1).numpy()
        inside = _inside(grid[0], reference.values)
        there = inside.flatten().nonzero()[:, 0].numpy()
        if len(there) < inside.numel() // 4:
            break
        r, w = known[there], warped[there]
        if wary:
            there = there[_usual(r, w)]
            r, w = known[there], warped[there]
        right, down = to_right[there], to_down[there]
        r, w = r - r.mean(), w - w.mean()
        rw, ww, rr = float(r @ w), float(w @ w), float(r @ r)
        if not ww * rr > 0:
            break
        correlation = rw / math.sqrt(ww * rr)
        if correlation <= highest - (SLACK if wary else 0):
            break
        best, highest = centred, max(highest, correlation)
        x, y = places[:, there]
        g = _derivatives(right * per_pixel[0], down * per_pixel[1], x, y, parameters, radius)
        g -= g.mean(axis=1, keepdims=True)
        gr, gw = (g @ r).astype(np.float64), (g @ w).astype(np.float64)
        # Directions in which nothing changes, along stripes for example, keep their value.
        to_r, to_w = np.linalg.lstsq((g @ g.T).astype(np.float64), np.stack((gr, gw), axis=1), rcond=1e-5)[0].T
        numerator, denominator = ww - gw @ to_w, rw - gw @ to_r
        if denominator <= 0:
            break
        step = numerator / denominator * to_r - to_w
        parameters = parameters + step
        if np.abs(step).max() < settled:
            break
    return best


def _usual(r: NDArray[Any], w: NDArray[Any]) -> NDArray[np.bool_]:
    """(n,) where the image w is about what the reference r makes it under one brightness and contrast."""
    r, w = r - r.mean(), w - w.mean()
    difference = w - r * (float(r @ w) / max(float(r @ r), 1e-12))
    return np.square(difference) <= ODD**2 * np.square(difference).mean()


def _parameters(centred: Floats, mode: Mode, radius: float) -> Floats:
    """Shift (2,); shift and angle (3,); or all six. But for the shift they count pixels at `radius`."""
    shift, linear = centred[:, 2], centred[:, :2]
    if mode == "shift":
        return shift.copy()
    if mode == "rigid":
        return np.append(shift, math.atan2(linear[0, 1], linear[0, 0]) * radius)
    return np.concatenate((shift, linear.ravel() * radius))


def _matrix(parameters: Floats, radius: float) -> Floats:
    linear = np.eye(2)
    if len(parameters) == 3:
        cos, sin = math.cos(parameters[2] / radius), math.sin(parameters[2] / radius)
        linear = np.array([[cos, sin], [-sin, cos]])
    elif len(parameters) == 6:
        linear = parameters[2:].reshape(2, 2) / radius
    return np.column_stack((linear, parameters[:2]))


def _derivatives(
    right: NDArray[Any], down: NDArray[Any], x: NDArray[Any], y: NDArray[Any], parameters: Floats, radius: float
) -> NDArray[Any]:
    """(K, n) of the warped image by its parameters; x and y in units of `radius`."""
    if len(parameters) == 2:
        return np.stack((right, down))
    if len(parameters) == 3:
        cos, sin = math.cos(parameters[2] / radius), math.sin(parameters[2] / radius)
        return np.stack((right, down, right * (cos * y - sin * x) - down * (cos * x + sin * y)))
    return np.stack((right, down, right * x, right * y, down * x, down * y))


def _places(shape: Size) -> NDArray[np.float32]:
    """(2, h, w) x and y of the centres of pixels, −1 and 1 at the outer edges."""
    y, x = ((2 * np.arange(n, dtype=np.float32) + 1) / n - 1 for n in shape)
    return np.stack(np.broadcast_arrays(x[None, :], y[:, None]))


def _inside(grid: Tensor, planes: Tensor) -> Tensor:
    """Which places (…, h, w, 2) lie between the centres of the outermost pixels."""
    height, width = planes.shape
    edge = torch.tensor([1 - 1 / width, 1 - 1 / height])
    return (grid.abs() <= edge + 1e-6).all(dim=-1)


def _correlation(reference: Tensor, values: Tensor) -> Floats:
    """Of (n,) with each of (B, n)."""
    r = (reference - reference.mean()).double()
    v = (values - values.mean(dim=1, keepdim=True)).double()
    with np.errstate(invalid="ignore"):
        return ((v @ r) / (v.square().sum(dim=1) * r.square().sum()).sqrt()).numpy()


def _shape(plane: Plane) -> Size:
    height, width = plane.values.shape
    return int(height), int(width)
