"""Sets of synthetic defects: kinds are balanced, and nothing hangs on the order of the images."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from benchmarks.synthetic_defects import defective
from knowngood.data import ImageSet
from knowngood.errors import DataError, SettingsError
from knowngood.evaluation.defect_kinds import KINDS
from knowngood.evaluation.synthetic_defects import VISIBLE


def some(n: int) -> ImageSet:
    array = np.random.default_rng(0).integers(60, 180, (n, 32, 40, 1), np.uint8)
    conditions = {"class": ["good"] * n, "camera": np.arange(n) % 2}
    return ImageSet.from_arrays(array, np.zeros(n), conditions, ids=[f"part{i}" for i in range(n)], name="parts")


def test_a_set_of_defects() -> None:
    good = some(10)
    bad, masks = defective(good, 3, copies=2)
    assert len(bad) == len(masks) == 20
    assert bad.ids[:3].tolist() == ["part0+0", "part0+1", "part1+0"]
    assert (bad.labels == 1).all()
    assert set(bad.conditions["class"]) == {"synthetic"}
    assert bad.conditions["camera"].tolist() == np.repeat(good.conditions["camera"], 2).tolist()
    assert Counter(bad.conditions["kind"].tolist()) == dict.fromkeys(KINDS, 2)
    for i, mask in enumerate(masks):
        change = np.abs(bad.read(i).astype(float) - good.read(i // 2)).max(axis=2)
        assert change[~mask].max() < VISIBLE * 255 <= change[mask].max()


def test_kinds_may_be_chosen_and_are_balanced() -> None:
    bad, _ = defective(some(7), copies=1, kinds=["hole", "noise"])
    assert sorted(Counter(bad.conditions["kind"].tolist()).values()) == [3, 4]


@pytest.mark.parametrize("kinds", [None, ["foreign"]])
def test_defects_do_not_depend_on_the_order_of_the_images(kinds: list[str] | None) -> None:
    good = some(9)
    order = np.random.default_rng(0).permutation(9)
    (straight, masks), (mixed, mixed_masks) = (defective(images, 1, kinds=kinds) for images in (good, good[order]))
    for at, i in enumerate(order):
        assert mixed.ids[at] == straight.ids[i]
        assert np.array_equal(mixed.read(at), straight.read(int(i)))
        assert np.array_equal(mixed_masks[at], masks[i])


def test_another_seed_gives_other_defects() -> None:
    (one, _), (same, _), (two, _) = (defective(some(4), seed) for seed in (0, 0, 1))
    assert one.fingerprint() == same.fingerprint() != two.fingerprint()


def test_sets_that_do_not_do() -> None:
    with pytest.raises(DataError, match="no images"):
        defective(some(2)[:0])
    with pytest.raises(SettingsError, match="copies = 0"):
        defective(some(2), copies=0)
    with pytest.raises(SettingsError, match="'holes'"):
        defective(some(2), kinds=["holes"])
