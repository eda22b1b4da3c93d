"""What a model on features ignores: places of its grid that do not count, and pixels that have no map."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from knowngood.data.columns import Column
from knowngood.data.conditions import ConditionSchema
from knowngood.data.imageset import ImageSet
from knowngood.data.pixel_source import PixelSource
from knowngood.data.regions.ignore import IgnoreRegions
from knowngood.errors import DataError, SettingsError
from knowngood.models.base import Model
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.representations.alignment.warping import Transform, unwarp

HALF = 0.5  # share of a location that is covered, from which on it counts as covered
MASKS = 8  # of sizes and conditions, kept


class Views(NamedTuple):
    """Images as they are looked at: V of them, of item `owner` (V,) each, ascending; row m sees number `at[m]`."""

    images: ImageSet
    owner: NDArray[np.int64]
    at: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ignored:
    """Regions to ignore, by the K cells of a model's conditions: the value that each cell has in their column."""

    regions: IgnoreRegions
    values: Sequence[str | None]  # (K,)

    @classmethod
    def of_model(cls, regions: IgnoreRegions | None, schema: ConditionSchema, model: Model) -> Ignored | None:
        """What a model of locations ignores; None where nothing is."""
        if regions is None or not isinstance(model, PatchGaussian):
            return None
        return cls.of(regions, schema, model.keys.cpu().numpy())

    @classmethod
    def in_pixels(
        cls, regions: IgnoreRegions | None, schema: ConditionSchema, model: Model, representation: Any
    ) -> Ignored | None:
        """The same, where pixels are hidden from the backbone: before images are aligned these are not known."""
        options = getattr(representation, "options", None)
        return None if options is None or options.align != "none" else cls.of_model(regions, schema, model)

    @classmethod
    def of(cls, regions: IgnoreRegions, schema: ConditionSchema, keys: NDArray[Any]) -> Ignored:
        """For the cells with these condition vectors, `keys` (K, W) of `Patches`."""
        if regions.column is None:
            return cls(regions, [None] * len(keys))
        start = 0
        for column in _seen(schema, keys.shape[1]):
            if column.name == regions.column:
                at = keys[:, start : start + column.width].argmax(axis=1)
                return cls(regions, [column.values[i] for i in at])
            start += column.width
        raise DataError(f"regions to ignore depend on condition '{regions.column}', which the model does not have")

    def locations(self, h: int, w: int) -> NDArray[np.bool_]:
        """(K, h·w) places at least half of which is ignored.

        Raises:
            DataError: nothing is left under a condition.
        """
        found = np.stack([self.regions.grid(h, w, value).reshape(-1) <= HALF for value in self.values])
        for value, one in zip(self.values, found, strict=True):
            if one.all():
                of = "" if value is None else f" of '{value}'"
                raise DataError(f"regions to ignore{of} leave no place of the {h} × {w} grid; make them smaller")
        if not found.any():
            warnings.warn(
                f"regions to ignore cover no place of the {h} × {w} grid by half: they cut maps and regions, and "
                "change no image's score. Draw them larger, or set a larger image_size.",
                stacklevel=2,
            )
        return found

    def views(self, images: ImageSet, item: NDArray[np.int64], cell: NDArray[np.int64], fill: float) -> Views:
        """What rows of these images (M,) under cells (M,) see: blank where the row's condition says so."""
        names = sorted(set(self.values), key=str)
        number = np.array([names.index(value) for value in self.values])
        pairs, at = np.unique(np.column_stack([item, number[cell]]), axis=0, return_inverse=True)
        values = [names[k] for k in pairs[:, 1]]
        chosen = images[pairs[:, 0]]
        return Views(
            chosen.replace(pixels=Blanked(chosen.pixels, self.regions, values, fill)), pairs[:, 0], at.reshape(-1)
        )

    def mask(self, shape: tuple[int, int], cell: int) -> NDArray[np.bool_]:
        """(H, W) True where an image under the conditions of a cell is ignored."""
        return self.regions.mask(shape, self.values[cell])


