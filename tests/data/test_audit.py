from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from knowngood.data import ImageSet, open_images
from knowngood.data.audit import audit
from knowngood.data.findings import UNUSABLE
from knowngood.errors import DataError


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(root, name, image):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(root / name)


def kinds(found):
    return {(f.path_or_id, f.kind): f.severity for f in found.findings if f.kind != "too-few"}


def test_a_clean_array_has_no_findings():
    found = audit(ImageSet.from_arrays(noise(30, 6, 5)))
    assert found.findings == ()
    assert found.total == 30
    found.check(0.0)


def test_each_duplicate_names_what_it_mixes():
    array = noise(9, 4, 4)
    array[1], array[3], array[5], array[7] = array[0], array[2], array[4], array[6]
    images = ImageSet.from_arrays(
        array, labels=[0, 1, 0, 0, 0, 0, 0, 0, 0], conditions={"class": list("aaaaabaaa")}
    ).replace(splits=np.array(["train", "test", "train", "test"] + ["train"] * 5))
    found = audit(images)
    assert kinds(found) == {
        ("0", "duplicate-normal-anomalous"): "error",
        ("2", "duplicate-across-splits"): "error",
        ("4", "duplicate-other-class"): "warning",
        ("6", "duplicate"): "note",
    }
    reasons = {f.path_or_id: f.reason for f in found.findings}
    assert reasons["2"] == "has the same pixels as 3: they are in splits train and test"
    assert [f.severity for f in found.findings] == ["error", "error", "warning", "warning", "note"]


def test_a_group_in_two_splits_is_found():
    group, splits = np.array(["a", "a", "b", "b", "", "", "c"], object), ["train", "test"] * 3 + ["train"]
    images = ImageSet.from_arrays(noise(7, 4, 4), conditions={"group": group}).replace(splits=np.array(splits))
    (found,) = (one for one in audit(images).findings if one.kind == "group-across-splits")
    assert "2 values of the column 'group' in several splits, the first 'a' in test and train" in found.reason
    apart = images.replace(splits=np.array(["train", "train", "test", "test", "train", "test", "train"]))
    assert "group-across-splits" not in {one.kind for one in audit(apart).findings}
    assert "group-across-splits" not in {one.kind for one in audit(images, "patient").findings}


def test_duplicates_among_many_name_a_pair_that_differs():
    array = np.repeat(noise(1, 4, 4), 4, axis=0)
    found = audit(ImageSet.from_arrays(array, labels=[np.nan, 0, 0, 1]))
    assert [str(f) for f in found.findings if f.kind not in ("too-few", "without-label")] == [
        "1: has the same pixels as 3: one is labelled normal, one anomalous (4 copies in all)"
    ]


def test_shape_and_dtype_are_part_of_the_content(tmp_path):
    write(tmp_path, "a.png", np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.uint8))
    write(tmp_path, "b.png", np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.uint8))
    found = audit(open_images(tmp_path))
    assert not [f for f in found.findings if f.kind.startswith("duplicate")]


def test_the_same_pixels_in_different_files_are_found(tmp_path):
    image = noise(8, 8)
    write(tmp_path, "train/good/a.png", image)
    write(tmp_path, "test/crack/b.bmp", image)
    found = audit(open_images(tmp_path))
    assert kinds(found)["test/crack/b.bmp", "duplicate-normal-anomalous"] == "error"


def test_unreadable_files_are_set_aside_by_name(tmp_path):
    for k in range(25):
        write(tmp_path, f"{k:02d}.png", noise(16, 16, seed=k))
    (tmp_path / "05.png").write_bytes((tmp_path / "05.png").read_bytes()[:200])
    (tmp_path / "06.png").write_bytes(b"")
    (tmp_path / "07.png").write_text("hello")
    (tmp_path / "x.heic").write_bytes(b"1")
    (tmp_path / "readme.md").write_text("hello")
    found = audit(open_images(tmp_path))
    assert [(f.path_or_id, f.kind) for f in found.findings if f.kind in UNUSABLE] == [
        ("07.png", "not-an-image"),
        ("05.png", "truncated"),
        ("x.heic", "unsupported"),
        ("06.png", "zero-byte"),
    ]
    assert found.total == 26
    assert len(found.images) == 22
    assert not {"05.png", "06.png", "07.png"} & set(found.images.ids)
    assert found.images.read(5).shape == (16, 16, 1)
    assert ("readme.md", "ignored") in kinds(found)
    found.check(0.2)
    for tolerance in (None, 0.0, 0.15):
        with pytest.raises(DataError, match=r"(?s)4 findings among 26 images.*06\.png: is empty.*tolerance.: 0.1"):
            found.check(tolerance)


def test_strictness_decides_about_leaks():
    array = noise(30, 4, 4)
    array[1] = array[0]
    leak = audit(ImageSet.from_arrays(array).replace(splits=np.array(["train", "test"] * 15)))
    leak.check(0.01)
    with pytest.raises(DataError, match=r"(?s)they are in splits train and test.*tolerance=0\.01, "):
        leak.check(0.0)
    contradiction = audit(ImageSet.from_arrays(array, labels=[0, 1] * 15))
    with pytest.raises(DataError, match="one is labelled normal, one anomalous"):
        contradiction.check(0.01)


def test_nothing_left_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="no usable image is left of 1"):
        audit(open_images(tmp_path)).check(1.0)


