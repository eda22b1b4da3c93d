"""Registration: images warped to the position of the mean normal image, within limits of shift, rotation and scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PrivateAttr
from torch import Tensor

from knowngood.config.words import in_pixels
from knowngood.data.pose.geometry import Floats, Quality, Size, inverse
from knowngood.errors import ArtifactError, DataError
from knowngood.representations.alignment.matching import Mode, Plane, compared_size, correlations, match, plane
from knowngood.representations.alignment.warping import (
    Transform,
    compose,
    from_centred,
    rotation_of,
    sample,
)

LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601

MAX_SHIFT = 0.10  # share of the side
MAX_ROTATION = 15.0  # degrees
MAX_SCALE = 0.10  # larger or smaller, in any direction
SLACK = 0.01  # loss of correlation within which an image counts as aligned as well as can be
IN_PLACE = 0.05  # compared pixels: an image displaced by less is not warped
LEAST = 0.3  # correlation with the reference below which nothing is aligned
SHARE = 0.5  # of the median correlation of the normal images, likewise
ENOUGH = 0.5  # share of the normal images that must align
SMALLEST = 2  # pixels a side that a gradient needs


class Registration(BaseModel):
    """The mean normal image (the reference), to which images are registered. Fitted once; plain JSON, and one tensor.

    mode: "shift"; "rigid": shift and rotation; "affine": shift and any small linear map.
    size: (H, W) of the images.
    floor: the least correlation with the reference, after alignment, that counts as the same subject.
    images, aligned: number of images considered, and of those whose mean the reference is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode
    size: Size
    floor: float
    images: int
    aligned: int
    _reference: Plane | None = PrivateAttr(default=None)

    @classmethod
    def fit(cls, images: Iterable[np.ndarray], mode: Mode = "shift") -> Self:
        """From grey images (H, W), floats, all of one size. They are held at the compared size, 64 KB each.

        All images are aligned to the one that correlates best with their mean, then to the mean of the aligned images;
        the mean after that is the reference, at the average position of the images.

        Raises:
            DataError: there are none, they have a side of 1 pixel or differ in size, values are not finite, all are
                constant, or fewer than half of them align.
        """
        planes, size = _planes(images)
        stack = np.stack(planes)
        correlation = (stack * stack.mean(axis=0)).mean(axis=(1, 2))
        reference = planes[int(correlation.argmax())]
        floor, spread, members = 0.0, 1.0, list[int]()
        for least in (0.0, LEAST):
            draft = cls(mode=mode, size=size, floor=least, images=len(planes), aligned=0)._with(reference)
            transforms = [draft._locate(each) for each in planes]
            correlation = np.array([transform.quality.after for transform in transforms])
            correlation[members] = _leave_one_out(correlation[members], len(members), spread)
            members = [i for i, transform in enumerate(transforms) if transform.accepted and correlation[i] >= least]
            if len(members) < ENOUGH * len(planes):
                raise DataError(
                    f"alignment by {mode}: only {len(members):,} of {len(planes):,} normal images can be brought to "
                    f"the mean of the others (a correlation of {LEAST:g}, within the limits of shift, rotation and "
                    "scale). Leave alignment off, or give images of one subject in about the same position."
                )
            reference, spread = _mean([planes[i] for i in members], [transforms[i].centred for i in members], size)
            floor = max(LEAST, SHARE * float(np.median(correlation[members])))
        return cls(mode=mode, size=size, floor=floor, images=len(planes), aligned=len(members))._with(reference)

    def locate(self, image: NDArray[np.floating]) -> Transform:
        """The transform of a grey image (H, W) to the reference.

        It is the identity for an image that is in position already, or that no alignment improves, and for one that
        cannot be aligned. Then it gives the reason: the image is constant, its correlation with the reference is too
        low or falls, or the transform exceeds a limit.

        Raises:
            DataError: not of the size fitted on, or values that are not finite.
            ArtifactError: the reference is missing, see `with_state`.
        """
        if image.shape != self.size:
            raise DataError(
                f"an image to align is {in_pixels(image.shape)} px, alignment was fitted on {in_pixels(self.size)}; "
                "resize it first"
            )
        return self._locate(_plane(image))

    def state(self) -> dict[str, Tensor]:
        """The reference (h, w), float32, of mean 0 and variance 1, at the compared size."""
        return {"reference": torch.from_numpy(self._known())}

    def with_state(self, tensors: Mapping[str, Tensor]) -> Self:
        """A copy with the reference that `state` gave. Raises ArtifactError: it is missing, or of another shape."""
        expected = compared_size(self.size)
        reference = tensors.get("reference")
        if reference is None or tuple(reference.shape) != expected:
            given = "none" if reference is None else f"one of shape {tuple(reference.shape)}"
            raise ArtifactError(f"alignment: expected a reference of shape {expected}, got {given}; model is damaged")
        return self._with(reference.detach().cpu().float().numpy())

    def _with(self, reference: Plane) -> Self:
        copy = self.model_copy()
        copy._reference = reference
        return copy

    def _known(self) -> Plane:
        if self._reference is None:
            raise ArtifactError("alignment has no reference; pass the saved tensors to with_state")
        return self._reference

    def _locate(self, image: Plane | None) -> Transform:
        reference = self._known()
        if image is None:
            return self._identity(Quality(float("nan"), float("nan")), "the image is constant")
        centred = match(reference, image, self.size, self.mode)
        before, after = correlations(reference, image, centred, self.size)
        return self.judged(centred, Quality(before, after))

    def judged(self, centred: Floats, quality: Quality) -> Transform:
        """The transform about the middle: accepted, the identity if it gains nothing, or refused with a reason."""
        if not quality.after >= self.floor:
            return self._identity(
                quality,
                f"its correlation with the mean normal image is at most {quality.after:.2f}; "
                f"{self.floor:.2f} is the least that counts as the same subject",
            )
        if beyond := self._beyond(centred):
            return self._identity(quality, beyond)
        gain = quality.after - quality.before
        if self._moved(centred) < IN_PLACE or -SLACK <= gain <= 0:
            return self._identity(Quality(quality.before, quality.before))
        if gain < 0:
            return self._identity(
                quality, "no alignment was found that raises its correlation with the mean normal image"
            )
        return Transform(from_centred(centred, self.size), self.size, quality)

    def _beyond(self, centred: Floats) -> str:
        """The limit that the transform exceeds, in words; empty if none."""
        for moved, side in zip(centred[:, 2].tolist(), reversed(self.size), strict=True):
            if abs(moved) > MAX_SHIFT * side:
                return f"it lies {abs(moved):.1f} pixels away; the limit is {MAX_SHIFT * side:.1f}"
        if abs(turn := rotation_of(centred)) > MAX_ROTATION:
            return f"it is turned by {turn:.1f} degrees; the limit is {MAX_ROTATION:g}"
        for stretch in np.linalg.svd(centred[:, :2], compute_uv=False).tolist():
            if abs(stretch - 1) > MAX_SCALE + 1e-9:
                return f"it is {stretch:.2f} times as large; the limits are {1 - MAX_SCALE:g} and {1 + MAX_SCALE:g}"
        return ""

    def _moved(self, centred: Floats) -> float:
        """The largest displacement of a corner, in compared pixels."""
        height, width = self.size
        corners = np.array([[x * width / 2, y * height / 2, 1] for x in (-1, 1) for y in (-1, 1)])
        moved = np.abs(corners @ (centred - np.eye(2, 3)).T).max()
        return float(moved) * max(compared_size(self.size)) / max(self.size)

    def _identity(self, quality: Quality, reason: str = "") -> Transform:
        return Transform(np.eye(2, 3), self.size, quality, accepted=not reason, reason=reason)


