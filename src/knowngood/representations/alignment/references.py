"""Images registered to the mean normal image of their kind and corrected to its mean illumination, before the backbone.

A kind of image is a combination of values of the categorical conditions that the model sees, a product for example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from knowngood.config import FeatureOptions
from knowngood.data.columns import Column
from knowngood.data.imageset import ImageSet
from knowngood.data.pose.geometry import Quality, Size
from knowngood.data.progress import track
from knowngood.errors import DataError, SettingsError
from knowngood.representations.alignment.registration import Registration, grey
from knowngood.representations.alignment.warping import Transform, warp
from knowngood.representations.base import raise_first
from knowngood.representations.illumination import Illumination, planes
from knowngood.representations.pixels import Pixels

KEPT = 256  # images that a reference is estimated from, at most
AT_ONCE = 32  # images
NO_QUALITY = Quality(float("nan"), float("nan"))
UNKNOWN = "its kind is not known: a condition is missing or new, so there is no mean normal image to align it to"


class Reference(BaseModel):
    """The mean normal image and the mean illumination of one kind of image.

    codes: of its values of the columns. name: the same in words, "product=bottle"; empty if there is one kind only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    codes: tuple[int, ...]
    name: str
    registration: Registration | None = None
    illumination: Illumination | None = None

    @property
    def parts(self) -> dict[str, Registration | Illumination]:
        """Those of the two that it has."""
        parts = {"registration": self.registration, "illumination": self.illumination}
        return {name: part for name, part in parts.items() if part is not None}


