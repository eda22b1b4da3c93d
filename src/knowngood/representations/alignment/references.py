"""Images brought to the place and the light in which good ones of their kind usually are, before features are made.

What is usual is learned for every kind of image, a combination of values of the categorical conditions that the nets
see: a product, say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from knowngood.config import FeatureOptions
from knowngood.data.columns import Column
from knowngood.data.imageset import ImageSet
from knowngood.errors import DataError, SettingsError
from knowngood.representations.alignment.registration import KEPT, Registration, grey
from knowngood.representations.alignment.warping import Quality, Size, Transform, warp
from knowngood.representations.illumination import Illumination, planes
from knowngood.representations.pixels import Pixels

AT_ONCE = 32  # images
NO_QUALITY = Quality(float("nan"), float("nan"))
UNKNOWN = "which mean normal image it belongs to is not known, since a condition is not"


class Reference(BaseModel):
    """What is usual of one kind of image.

    codes: of its values of the columns. name: the same in words, "product=bottle"; empty where there is one kind.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    codes: tuple[int, ...]
    name: str
    registration: Registration | None = None
    illumination: Illumination | None = None

    def tensors(self) -> dict[str, Tensor]:
        parts = (self.registration, self.illumination)
        return {name: tensor for part in parts if part is not None for name, tensor in part.tensors().items()}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Reference:
        parts = {"registration": self.registration, "illumination": self.illumination}
        return self.model_copy(update={k: v.with_tensors(tensors) for k, v in parts.items() if v is not None})


class Registered(NamedTuple):
    """Images where and as light as usual.

    images: (B, C, H, W), scaled.
    transforms: where each image lay, one an image.
    factors: (B,) how many times as light as usual each was, whether all of that was undone or not; NaN if not known.
    """

    images: Tensor
    transforms: list[Transform]
    factors: NDArray[np.float64]


