"""An image as the graph takes it, and its map as it lies in the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from knowngood.data.tiling.plan import SIZES_DIFFER
from knowngood.errors import ArtifactError, DataError, SettingsError
from knowngood.runtime.ignored import areas_of, check_mask, drawn

if TYPE_CHECKING:
    from knowngood.data.pose.part import NormalPart, Posed


class Seen(NamedTuple):
    """What the graph takes of an image of `shape` (h, w).

    posed: where its part lay, if parts are brought to one pose. ignored: (V, h, w) bool, if polygons to ignore are
    drawn. area: (M,) which of them each row of the image has, a row being a condition that it may have.
    """

    picture: np.ndarray
    shape: tuple[int, int]
    posed: Posed | None
    ignored: np.ndarray | None
    area: np.ndarray

    def inputs(self, rows: slice = slice(0, 1)) -> dict[str, np.ndarray]:
        """Of the graph, of some rows."""
        n = rows.stop - rows.start
        image = self.picture[None] if n == 1 else np.repeat(self.picture[None], n, axis=0)
        masks = {} if self.ignored is None else {"ignored": self.ignored[self.area[rows]]}
        return {"image": image, **masks}

    def whole(self, map: np.ndarray) -> np.ndarray:
        """A map (H, W) of the graph, over the image (h, w)."""
        if self.posed is None:
            return map
        from knowngood.data.pose.part import unposed

        return unposed(map, self.posed, self.shape)


def part_of(facts: Mapping[str, Any]) -> NormalPart | None:
    """The part that is looked for before the graph; None if images are taken as they lie.

    Raises:
        SettingsError: it needs SciPy. ArtifactError: damaged.
    """
    if facts.get("pose") is None:
        return None
    try:
        from knowngood.data.pose.part import NormalPart
    except ImportError as error:
        raise SettingsError(
            f"this model finds the part in every image and turns it (align = pose), which needs {error.name}; expected "
            "SciPy beside ONNX Runtime: pip install scipy"
        ) from None
    try:
        return NormalPart.of(facts["pose"])
    except (KeyError, ValueError, TypeError) as error:
        raise ArtifactError(
            f"the pose in the file is damaged, or of an older version: {error}; export it again"
        ) from None


def fitting(
    image: np.ndarray, facts: Mapping[str, Any], part: NormalPart | None = None, c: np.ndarray | None = None
) -> Seen:
    """An image (H, W, C) in the pose, dtype and channels that the graph takes.

    Args:
        c: (M, width) the encoded conditions that it may have, a row for each; None of a model without conditions.

    Raises:
        DataError: it does not fit the model.
    """
    c = np.zeros((1, 0), np.float32) if c is None else c
    _check(image, facts)
    height, width, channels = image.shape
    areas, area = areas_of(facts, c)
    for one in areas:
        check_mask(one, height, width)
    posed = None if part is None else part.locate(image)
    if part is not None and posed is not None:
        image = part.normalised(image, posed)
    fitted, wanted = np.dtype(facts["dtype"]), 3 if facts["grey"] else facts["channels"]
    if fitted.kind == "f":
        image = image.astype(np.float32)
    elif image.dtype != fitted:
        image = image.astype(fitted) * fitted.type(np.iinfo(fitted).max // np.iinfo(image.dtype).max)
    image = np.repeat(image, wanted, axis=2) if channels != wanted else image
    return Seen(image, (height, width), posed, drawn(facts, areas, height, width), area)


def _check(image: np.ndarray, facts: Mapping[str, Any]) -> None:
    fitted, wanted = np.dtype(facts["dtype"]), 3 if facts["grey"] else facts["channels"]
    channels = image.shape[2]
    if channels != wanted and not (channels == 1 and (facts["grey"] or facts["colour"])):
        raise DataError(
            f"an image has {channels} channels; the model was fitted on {facts['channels']}. Convert it, or export a "
            "model that was trained on such images"
        )
    if not facts["resize"] and list(image.shape[:2]) != list(facts["size"]):
        height, width = facts["size"]
        raise DataError(
            f"an image is {image.shape[1]} × {image.shape[0]} pixels (width × height); the model takes {width} × "
            f"{height} as it is. Resize it, or train with an image_size and export again"
        )
    about = facts.get("about")
    if about and any(abs(n - at) > SIZES_DIFFER * at for n, at in zip(image.shape, about, strict=False)):
        raise DataError(
            f"an image is {image.shape[1]} × {image.shape[0]} pixels (width × height); the model was fitted on "
            f"pictures of about {about[1]} × {about[0]}, in tiles, whose sides may differ by {100 * SIZES_DIFFER:g} %. "
            "Leave it out, or export a model that was trained on such images"
        )
    if image.dtype.kind == fitted.kind == "f":
        if not np.isfinite(image).all():
            raise DataError("the image holds NaN or infinite values")
    elif image.dtype != fitted and not (
        facts["by_type"] and image.dtype.kind == fitted.kind == "u" and image.itemsize < fitted.itemsize
    ):
        raise DataError(
            f"an image is {image.dtype}, the model was fitted on {fitted} ({facts['rule']}). Convert it to "
            f"{fitted}, or export a model that was trained on such images"
        )
