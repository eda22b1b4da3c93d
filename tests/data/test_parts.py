from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest

from knowngood.data.audit import audit
from knowngood.data.datasets.part_picture import Scene, picture
from knowngood.data.datasets.parts import PartOptions, open_parts

PRODUCTS = ("washer", "bracket", "gear", "label")
LOCAL = ("scratch", "dent", "stain", "crack", "missing_hole")
LOGICAL = ("missing_part", "doubled_part", "wrong_slot")
LIMITS = {
    "x": (-0.05, 0.05),
    "y": (-0.05, 0.05),
    "rotation": (-10, 10),
    "light": (105, 165),
    "strength": (0.85, 1.15),
    "texture": (0.2, 1),
    "variation": (0, 1),
}
PLAIN = Scene(0, 7, "washer", "A", 0.0, 0.0, 0.0, 135.0, 1.0, 0.5, 0.5)


def seen(size=64, **changes):
    """The picture of the plain scene with these changes, as floats."""
    return picture(replace(PLAIN, **changes), size)[0].astype(float)


# Streams --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_image_depends_on_its_seed_and_number_alone():
    few, many = open_parts(5, size=32, seed=3), open_parts(15, size=32, seed=3)
    assert many[:5].fingerprint() == few.fingerprint()
    assert many.ids[:5].tolist() == few.ids.tolist()
    alone = many[[4]]
    assert np.array_equal(alone.read(0), few.read(4))
    assert np.array_equal(alone.mask(0), few.mask(4))
    copy = pickle.loads(pickle.dumps(alone))
    assert np.array_equal(copy.read(0), few.read(4))
    assert np.array_equal(copy.mask(0), few.mask(4))
    assert open_parts(5, size=32, seed=4).fingerprint() != few.fingerprint()


