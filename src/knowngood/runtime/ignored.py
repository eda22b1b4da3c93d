"""What is ignored of an image, by the metadata: of all images the same, or by the value of a condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from knowngood.errors import DataError

NOTHING = {"value": None, "mask": None, "polygons": None}


def areas_of(facts: Mapping[str, Any], c: np.ndarray) -> tuple[list[Mapping[str, Any]], np.ndarray]:
    """The V areas that an image has under encoded conditions c (M, width), and (M,) which of them each row has.

    A row has the area of the cell of the model whose condition is nearest, as `PatchGaussian.cell`.
    """
    regions = facts.get("regions")
    if regions is None:
        one = {"value": None, "mask": facts["ignored"], "polygons": facts.get("polygons")}
        return [one], np.zeros(len(c), dtype=np.int64)
    keys, counted = np.array(regions["keys"], dtype=np.float32), ~np.array(regions["numbers"], dtype=bool)
    cell = np.square((c * counted)[:, None] - keys).sum(2).argmin(1)
    found, which = np.unique(np.array(regions["cells"])[cell], return_inverse=True)
    return [NOTHING if k < 0 else regions["areas"][k] for k in found.tolist()], which.reshape(-1)


def check_mask(area: Mapping[str, Any], height: int, width: int) -> None:
    """Raise DataError if the area is a mask, a constant of the graph, and the image has other proportions."""
    if area["mask"] is None:
        return
    own_height, own_width = area["mask"]
    if abs(own_width * height - own_height * width) >= max(height, width, own_height, own_width):
        of = "" if area["value"] is None else f" of '{area['value']}'"
        raise DataError(
            f"the mask to ignore{of} is {own_width} × {own_height} pixels (width × height), the image "
            f"{width} × {height}: other proportions. Give images as they were trained on, or ignore regions of "
            "these and export again"
        )


def drawn(facts: Mapping[str, Any], areas: Sequence[Mapping[str, Any]], height: int, width: int) -> np.ndarray | None:
    """(V, height, width) True inside of the polygons of each area; None if the graph takes no such input.

    Raises DataError: they leave nothing of the image.
    """
    every = [{"polygons": facts.get("polygons")}] if facts.get("regions") is None else facts["regions"]["areas"]
    if all(one["polygons"] is None for one in every):
        return None
    from knowngood.data.regions.polygons import fill

    masks = np.zeros((len(areas), height, width), dtype=bool)
    for mask, area in zip(masks, areas, strict=True):
        if area["polygons"] is not None:
            mask[:] = fill(area["polygons"], height, width)
            if mask.all():
                of = "" if area["value"] is None else f" of '{area['value']}'"
                raise DataError(f"regions to ignore{of} leave nothing of the image; make them smaller and export again")
    return masks
