"""What a model of locations ignores: locations of its grid that do not count, and pixels that have no map."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from knowngood.data.conditions import ConditionSchema
from knowngood.data.imageset import ImageSet
from knowngood.data.regions.blanked import Blanked, model_columns
from knowngood.data.regions.ignore import IgnoreRegions
from knowngood.errors import DataError
from knowngood.models.base import Model
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.representations.alignment.warping import Transform, unwarp

HALF = 0.5  # share of a location or a pixel from which on it counts as ignored


@dataclass(frozen=True, eq=False)
class Ignored:
    """Regions to ignore, by the K cells of a model's conditions: the value that each cell has in their column."""

    regions: IgnoreRegions
    values: Sequence[str | None]  # (K,)

    @classmethod
    def of_model(cls, regions: IgnoreRegions | None, schema: ConditionSchema, model: Model) -> Ignored | None:
        """The grid locations that a patch_gaussian ignores, by its cells; None if nothing is, and for other models.

        Raises:
            DataError: the regions depend on a condition that the model does not see.
        """
        if regions is None or not isinstance(model, PatchGaussian):
            return None
        keys = model.keys.cpu().numpy()
        if regions.column is None:
            return cls(regions, [None] * len(keys))
        start = 0
        for column in model_columns(schema, keys.shape[1]):
            if column.name == regions.column:
                at = keys[:, start : start + column.width].argmax(axis=1)
                return cls(regions, [column.values[i] for i in at])
            start += column.width
        raise DataError(f"regions to ignore depend on condition '{regions.column}', which the model does not have")

    def locations(self, h: int, w: int) -> NDArray[np.bool_]:
        """(K, h·w) locations at least half of which is ignored.

        Raises:
            DataError: nothing is left under a condition.
        """
        ignored = np.stack([self.regions.grid(h, w, value).reshape(-1) <= HALF for value in self.values])
        for value, one in zip(self.values, ignored, strict=True):
            if one.all():
                of = "" if value is None else f" of '{value}'"
                raise DataError(f"regions to ignore{of} leave no location of the {h} × {w} grid; make them smaller")
        if not ignored.any():
            warnings.warn(
                f"regions to ignore cover no location of the {h} × {w} grid by half: they cut maps and regions, and "
                "change no image's score. Draw them larger, or set a larger image_size.",
                stacklevel=2,
            )
        return ignored

    def views(
        self, images: ImageSet, item: NDArray[np.int64], cell: NDArray[np.int64], fill: float
    ) -> tuple[ImageSet, NDArray[np.int64], NDArray[np.int64]]:
        """What rows of these images (M,) under cells (M,) see: `fill` where the row's condition is ignored.

        Returns:
            V images as rows see them; (V,) of which item each one is, ascending; (M,) which of them each row sees.
        """
        names = sorted(set(self.values), key=str)
        number = np.array([names.index(value) for value in self.values])
        pairs, at = np.unique(np.column_stack([item, number[cell]]), axis=0, return_inverse=True)
        values = [names[k] for k in pairs[:, 1]]
        shown = images[pairs[:, 0]]
        pixels = Blanked(shown.pixels, self.regions, values, fill)
        return shown.replace(pixels=pixels), pairs[:, 0], at.reshape(-1)


def filled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map (h, w) whose NaN are the value of the nearest location that has one, for interpolation."""
    missing = np.isnan(values)
    if not missing.any():
        return values
    at: Any = distance_transform_edt(missing, return_distances=False, return_indices=True)
    return values[tuple(at)]


def moved(mask: NDArray[np.bool_], transform: Transform) -> NDArray[np.bool_]:
    """A mask (H, W) drawn on aligned images → of the image that lay where this transform says."""
    if transform.identity:
        return mask
    return unwarp(mask.astype(np.float32), transform, mask.shape) >= HALF