def test_constant_and_non_finite_images():
    array = np.random.default_rng(0).random((25, 4, 4, 2)).astype(np.float32)
    array[3] = [0.5, 0.1]
    array[4, 0, 0, 0] = np.nan
    array[5, 1, 1, 1] = np.inf
    found = audit(ImageSet.from_arrays(array))
    assert kinds(found) == {("03", "constant"): "warning", ("04", "non-finite"): "error", ("05", "non-finite"): "error"}
    assert len(found.images) == 23


@pytest.mark.slow
def test_an_array_is_judged_as_its_images_are(tmp_path):
    """Arrays are looked at in one thread, other sources in several."""
    array = noise(1500, 4, 4)
    array[1200], array[7] = array[3], 9
    images = ImageSet.from_arrays(array, labels=[0] * 1200 + [1] * 300)

    class Slow:
        def __init__(self, pixels):
            self.pixels = pixels
            self.read, self.take = pixels.read, lambda index: Slow(pixels.take(index))

        def __len__(self):
            return len(self.pixels)

    assert audit(images).findings == audit(images.replace(pixels=Slow(images.pixels))).findings
    assert len(audit(images).findings) == 2


def test_mixed_sets_are_described(tmp_path):
    write(tmp_path, "a.png", noise(8, 8))
    write(tmp_path, "b.png", noise(8, 9))
    write(tmp_path, "c.png", noise(8, 8, 3))
    write(tmp_path, "d.png", noise(8, 8).astype(np.uint16) * 256)
    found = {f.kind: f.reason for f in audit(open_images(tmp_path)).findings}
    assert found["mixed-sizes"] == (
        "2 sizes: 8 × 8 (3), 9 × 8 (1); aspect ratios (width / height) from 1 to 1.12: one size for all stretches "
        "them, crop or pad them to one shape"
    )
    assert found["mixed-channels"] == "2 channel counts: 1 (3), 3 (1)"
    assert found["mixed-dtypes"] == "2 bit depths: uint8 (3), uint16 (1)"


def test_what_reading_changed_is_noted(tmp_path):
    write(tmp_path, "a.png", noise(8, 8, 4))
    found = [f for f in audit(open_images(tmp_path)).findings if f.kind == "changed-in-reading"]
    assert [(f.reason, f.severity) for f in found] == [("alpha channel dropped", "note")]


def test_masks_are_checked_and_unusable_ones_dropped(tmp_path):
    for k in range(25):
        write(tmp_path, f"train/good/{k}.png", noise(8, 8, seed=k))
    for k in range(5):
        write(tmp_path, f"test/crack/{k}.png", noise(8, 8, seed=100 + k))
    masks = tmp_path / "ground_truth" / "crack"
    full, empty = np.full((8, 8), 255, np.uint8), np.zeros((8, 8), np.uint8)
    write(masks, "0_mask.png", full)
    write(masks, "1_mask.png", empty)
    write(masks, "2_mask.png", full[:4])
    (masks / "3_mask.png").write_text("x")
    write(masks, "9_mask.png", full)
    found = audit(open_images(tmp_path))
    assert kinds(found) == {
        ("test/crack/1.png", "mask-empty"): "warning",
        ("test/crack/2.png", "mask-wrong-size"): "error",
        ("test/crack/3.png", "mask-unreadable"): "error",
        ("test/crack/4.png", "image-without-mask"): "note",
        ("ground_truth/crack/9_mask.png", "mask-without-image"): "warning",
    }
    assert [mask is not None for mask in found.images.masks[:5]] == [True, False, False, False, False]
    found.check(0.01)


def test_too_few_normal_images_are_a_warning():
    found = audit(ImageSet.from_arrays(noise(30, 4, 4), labels=[0] * 5 + [1] * 25))
    assert [(f.kind, f.severity) for f in found.findings] == [("too-few", "warning")]
    assert "only 5 images" in found.findings[0].reason


def test_records_are_one_a_finding():
    array = noise(30, 4, 4)
    array[20] = 0
    found = audit(ImageSet.from_arrays(array))
    assert [tuple(record) for record in found.to_records()] == [("path_or_id", "kind", "reason", "severity")]


def test_the_tolerance_that_is_advised_is_enough_and_no_larger_than_needed(tmp_path):
    for i in range(100):
        write(tmp_path, f"{i:03d}.png", noise(8, 8, seed=i))
    for i in range(29):
        (tmp_path / f"{i:03d}.png").write_bytes(b"")
    found = audit(open_images(tmp_path))

    with pytest.raises(DataError, match=r"29 findings among 100 images.*(?s:.)*tolerance=0\.29, "):
        found.check(0.28)
    found.check(0.29)


def test_images_without_a_label_beside_normal_ones_are_said():
    images = ImageSet.from_arrays(np.random.default_rng(0).integers(0, 99, (5, 8, 8), np.uint8), [0, None, 1, None, 0])
    (found,) = (one for one in audit(images).findings if one.kind == "without-label")
    assert found.severity == "warning"
    assert found.reason.startswith("2 of 5 images have no label, the first 1; they count as normal")
    train = images.replace(splits=np.array(["train", "test", "train", "train", "train"]))
    (found,) = (one for one in audit(train).findings if one.kind == "without-label")
    assert found.reason.startswith("1 of 4 images have no label, the first 3")
    for labels in ([1, None, 1, None, 1], [0, 0, 1, 0, 0], [None] * 5):  # masks alone say what is anomalous
        assert "without-label" not in {one.kind for one in audit(images.annotate(labels)).findings}
