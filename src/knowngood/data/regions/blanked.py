"""Images whose ignored regions are blank, and the regions that a user's setting means for a set of conditions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knowngood.config import nearest
from knowngood.data.columns import Column
from knowngood.data.conditions import ConditionSchema
from knowngood.data.imageset import ImageSet
from knowngood.data.pixel_source import PixelSource
from knowngood.data.readers.limits import Limits
from knowngood.data.regions.ignore import IgnoreRegions
from knowngood.errors import SettingsError

MASKS = 8  # of sizes and conditions, kept


class Blanked:
    """A `PixelSource` whose ignored pixels all have one value, so that features around them do not depend on them.

    values: (N,) the condition of each image, None where regions do not depend on it.
    """

    def __init__(self, base: PixelSource, regions: IgnoreRegions, values: Sequence[str | None], fill: float) -> None:
        self.base, self.regions, self.values, self.fill = base, regions, values, fill
        self.limits = getattr(base, "limits", None)  # of masks too
        self._masks: dict[tuple[tuple[int, int], str | None], NDArray[np.bool_]] = {}

    def __len__(self) -> int:
        return len(self.base)

    def read(self, i: int) -> np.ndarray:
        """Image i: (H, W, C), native dtype, a copy. Raises DataError as `IgnoreRegions.mask`."""
        image = self.base.read(i).copy()
        height, width = image.shape[:2]
        key = (height, width), self.values[i]
        if key not in self._masks:
            self._masks = {**dict(list(self._masks.items())[-MASKS:]), key: self.regions.mask(*key)}
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
    """Images whose condition is known, with ignored pixels set to `fill`."""
    values: list[str | None] = [None] * len(images)
    if regions.column is not None:
        column = next(column for column in schema.columns if column.name == regions.column)
        values = [column.values[code] for code in column.read(images.conditions[column.name], len(images))[0]]
    return images.replace(pixels=Blanked(images.pixels, regions, values, fill))


def read_ignored(given: Any, schema: ConditionSchema, width: int, limits: Limits | None = None) -> IgnoreRegions:
    """The regions that the setting `ignore` means, read from their files.

    Regions by value belong to the condition 'product', or else to the one condition that has all these values.

    Args:
        width: entries of the condition vectors that the model sees, 0 if it ignores conditions. limits: of mask files.

    Raises:
        DataError, SettingsError: as `IgnoreRegions.of`; values that no condition has, or more than one has.
    """
    regions = IgnoreRegions.of(given, limits)
    if regions.column is None:
        return regions
    columns = [column for column in model_columns(schema, width) if column.kind == "categorical"]
    if not columns:
        raise SettingsError(
            f"regions to ignore are given by value ({', '.join(regions.areas)}), and the model sees no condition with "
            "values; give the condition, and a model that uses conditions, or one set of regions for all images"
        )
    named = [column for column in columns if column.name == regions.column]
    having = [column for column in columns if set(regions.areas) <= set(column.values)]
    if not named and len(having) > 1:
        raise SettingsError(
            f"regions to ignore of {', '.join(regions.areas)}: the conditions "
            f"{' and '.join(column.name for column in having)} both have these values; name one of them 'product'"
        )
    column = (named or having or columns)[0]
    new = [value for value in regions.areas if value not in column.values]
    if new:
        raise SettingsError(
            f"regions to ignore: condition '{column.name}' has no value '{new[0]}'{nearest(new[0], [*column.values])}"
        )
    return dataclasses.replace(regions, column=column.name)


def model_columns(schema: ConditionSchema, width: int) -> list[Column]:
    """The columns in a condition vector of so many entries, in its order."""
    return [column for column in schema.columns if column.width] if width else []