def grey(image: np.ndarray) -> NDArray[np.floating]:
    """(H, W, C), any dtype → (H, W) floats: luminance of three channels, else the mean. DataError: not (H, W, C)."""
    if image.ndim != 3:
        raise DataError(f"an image to align has shape {image.shape}; expected (height, width, channels)")
    wide = image.dtype.itemsize > 2 and image.dtype != np.float32
    values = image.astype(np.float64 if wide else np.float32)
    channels = values.shape[2]
    weights = LUMINANCE if channels == 3 else np.full(channels, 1 / channels)
    return values @ weights.astype(values.dtype)


def _planes(images: Iterable[np.ndarray]) -> tuple[list[Plane], Size]:
    """The planes of the images, without the constant ones; and the image size."""
    planes: list[Plane | None] = []
    size: Size | None = None
    for i, image in enumerate(images):
        size = size or (int(image.shape[0]), int(image.shape[1]))
        if min(size) < SMALLEST:
            raise DataError(
                f"alignment needs images of at least {SMALLEST} pixels a side; these are {in_pixels(size)}. Leave it "
                "off: align = 'none'"
            )
        if image.shape != size:
            raise DataError(
                f"alignment: image {i} has shape {image.shape}, the first one {size}; expected grey images of one size"
            )
        planes.append(_plane(image))
    kept = [each for each in planes if each is not None]
    if size is None or not kept:
        what = "there are none" if size is None else f"all {len(planes):,} images are constant"
        raise DataError(f"alignment needs images that are not constant; {what}")
    return kept, size


def _plane(image: NDArray[np.floating]) -> Plane | None:
    if not np.isfinite(image).all():
        raise DataError("an image to align holds NaN or infinite values")
    return plane(image)


def _mean(planes: list[Plane], centred: list[Floats], size: Size) -> tuple[Plane, float]:
    """The mean of the aligned images, each where it has pixels, at their average position; and its spread."""
    back = inverse(np.mean(centred, axis=0))
    total, count = np.zeros(planes[0].shape), np.zeros(planes[0].shape)
    for each, transform in zip(planes, centred, strict=True):
        shape = (each.shape[0], each.shape[1])
        moved, grid = sample(torch.from_numpy(each)[None, None], compose(transform, back), size, shape)
        weight = (grid[0].abs() <= 1).all(dim=-1).numpy() + 1e-3  # where no image has any pixel, their repeated edges
        total, count = total + moved[0, 0].numpy() * weight, count + weight
    mean = total / count
    spread = float(mean.std())
    return ((mean - mean.mean()) / spread).astype(np.float32), spread


def _leave_one_out(correlation: Floats, n: int, spread: float) -> Floats:
    """Correlations of images of variance 1 with the mean of n that includes them → with that of the others."""
    if n < 2:
        return correlation
    total = n * spread
    rest = np.maximum(total**2 - 2 * total * correlation + 1, 1e-12)  # variance of the sum of the others
    return (total * correlation - 1) / np.sqrt(rest)