class References(BaseModel):
    """The reference of each kind, to which images are registered. Fitted once; plain JSON, and tensors beside it.

    columns: the conditions whose values define the kinds.
    by_kind: one reference a kind.
    size: (H, W) of prepared images.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: tuple[Column, ...]
    by_kind: tuple[Reference, ...]
    size: Size

    @classmethod
    def fit(
        cls, images: ImageSet, pixels: Pixels, options: FeatureOptions, columns: tuple[Column, ...] = ()
    ) -> References | None:
        """From normal images, at most 256 of each kind, by `align` and `illumination`; None if neither is set.

        Args:
            columns: the conditions as fitted. Categorical ones with the role "model" count.

        Raises:
            SettingsError: `illumination` with pixels whose 0 is not black.
            DataError: an image cannot be read, or too few of a kind can be aligned.
        """
        tolerance, mode = options.illumination, options.align
        mode = "none" if mode in ("auto", "pose") else mode
        if tolerance is None and mode == "none":
            return None
        if tolerance is not None and pixels.low:
            raise SettingsError(
                f"features: illumination = {tolerance:g} needs images on which 0 is black; "
                "give scaling=(0, largest value)"
            )
        columns = tuple(column for column in columns if column.kind == "categorical" and "model" in column.roles)
        codes = _codes(columns, images.conditions, len(images))
        kinds, kind = np.unique(codes, axis=0, return_inverse=True)
        references = []
        for k, row in enumerate(kinds.tolist()):
            index = np.flatnonzero(kind.reshape(-1) == k)
            index = index[np.unique(np.linspace(0, len(index) - 1, KEPT).astype(int))]
            names = (column.code_names[code] for column, code in zip(columns, row, strict=True))
            reference = Reference(codes=tuple(row), name=", ".join(names))
            if mode != "none":
                greys = (grey(image) for image in _images(images, pixels, index))
                try:
                    reference = reference.model_copy(update={"registration": Registration.fit(greys, mode)})
                except DataError as error:
                    raise DataError(f"{reference.name}: {error}" if reference.name else str(error)) from None
            if tolerance is not None:
                values = [_plane(_registered(image, reference)[0]) for image in _images(images, pixels, index)]
                reference = reference.model_copy(update={"illumination": Illumination.fit(np.stack(values), tolerance)})
            references.append(reference)
        return cls(columns=columns, by_kind=tuple(references), size=pixels.shape[1:])

    def kinds(self, conditions: Mapping[str, Any], n: int) -> NDArray[np.int64]:
        """(n,) number of the reference of each of n images with these conditions; −1 if unknown.

        With a single reference all images have it.
        """
        if len(self.by_kind) == 1:
            return np.zeros(n, dtype=np.int64)
        codes = _codes(self.columns, conditions, n)
        same = (codes[:, None] == np.array([reference.codes for reference in self.by_kind])).all(axis=2)
        return np.where(same.any(axis=1), same.argmax(axis=1), -1)

    def register(self, images: Tensor, kinds: NDArray[np.int64]) -> tuple[Tensor, list[Transform]]:
        """Scaled images (B, C, H, W) on the CPU, registered to the references `kinds` (B,) and with their illumination.

        With them the transforms to the mean normal images. An image of the kind −1 is left as it is.
        """
        registered, transforms = images.clone(), []
        for i, kind in enumerate(kinds.tolist()):
            if kind < 0:
                aligns = any(reference.registration for reference in self.by_kind)
                transforms.append(unchanged(self.size, UNKNOWN if aligns else ""))
                continue
            reference = self.by_kind[kind]
            moved, transform = _registered(images[i].permute(1, 2, 0).numpy(), reference)
            transforms.append(transform)
            if not transform.identity:
                registered[i] = torch.from_numpy(moved).permute(2, 0, 1)
            if reference.illumination is not None:
                factor = reference.illumination.factor(_plane(moved))
                registered[i] = reference.illumination.corrected(registered[i], factor)
        return registered, transforms

    def state(self) -> dict[str, Tensor]:
        """All references by number: "0.reference", "0.illumination", …"""
        parts = ((k, part) for k, reference in enumerate(self.by_kind) for part in reference.parts.values())
        return {f"{k}.{name}": tensor for k, part in parts for name, tensor in part.state().items()}

    def with_state(self, tensors: Mapping[str, Tensor]) -> Self:
        """A copy with the references that `state` gave. Raises ArtifactError: some are missing, or of another shape."""
        loaded = []
        for k, reference in enumerate(self.by_kind):
            own = {name.removeprefix(f"{k}."): tensor for name, tensor in tensors.items() if name.startswith(f"{k}.")}
            parts = {name: part.with_state(own) for name, part in reference.parts.items()}
            loaded.append(reference.model_copy(update=parts))
        return self.model_copy(update={"by_kind": tuple(loaded)})


def unchanged(size: Size, reason: str = "") -> Transform:
    """The identity, as the transform of an image that is not registered; `reason` says why if it should have been."""
    return Transform(np.eye(2, 3), size, NO_QUALITY, accepted=not reason, reason=reason)


def _registered(image: np.ndarray, reference: Reference) -> tuple[np.ndarray, Transform]:
    """The image (H, W, C) registered to the reference, and its transform."""
    if reference.registration is None:
        return image, unchanged((image.shape[0], image.shape[1]))
    transform = reference.registration.locate(grey(image))
    return warp(image, transform), transform


def _plane(image: np.ndarray) -> NDArray[np.float64]:
    return planes(torch.from_numpy(image).permute(2, 0, 1)[None])[0]


def _images(images: ImageSet, pixels: Pixels, index: np.ndarray) -> Iterator[np.ndarray]:
    """Those at `index`, scaled: (H, W, C) float32. Raises DataError if one cannot be read."""
    for part in track(np.split(index, range(AT_ONCE, len(index), AT_ONCE)), "alignment", len(index), size=len):
        prepared, errors = pixels.read(images, part)
        raise_first(images.ids, errors)
        yield from pixels.scale(torch.from_numpy(prepared)).permute(0, 2, 3, 1).numpy()


def _codes(columns: tuple[Column, ...], conditions: Mapping[str, Any], n: int) -> NDArray[np.int64]:
    """(n, columns) codes of the values, −1 for a missing or new one."""
    codes = np.full((n, len(columns)), -1, dtype=np.int64)
    for i, column in enumerate(columns):
        if column.name in conditions:
            codes[:, i] = column.read(conditions[column.name], n)[0]
    return codes