class References(BaseModel):
    """References by kind, and how images are brought to them. Fitted once; plain JSON, and tensors beside it.

    columns: the conditions that tell kinds apart.
    size: (H, W) of prepared images.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: tuple[Column, ...]
    references: tuple[Reference, ...]
    size: Size

    @classmethod
    def fit(
        cls, images: ImageSet, pixels: Pixels, options: FeatureOptions, columns: tuple[Column, ...] = ()
    ) -> References | None:
        """From good images, at most 256 of each kind, by `align` and `illumination`; None if neither is set.

        Args:
            columns: the conditions as fitted. Categorical ones with the role "model" count.

        Raises:
            SettingsError: `illumination` with pixels whose 0 is not black.
            DataError: an image cannot be read, or too few of a kind can be aligned.
        """
        tolerance, mode = options.illumination, options.align
        if tolerance is None and mode == "none":
            return None
        if tolerance is not None and pixels.low:
            raise SettingsError(
                f"illumination = {tolerance:g} needs images on which 0 is no light; give scaling=(0, largest value)"
            )
        columns = tuple(column for column in columns if column.kind == "categorical" and "model" in column.roles)
        codes = _codes(columns, images.conditions, len(images))
        kinds, kind = np.unique(codes, axis=0, return_inverse=True)
        references = []
        for k, row in enumerate(kinds.tolist()):
            some = np.flatnonzero(kind.reshape(-1) == k)
            some = some[np.unique(np.linspace(0, len(some) - 1, KEPT).astype(int))]
            names = (column.code_names[code] for column, code in zip(columns, row, strict=True))
            reference = Reference(codes=tuple(row), name=", ".join(names))
            if mode != "none":
                seen = (grey(image) for image in _images(images, pixels, some))
                try:
                    reference = reference.model_copy(update={"registration": Registration.fit(seen, mode)})
                except DataError as error:
                    raise DataError(f"{reference.name}: {error}" if reference.name else str(error)) from None
            if tolerance is not None:
                lit = [_plane(_placed(image, reference)[0]) for image in _images(images, pixels, some)]
                reference = reference.model_copy(update={"illumination": Illumination.fit(np.stack(lit), tolerance)})
            references.append(reference)
        return cls(columns=columns, references=tuple(references), size=pixels.shape[1:])

    def kinds(self, conditions: Mapping[str, Any], n: int) -> NDArray[np.int64]:
        """(n,) which reference each of n images with these conditions belongs to; −1 if it is not known.

        Where there is one reference only all belong to it.
        """
        if len(self.references) == 1:
            return np.zeros(n, dtype=np.int64)
        codes = _codes(self.columns, conditions, n)
        same = (codes[:, None] == np.array([reference.codes for reference in self.references])).all(axis=2)
        return np.where(same.any(axis=1), same.argmax(axis=1), -1)

    def register(self, images: Tensor, kinds: NDArray[np.int64]) -> Registered:
        """Scaled images (B, C, H, W) on the CPU, each of the kind that `kinds` (B,) tells; −1 stays as it is."""
        found, transforms, factors = images.clone(), [], np.full(len(images), np.nan)
        for i, kind in enumerate(kinds.tolist()):
            if kind < 0:
                aligns = any(reference.registration for reference in self.references)
                transforms.append(as_it_is(self.size, UNKNOWN if aligns else ""))
                continue
            reference = self.references[kind]
            placed, transform = _placed(images[i].permute(1, 2, 0).numpy(), reference)
            transforms.append(transform)
            if not transform.identity:
                found[i] = torch.from_numpy(placed).permute(2, 0, 1)
            if reference.illumination is not None:
                factors[i] = reference.illumination.factor(_plane(placed))
                found[i] = reference.illumination.undone(found[i], float(factors[i]))
        return Registered(found, transforms, factors)

    def tensors(self) -> dict[str, Tensor]:
        """All references by number: "0.reference", "0.light", …"""
        each = enumerate(self.references)
        return {f"{k}.{name}": tensor for k, reference in each for name, tensor in reference.tensors().items()}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """The same with the references that `tensors` gave.

        Raises:
            ArtifactError: some are missing, or of another shape.
        """
        parts = [
            {name.removeprefix(f"{k}."): tensor for name, tensor in tensors.items() if name.startswith(f"{k}.")}
            for k in range(len(self.references))
        ]
        loaded = (r.with_tensors(part) for r, part in zip(self.references, parts, strict=True))
        return self.model_copy(update={"references": tuple(loaded)})


def as_it_is(size: Size, reason: str = "") -> Transform:
    """The transform of an image that is not moved, and why not, if it should have been."""
    return Transform(np.eye(2, 3), size, NO_QUALITY, accepted=not reason, reason=reason)


def _placed(image: np.ndarray, reference: Reference) -> tuple[np.ndarray, Transform]:
    """The image (H, W, C) where images of its kind are, and where it was."""
    if reference.registration is None:
        return image, as_it_is((image.shape[0], image.shape[1]))
    transform = reference.registration.locate(grey(image))
    return warp(image, transform), transform


def _plane(image: np.ndarray) -> NDArray[np.float64]:
    return planes(torch.from_numpy(image).permute(2, 0, 1)[None])[0]


def _images(images: ImageSet, pixels: Pixels, index: np.ndarray) -> Iterator[np.ndarray]:
    """Those at `index`, prepared and scaled: (H, W, C) float32.

    Raises:
        DataError: one cannot be read.
    """
    for some in np.split(index, range(AT_ONCE, len(index), AT_ONCE)):
        prepared, errors = pixels.read(images, some)
        if errors:
            first = min(errors)
            raise DataError(f"{images.ids[first]}: {errors[first]}")
        yield from pixels.scale(torch.from_numpy(prepared)).permute(0, 2, 3, 1).numpy()


def _codes(columns: tuple[Column, ...], conditions: Mapping[str, Any], n: int) -> NDArray[np.int64]:
    """(n, columns) codes of the values, −1 for one that is missing or new."""
    found = np.full((n, len(columns)), -1, dtype=np.int64)
    for i, column in enumerate(columns):
        if column.name in conditions:
            found[:, i] = column.read(conditions[column.name], n)[0]
    return found