class Blanked:
    """A `PixelSource` whose ignored pixels all have one value: what looks around a place sees nothing of theirs.

    values: (N,) the condition of each image, None where regions do not depend on it.
    """

    def __init__(self, base: PixelSource, regions: IgnoreRegions, values: Sequence[str | None], fill: float) -> None:
        self.base, self.regions, self.values, self.fill = base, regions, values, fill
        self._masks: dict[tuple[tuple[int, ...], str | None], NDArray[np.bool_]] = {}

    def __len__(self) -> int:
        return len(self.base)

    def read(self, i: int) -> np.ndarray:
        """Image i: (H, W, C), native dtype, a copy. Raises DataError as `IgnoreRegions.mask`."""
        image = self.base.read(i).copy()
        key = image.shape[:2], self.values[i]
        if key not in self._masks:
            self._masks = {**dict(list(self._masks.items())[-MASKS:]), key: self.regions.mask(*key)}  # type: ignore[arg-type]
        image[self._masks[key]] = self.fill
        return image

    def take(self, indices: np.ndarray) -> Blanked:
        """The images at `indices` (M,), in that order."""
        chosen = [self.values[int(i)] for i in indices]
        return Blanked(self.base.take(indices), self.regions, chosen, self.fill)

    def shapes(self) -> np.ndarray:
        """(N, 3) int64: height, width, channels."""
        return self.base.shapes()

    def update(self, digest: Any) -> None:
        """Feed all content, that of ignored regions too, to a hashlib object."""
        self.base.update(digest)


def blanked(images: ImageSet, regions: IgnoreRegions, schema: ConditionSchema, fill: float) -> ImageSet:
    """Images whose condition is known, with ignored pixels blank."""
    values: list[str | None] = [None] * len(images)
    if regions.column is not None:
        column = next(column for column in schema.columns if column.name == regions.column)
        values = [column.values[code] for code in column.read(images.conditions[column.name], len(images))[0]]
    return images.replace(pixels=Blanked(images.pixels, regions, values, fill))


def read_ignored(given: Any, schema: ConditionSchema, width: int) -> IgnoreRegions:
    """The regions that the setting `ignore` means, read from their files.

    Regions by value belong to the condition 'product', or else to the one condition that has all these values.

    Args:
        width: entries of the condition vectors that the model sees, 0 if it ignores conditions.

    Raises:
        DataError, SettingsError: as `IgnoreRegions.of`; values that no condition has, or more than one has.
    """
    regions = IgnoreRegions.of(given)
    if regions.column is None:
        return regions
    columns = [column for column in _seen(schema, width) if column.kind == "categorical"]
    if not columns:
        raise SettingsError(
            f"regions to ignore are given by value ({', '.join(regions.areas)}), and the model sees no condition with "
            "values; give the condition, and an objective that uses conditions, or one set of regions for all images"
        )
    named = [column for column in columns if column.name == regions.column]
    having = [column for column in columns if set(regions.areas) <= set(column.values)]
    if not named and len(having) > 1:
        raise SettingsError(
            f"regions to ignore of {', '.join(regions.areas)}: the conditions "
            f"{' and '.join(column.name for column in having)} both have these values; name one of them 'product'"
        )
    column = (named or having or columns)[0]
    regions = dataclasses.replace(regions, column=column.name)
    regions.check_values(column.values)
    return regions


def filled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map (h, w) whose NaN are the value of the nearest place that has one, for interpolation."""
    from scipy.ndimage import distance_transform_edt

    missing = np.isnan(values)
    if not missing.any():
        return values
    at: Any = distance_transform_edt(missing, return_distances=False, return_indices=True)
    return values[tuple(at)]


def moved(mask: NDArray[np.bool_], transform: Transform) -> NDArray[np.bool_]:
    """A mask (H, W) drawn on images in their usual place → of the image that lay where this transform says."""
    if transform.identity:
        return mask
    return unwarp(mask.astype(np.float32), transform, mask.shape) >= HALF


def _seen(schema: ConditionSchema, width: int) -> list[Column]:
    """The columns in a condition vector of so many entries."""
    return [column for column in schema.columns if column.width] if width else []
