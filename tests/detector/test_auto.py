"""The representation that "auto" stands for, by the images as their options prepare them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from knowngood.config import parse_settings
from knowngood.data import ImageSet, TableSet
from knowngood.detector.fit.auto import resolve
from knowngood.errors import SettingsError


def of_size(side: int, channels: int = 3) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (4, side, side + 8, channels), dtype=np.uint8)
    return ImageSet.from_arrays(pixels)


@pytest.mark.parametrize(
    ("side", "channels", "options", "expected"),
    [
        (96, 3, {}, "features"),
        (32, 3, {}, "hog"),
        (96, 3, {"image_size": 128}, "features"),
        (96, 3, {"image_size": [32, 96]}, "hog"),
        (32, 3, {"image_size": 64}, "features"),
        (96, 3, {"image_size": 128, "crop": 48}, "hog"),
        (60, 1, {"pad": 64}, "features"),
        (32, 1, {"image_size": 7}, "pixels"),
        (96, 3, {"grey": True}, "features"),
        (96, 4, {}, "hog"),
    ],
)
def test_the_options_go_to_what_is_chosen_by_them(
    side: int, channels: int, options: dict[str, Any], expected: str
) -> None:
    asked = parse_settings({"representation": {"name": "auto", **options}})
    chosen = resolve(asked, of_size(side, channels))[0].representation
    assert chosen.name == expected
    for name, value in options.items():
        assert getattr(chosen, name) == (tuple(value) if isinstance(value, list) else value)


def test_a_table_has_no_image_size() -> None:
    settings = parse_settings({"representation": {"name": "auto", "image_size": 64, "grey": True}})
    rows = TableSet.from_array(np.zeros((4, 2)))
    with pytest.raises(SettingsError, match="the data are a table, which has no image_size, grey; leave it out"):
        resolve(settings, rows)
