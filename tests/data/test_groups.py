"""Copies and group columns as groups; near-copies of images."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from knowngood.data import ImageSet, TableSet
from knowngood.data.audit import audit
from knowngood.data.groups import across, grouped, row_copies
from knowngood.errors import DataError


def textures(n: int, side: int = 32, seed: int = 0) -> np.ndarray:
    """Grey images that differ in their low frequencies, around one common picture."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(n, side // 4, side // 4)) * 25 + np.linspace(60, 180, side // 4)
    return coarse.repeat(4, 1).repeat(4, 2).clip(0, 255).astype(np.uint8)


def jpeg(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=85)
    return np.asarray(Image.open(file))


def test_items_linked_by_copies_or_by_the_column_are_one_group() -> None:
    """0 and 1 are copies, 1 and 2 have one patient; 3 has no patient and is alone."""
    images = textures(4)
    images[1] = images[0]
    items = ImageSet.from_arrays(images, conditions={"patient": np.array(["a", "b", "b", None], dtype=object)})
    found = grouped(items, "patient")
    assert len(set(found.groups[:3])) == 1
    assert found.groups[3] not in found.groups[:3]
    assert found.conditions == {}
    assert len(set(found[1:].groups)) == 2


def test_groups_reach_from_one_set_to_another() -> None:
    """By the column, and by the same pixels in another type of source."""
    images = textures(5)
    first = grouped(ImageSet.from_arrays(images[:3]), None).replace(conditions={"patient": np.array(["a", "b", None])})
    second = ImageSet.from_arrays(images[[2, 3, 4]], conditions={"patient": np.array(["c", "a", "d"])})
    found = np.concatenate([one.groups for one in across(first, second, "patient")])
    assert found[0] == found[4]  # a
    assert found[2] == found[3]  # the same pixels
    assert len(set(found)) == 4
    alone = [one.replace(conditions={}) for one in (first, second)]
    assert len(set(np.concatenate([one.groups for one in across(*alone, "patient")]))) == 5


def test_a_group_column_that_is_missing_is_refused_by_name() -> None:
    items = ImageSet.from_arrays(textures(3), conditions={"patients": [1, 2, 3]})
    with pytest.raises(DataError, match=r"'patient', which the data do not have; did you mean 'patients'\?"):
        grouped(items, "patient")


def test_rows_that_are_equal_by_chance_are_no_copies() -> None:
    rng = np.random.default_rng(0)
    binary, numbers = rng.integers(0, 2, (200, 4)).astype(float), rng.normal(size=(50, 3))
    assert len(set(row_copies(binary))) == 200
    assert len(set(row_copies(np.repeat(numbers, 2, axis=0)))) == 50
    twice = np.repeat(rng.integers(0, 5, (60, 12)).astype(float), 2, axis=0)
    assert len(set(grouped(TableSet.from_array(twice), "group").groups)) == 60


@pytest.mark.parametrize(
    "change",
    [jpeg, lambda x: (x * 0.95).astype(np.uint8), np.rot90, np.fliplr, lambda x: jpeg(np.rot90(x, 3)[:, ::-1].copy())],
    ids=["jpeg", "darker", "turned", "mirrored", "all"],
)
def test_near_copies_are_found_with_the_way_out(change) -> None:
    images = textures(60)
    images[40] = change(images[3])
    found = [f for f in audit(ImageSet.from_arrays(images)).findings if f.kind == "near-duplicate"]
    assert [f.path_or_id for f in found] == ["03"]
    assert "looks like 40" in found[0].reason
    assert "column 'group'" in found[0].reason


@pytest.mark.slow
def test_images_of_one_product_are_no_near_copies_and_named_ones_need_no_finding() -> None:
    images = textures(60)
    images[30:] = images[30:] // 4 + 120  # a second product, of another look
    assert not [f for f in audit(ImageSet.from_arrays(images)).findings if f.kind == "near-duplicate"]
    images[40] = np.rot90(images[3])
    part = np.arange(60)
    part[40] = 3
    named = ImageSet.from_arrays(images, conditions={"group": part})
    assert not [f for f in audit(named).findings if f.kind == "near-duplicate"]


@pytest.mark.slow
def test_a_fifth_of_the_images_that_are_alike_is_a_kind_and_no_copy() -> None:
    rng = np.random.default_rng(0)
    images = textures(60)
    one = images[0].astype(float)
    images[40:] = (one + rng.normal(0, 2, (20, *one.shape))).clip(0, 255).astype(np.uint8)
    found = audit(ImageSet.from_arrays(images)).findings
    assert not [f for f in found if f.kind == "near-duplicate"]
    [kind] = [f for f in found if f.kind == "several-kinds"]
    assert "21 of 60 images are alike" in kind.reason
    assert "class folder" in kind.reason


@pytest.mark.slow
def test_a_kind_that_a_condition_distinguishes_is_not_named_but_copies_within_it_are() -> None:
    (*images, mean), lot = textures(101), np.random.default_rng(0).integers(0, 5, 100)
    images = np.stack(images)
    images[70:] = (0.95 * mean + 0.05 * images[70:]).astype(np.uint8)  # alike, each with something of its own
    images[90] = images[80] - 5  # darker
    product = np.repeat(["plate", "valve"], [70, 30])
    unknown = audit(ImageSet.from_arrays(images, conditions={"lot": lot})).findings
    assert [f.kind for f in unknown] == ["several-kinds"]
    [found] = audit(ImageSet.from_arrays(images, conditions={"lot": lot, "product": product})).findings
    assert (found.kind, found.path_or_id) == ("near-duplicate", "80")
    assert "looks like 90" in found.reason
