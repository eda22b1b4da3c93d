"""The parts of the benchmark of reviews: what is marked, and how it is summed up."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import reviews
from benchmarks.reviews import boxed, illuminated, main, markdown, marks
from judged_parts import pictures
from knowngood.data import ImageSet
from knowngood.errors import DataError, SettingsError


def test_a_box_is_around_the_mask_and_no_larger() -> None:
    mask = np.zeros((9, 9), bool)
    mask[2, 3] = mask[5, 7] = True
    box = boxed(mask)
    assert box.sum() == 4 * 5
    assert box[2:6, 3:8].all()


def test_marked_are_flagged_normal_images_and_missed_defects(monkeypatch: pytest.MonkeyPatch) -> None:
    images = ImageSet.from_arrays(pictures(20, 0))
    even = lambda _, some: np.arange(len(some)) % 2 == 0  # noqa: E731
    monkeypatch.setattr(reviews, "flags", even)
    found = marks(None, images, "brighter", "hole", 6, 4, 0)  # type: ignore[arg-type]
    assert found.labels.tolist() == [0] * 6 + [1] * 4
    number = [int(str(name).split("-")[-1].split("+")[0]) for name in found.ids]
    assert [n % 2 for n in number] == [0] * 6 + [1] * 4
    assert [found.mask(i) is None for i in range(10)] == [True] * 6 + [False] * 4
    with pytest.raises(DataError, match="10 of 20 images are flagged; 11 needed"):
        marks(None, images, "brighter", "hole", 11, 4, 0)  # type: ignore[arg-type]
    assert illuminated(images, "brighter").read(0).mean() > images.read(0).mean()


def test_the_table_has_means_and_standard_deviations() -> None:
    row = {"light": "a", "kind": "b", "way": "fit-only", "judged": "c"}
    table = markdown([row | {"before": 0.2, "after": 0.5}, row | {"before": 0.4, "after": 0.5}])
    assert table.splitlines()[-1] == "| a | b | fit-only | c | 0.300 ± 0.141 | 0.500 ± 0.000 | +0.200 ± 0.141 |"
    with pytest.raises(SettingsError, match="expected pairs"):
        main(lights=("a", "b"), kinds=("blur",))
