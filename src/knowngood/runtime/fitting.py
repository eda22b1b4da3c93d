"""An image as the graph takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from knowngood.errors import DataError


def fitting(image: np.ndarray, facts: Mapping[str, Any]) -> np.ndarray:
    """An image (H, W, C) in the dtype and channels that the graph takes.

    Raises DataError: it does not fit the model.
    """
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
    if facts["ignored"] is not None:
        (height, width), (own_height, own_width) = image.shape[:2], facts["ignored"]
        if abs(own_width * height - own_height * width) >= max(height, width, own_height, own_width):
            raise DataError(
                f"the mask to ignore is {own_width} × {own_height} pixels (width × height), the image "
                f"{width} × {height}: other proportions. Give images as they were trained on, or ignore regions of "
                "these and export again"
            )
    if image.dtype.kind == fitted.kind == "f":
        if not np.isfinite(image).all():
            raise DataError("the image holds NaN or infinite values")
        image = image.astype(np.float32)
    elif image.dtype != fitted:
        if not (facts["by_type"] and image.dtype.kind == fitted.kind == "u" and image.itemsize < fitted.itemsize):
            raise DataError(
                f"an image is {image.dtype}, the model was fitted on {fitted} ({facts['rule']}). Convert it to "
                f"{fitted}, or export a model that was trained on such images"
            )
        image = image.astype(fitted) * fitted.type(np.iinfo(fitted).max // np.iinfo(image.dtype).max)
    return np.repeat(image, wanted, axis=2) if channels != wanted else image