def test_every_size_shows_the_same_scene():
    small, large = open_parts(10, size=32), open_parts(10, size=128)
    assert small.ids.tolist() == large.ids.tolist()
    for name, values in small.conditions.items():
        assert np.array_equal(values, large.conditions[name])
    for product in PRODUCTS:
        for size in (32, 64):
            reduced = seen(128, product=product).reshape(size, 128 // size, size, 128 // size, 3).mean(axis=(1, 3))
            assert np.corrcoef(reduced.ravel(), seen(size, product=product).ravel())[0, 1] > 0.99


def test_of_five_images_three_train_and_the_last_has_a_defect():
    parts = open_parts(1000)
    assert parts.splits.tolist() == ["train", "train", "train", "test", "test"] * 200
    assert parts.labels.tolist() == [0, 0, 0, 0, 1] * 200
    kinds = [name.split("/")[1] for name in parts.ids[4::5].tolist()]
    assert [name.split("/")[0] for name in parts.ids.tolist()] == parts.splits.tolist()
    assert {name.split("/")[1] for name in parts[parts.labels == 0].ids} == {"good"}
    counts = np.array([kinds.count(kind) for kind in (*LOCAL, *LOGICAL)])
    assert counts.sum() == 200
    assert ((counts - 25) ** 2 / 25).sum() < 24.3  # χ² with 7 degrees of freedom, p = .001
    assert not [finding for finding in audit(open_parts(10, size=32)).findings if finding.severity == "error"]


# Columns --------------------------------------------------------------------------------------------------------------


def test_columns_are_uniform_and_independent():
    columns = open_parts(1000).conditions
    assert list(columns) == ["product", "camera", *LIMITS]
    for name, (low, high) in LIMITS.items():
        assert kstest(columns[name], "uniform", (low, high - low)).pvalue > 0.001
    for name, known in (("product", PRODUCTS), ("camera", "ABC")):
        counts = np.array([np.sum(columns[name] == value) for value in known])
        assert counts.sum() == 1000
        assert (np.abs(counts - 1000 / len(known)) < 4 * np.sqrt(1000 / len(known))).all()
    numbers = np.stack([columns[name] for name in LIMITS])
    assert np.abs(np.corrcoef(numbers) - np.eye(7)).max() < 0.12


def test_products_and_defects_are_those_asked_for():
    parts = open_parts(200, products="gear+label", defects=["logical", "dent"])
    assert set(parts.conditions["product"]) == {"gear", "label"}
    assert {name.split("/")[1] for name in parts.ids} == {"good", "dent", *LOGICAL}


# Defects --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("kind", [*LOCAL, *LOGICAL])
def test_a_mask_is_where_the_picture_with_and_without_the_defect_differs(product, kind):
    scene = replace(PLAIN, product=product, camera="C", rotation=8.0)
    plain, nothing = picture(scene, 32)
    image, mask = picture(replace(scene, defect=kind), 32)
    assert not nothing.any()
    assert np.array_equal(mask, (image != plain).any(axis=2))
    assert 3 <= mask.sum() < 0.2 * mask.size


def test_a_good_image_has_no_mask_and_an_image_with_a_defect_has_one():
    parts = open_parts(20, size=32)
    for i, label in enumerate(parts.labels):
        assert (parts.mask(i) is not None) == bool(label)
    rows = np.flatnonzero(parts.labels == 1)
    assert all(parts.mask(i).any() for i in rows)


def test_parts_go_missing_double_and_change_their_slot():
    """Inserts of the washer are black: their pixels are counted."""

    def black(defect):
        return int((seen(128, defect=defect)[28:100, 28:100].max(axis=2) < 60).sum())

    good, insert = black("good"), (black("good") - black("missing_part"))
    assert insert > 30
    assert black("wrong_slot") == pytest.approx(good, abs=0.3 * insert)
    assert 0.3 * insert < black("doubled_part") - good < 1.2 * insert
    assert good - black("missing_hole") > 3 * insert


@pytest.mark.parametrize("kind", ["wrong_product", "wrong_pose", "wrong_camera"])
def test_a_contextual_defect_is_in_the_columns_and_not_in_the_picture(kind):
    options = PartOptions(100, 32, 5, defects=(kind,))
    parts = open_parts(100, size=32, seed=5, defects=kind)
    told = {"wrong_product": {"product"}, "wrong_camera": {"camera"}, "wrong_pose": {"x", "y", "rotation"}}[kind]
    assert parts.masks is None
    for i in range(100):
        true = options.item(i).scene
        lies = {name for name, values in parts.conditions.items() if values[i] != getattr(true, name)}
        assert lies == (told if parts.labels[i] else set())
    assert np.array_equal(parts.read(4), picture(replace(options.item(4).scene, defect="good"), 32)[0])


def test_a_wrong_pose_is_half_a_range_away_and_distributed_as_a_right_one():
    options, parts = PartOptions(2000, defects=("wrong_pose",)), open_parts(2000, defects="wrong_pose")
    rows = np.flatnonzero(parts.labels == 1)
    for name in ("x", "y", "rotation"):
        (low, high), said = LIMITS[name], parts.conditions[name][rows]
        true = np.array([getattr(options.item(int(i)).scene, name) for i in rows])
        assert np.abs(said - true) == pytest.approx(np.full(len(rows), (high - low) / 2))
        assert kstest(said, "uniform", (low, high - low)).pvalue > 0.001


# Physics --------------------------------------------------------------------------------------------------------------


def test_stronger_light_is_brighter():
    means = [seen(strength=strength).mean() for strength in (0.5, 0.7, 0.9)]
    assert means[1] / means[0] == pytest.approx(1.4, rel=0.02)  # nothing is saturated
    assert means[2] / means[0] == pytest.approx(1.8, rel=0.02)


def test_light_comes_from_where_the_column_says():
    """An edge of the bracket that faces the light is brighter than the edge opposite."""

    def brightness(light):
        image = seen(128, product="label", light=light, texture=0.0, strength=0.5).mean(axis=2)
        return image[:, :64].max(axis=1)[64], image[:, 64:].max(axis=1)[64]

    from_left, from_right = brightness(180.0), brightness(0.0)
    assert from_left[0] > from_left[1]
    assert from_right[0] < from_right[1]


def test_a_dent_is_dark_toward_the_light_and_bright_away_from_it():
    shade = seen(128, product="label", defect="dent", camera="A", light=180.0) - seen(128, product="label", light=180.0)
    columns = np.flatnonzero(shade.any(axis=(0, 2)))
    middle = (columns[0] + columns[-1] + 1) // 2
    assert shade[:, :middle].sum() < 0 < shade[:, middle:].sum()


def test_the_pose_moves_and_turns_the_part():
    def centre(**pose):
        weight = np.maximum(seen(64, product="label", **pose).mean(axis=2) - 60, 0)
        return np.array([np.average(axis, weights=weight) for axis in np.indices(weight.shape)])

    moved = centre(x=0.05, y=-0.03) - centre()
    assert moved == pytest.approx([-0.03 * 64, 0.05 * 64], abs=0.15)
    rows, columns = np.nonzero(seen(64, product="label", rotation=10.0).mean(axis=2) > 100)
    slope = np.polyfit(columns, rows, 1)[0]
    assert 0.05 < slope < np.tan(np.deg2rad(10))  # clockwise: down to the right


def test_cameras_differ_in_cast_noise_and_blur():
    a, b, c = (seen(128, camera=name) for name in "ABC")
    assert [(image[..., 0].mean() > image[..., 2].mean()) for image in (b, c)] == [True, False]
    assert a[..., 0].mean() / a[..., 1].mean() < b[..., 0].mean() / b[..., 1].mean()
    steepest = [np.abs(np.diff(image[..., 1], axis=1)).max() for image in (a, b, c)]
    assert steepest[0] > steepest[1] > steepest[2]
    mat = [seen(camera=name)[:8, :8, 1] - seen(camera=name, seed=1)[:8, :8, 1] for name in "ABC"]
    assert mat[0].std() < mat[1].std() < mat[2].std()


@pytest.mark.parametrize("product", PRODUCTS)
def test_each_product_varies_and_has_a_texture(product):
    base = seen(64, product=product)
    for change in ({"variation": 0.9}, {"texture": 1.0}):
        assert np.abs(seen(64, product=product, **change) - base).max() > 10
