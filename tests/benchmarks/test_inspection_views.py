"""Views: masks move with the images, defects that are cut away are left out, and a quarter turn is exact."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.inspection_data import InspectionSet
from benchmarks.inspection_views import VIEWS, placed, viewed
from knowngood.data import ImageSet
from knowngood.errors import SettingsError

SIDE = 48


def a_set() -> InspectionSet:
    """Grey pictures; two of the four tested ones with a bright square, in the middle and at the left."""
    good = np.full((3, SIDE, SIDE, 3), 120, np.uint8)
    test, masks = np.full((4, SIDE, SIDE, 3), 120, np.uint8), [np.zeros((SIDE, SIDE), bool) for _ in range(4)]
    for i, column in ((2, 20), (3, 2)):
        masks[i][18:28, column : column + 8] = True
        test[i][masks[i]] = 250
    labels = np.array([0.0, 0, 1, 1])
    sets = ImageSet.from_arrays(good), ImageSet.from_arrays(test, labels=labels)
    return InspectionSet("bottle", "dev", 0, *sets, tuple(masks), np.array(["good", "good", "bad", "bad"]))


@pytest.mark.parametrize("view", VIEWS)
def test_the_mask_lies_on_the_defect_in_every_view(view: str) -> None:
    made = viewed(a_set(), view)
    assert made.name == f"bottle@{view}"
    assert made.labels.tolist() == ([0, 0, 1] if view == "slim" else [0, 0, 1, 1])
    for i in np.flatnonzero(made.labels == 1):
        image, mask = made.test.read(int(i))[..., 0], made.masks[i]
        assert mask is not None
        assert mask.shape == image.shape
        bright = image > 185
        assert (mask & bright).sum() > 0.85 * max(mask.sum(), bright.sum())
    again = viewed(a_set(), view)
    assert made.test.fingerprint() == again.test.fingerprint()


def test_a_quarter_turn_moves_every_pixel_exactly() -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    mask = image[..., 0] > 200
    turned, moved = placed(image, mask, 90.0, np.zeros(2), 1.0, np.zeros(3), np.random.default_rng(0))
    np.testing.assert_allclose(turned.astype(int), np.rot90(image, -1).astype(int), atol=1)  # but for rounding
    np.testing.assert_array_equal(moved, np.rot90(mask, -1))


def test_an_unknown_view_is_refused() -> None:
    with pytest.raises(SettingsError, match="unknown view 'slimm'"):
        viewed(a_set(), "slimm")
