"""Regions of an anomaly map: connected pixels above a threshold, with what one asks about each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knowngood.calibration.conformal import p_values
from knowngood.errors import DataError, SettingsError

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, slots=True)
class Region:
    """One connected region of a map. Positions are (row, column) of pixels, from 0.

    label: its number, from 1 in falling order of the peaks. area: pixels.
    peak: the map's largest value in it. peak_at: where, the first in reading order. box: (top, left, bottom, right),
    half-open: `map[top:bottom, left:right]`. centroid: mean position of its pixels. mean: mean value.
    p_value: (1 + #{maxima of normal images ≥ peak}) / (n + 1); None if no maxima were given.
    """

    label: int
    area: int
    peak: float
    peak_at: tuple[int, int]
    box: tuple[int, int, int, int]
    centroid: tuple[float, float]
    mean: float
    p_value: float | None


def find_regions(
    values: ArrayLike, threshold: float, *, min_area: int = 1, maxima: ArrayLike | None = None
) -> list[Region]:
    """Regions of a map (H, W): pixels strictly above the threshold that touch by a side or a corner.

    Args:
        values: (H, W), taken as float32; NaN pixels are ignored and in no region. Higher is more anomalous.
        threshold: of a `Calibration` of such maxima; +inf finds nothing.
        min_area: regions of fewer pixels are dropped.
        maxima: (n,) largest values of the maps of calibration normals, see `largest_value`, for p-values.

    Returns:
        In falling order of their peaks; of equal peaks the one that comes first in reading order leads.

    Raises:
        DataError: the map is not (H, W), or a maximum is not finite.
        SettingsError: the threshold is NaN or `min_area` below 1.
    """
    from scipy import ndimage

    if np.isnan(threshold):
        raise SettingsError("the threshold of a region is NaN; expected a number, or inf to find nothing")
    if min_area < 1:
        raise SettingsError(f"min_area = {min_area}; expected a number of pixels, at least 1")
    image = _checked_map(values)
    above = image > _rounded_down(threshold)
    labels = np.zeros(image.shape, dtype=np.int32)
    n: int = ndimage.label(above, structure=np.ones((3, 3)), output=labels)  # pyright: ignore[reportAssignmentType]
    if n == 0:
        return []

    at = np.flatnonzero(above)
    label, value = labels.ravel()[at] - 1, image.ravel()[at].astype(np.float64)
    area = np.bincount(label, minlength=n)
    peak = np.full(n, -np.inf)
    np.maximum.at(peak, label, value)
    reach = value == peak[label]  # in reading order, so the first of each label is its peak
    first = np.unique(label[reach], return_index=True)[1]
    peak_at = at[reach][first]
    order = np.lexsort((peak_at, -peak))
    order = order[area[order] >= min_area]

    rename = np.zeros(n + 1, dtype=np.int32)
    rename[order + 1] = np.arange(1, len(order) + 1)
    labels = rename[labels]
    row, column = np.divmod(at, image.shape[1])
    centroid = np.stack([np.bincount(label, row, n), np.bincount(label, column, n)], axis=1) / area[:, None]
    mean = np.bincount(label, value, n) / area
    p = [None] * len(order) if maxima is None else p_values(maxima, peak[order]).tolist()
    boxes = ndimage.find_objects(labels)
    return [
        Region(
            label=i + 1,
            area=int(area[k]),
            peak=float(peak[k]),
            peak_at=(int(peak_at[k]) // image.shape[1], int(peak_at[k]) % image.shape[1]),
            box=(rows.start, columns.start, rows.stop, columns.stop),
            centroid=(float(centroid[k, 0]), float(centroid[k, 1])),
            mean=float(mean[k]),
            p_value=p[i],
        )
        for i, (k, (rows, columns)) in enumerate(zip(order, boxes, strict=True))
    ]


def largest_value(values: ArrayLike) -> float:
    """The largest value of the map (H, W) of a normal image, by which maps are calibrated; NaN pixels are ignored.

    A region in a normal image is a false alarm. So the conformal score of a map is its maximum: with the threshold of
    these maxima at α (`Calibration.threshold`) a normal image has a region with probability at most α. A region's
    p-value compares its peak with them, and holds for all regions of an image at once: the smallest of them is the
    image's conformal p-value. Calibration and later images must ignore the same regions.

    Raises:
        DataError: the map has an infinite value or nothing but NaN.
    """
    image = _checked_map(values)
    counted = image[~np.isnan(image)]
    if not len(counted) or not np.isfinite(counted).all():
        what = "an infinite value" if len(counted) else "nothing but NaN"
        raise DataError(f"the map of a calibration image has {what}; expected finite values, NaN to ignore")
    return float(counted.max())


def regions_table(ids: ArrayLike, found: Sequence[Sequence[Region]]) -> DataFrame:
    """One row a region: ids (N,) of images, and the regions of each.

    Columns: id, region (its label), area, peak, p_value (NaN where there is none), peak_row, peak_column, top, left,
    bottom, right, centroid_row, centroid_column, mean.
    """
    import pandas as pd

    rows = [
        (r.label, r.area, r.peak, r.p_value, *r.peak_at, *r.box, *r.centroid, r.mean)
        for regions in found
        for r in regions
    ]
    table = pd.DataFrame.from_records(rows, columns=list(_COLUMNS)).astype(_COLUMNS)
    table.insert(0, "id", np.repeat(np.asarray(ids), [len(regions) for regions in found]))
    return table


def _checked_map(values: ArrayLike) -> NDArray[np.float32]:
    """(H, W) float32, at least one pixel; the precision in which maps are calibrated and compared."""
    array = np.asarray(values, dtype=np.float32)
    if array.ndim != 2 or array.size == 0:
        raise DataError(f"anomaly map: expected shape (H, W) with at least one pixel, got {array.shape}")
    return array


def _rounded_down(threshold: float) -> np.float32:
    """The largest float32 that is not above it: float32 pixels exceed the one exactly where they exceed the other."""
    with np.errstate(over="ignore"):
        near = np.float32(threshold)
    return np.nextafter(near, np.float32(-np.inf)) if float(near) > threshold else near


_COLUMNS = {
    "region": "int64", "area": "int64", "peak": "float64", "p_value": "float64", "peak_row": "int64",
    "peak_column": "int64", "top": "int64", "left": "int64", "bottom": "int64", "right": "int64",
    "centroid_row": "float64", "centroid_column": "float64", "mean": "float64",
}  # fmt: skip
