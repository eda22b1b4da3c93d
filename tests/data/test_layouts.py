"""Folders as people have them: each is read right, or refused with both readings shown; none trains on a defect."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from knowngood.data import ImageSet, open_images
from knowngood.data.readers.layout import class_word, places
from knowngood.data.readers.masks import match_masks
from knowngood.errors import DataError
from stores import upload

N, A, U = 0.0, 1.0, None  # labels: normal, anomalous, unknown

# Name → files, and what each image is: (split, product, class, label, has a mask). Files that are not listed are masks
# or set aside.
LAYOUTS = {
    "plain": {"a.png": (U, U, U, U, False), "b.png": (U, U, U, U, False)},
    "one folder of good ones": {"good/a.png": (U, U, "good", N, False)},
    "good and bad": {"good/a.png": (U, U, "good", N, False), "bad/a.png": (U, U, "bad", A, False)},
    "words within names": {
        "1_ok/a.png": (U, U, "1_ok", N, False),
        "2_bad_parts/a.png": (U, U, "2_bad_parts", A, False),
    },
    "MVTec": {
        "train/good/000.png": ("train", U, "good", N, False),
        "test/good/000.png": ("test", U, "good", N, False),
        "test/crack/000.png": ("test", U, "crack", A, True),
        "ground_truth/crack/000_mask.png": "mask",
    },
    "MVTec in other cases, with things beside it": {
        "Train/good/000.png": ("train", U, "good", N, False),
        "Test/crack/000.png": ("test", U, "crack", A, True),
        "Ground_Truth/crack/000_mask.png": "mask",
        "docs/drawing.png": "aside",
        "calibration/000.png": "aside",
        "overview.png": "aside",
    },
    "one folder around it": {
        "bottle/train/good/000.png": ("train", U, "good", N, False),
        "bottle/test/crack/000.png": ("test", U, "crack", A, True),
        "bottle/ground_truth/crack/000_mask.png": "mask",
    },
    "two products": {
        "bottle/train/good/000.png": ("train", "bottle", "good", N, False),
        "bottle/test/crack/000.png": ("test", "bottle", "crack", A, True),
        "bottle/ground_truth/crack/000_mask.png": "mask",
        "cable/train/good/000.png": ("train", "cable", "good", N, False),
        "cable/test/crack/000.png": ("test", "cable", "crack", A, True),
        "cable/ground_truth/crack/000_mask.png": "mask",
        "readme.png": "aside",
    },
    "two products, classes only": {
        "bottle/good/1.png": (U, "bottle", "good", N, False),
        "bottle/bad/1.png": (U, "bottle", "bad", A, False),
        "cable/good/1.png": (U, "cable", "good", N, False),
    },
    "products below the splits": {
        "train/bottle/good/1.png": ("train", "bottle", "good", N, False),
        "train/cable/good/1.png": ("train", "cable", "good", N, False),
        "test/cable/bent/2.png": ("test", "cable", "bent", A, False),
    },
    "LOCO: several masks of a picture": {
        "train/good/000.png": ("train", U, "good", N, False),
        "validation/good/000.png": ("val", U, "good", N, False),
        "test/logical_anomalies/000.png": ("test", U, "logical_anomalies", A, True),
        "test/logical_anomalies/002.png": ("test", U, "logical_anomalies", A, True),
        "ground_truth/logical_anomalies/000/000.png": "mask",
        "ground_truth/logical_anomalies/000/001.png": "mask",
        "ground_truth/logical_anomalies/002/000.png": "mask",
    },
    "MVTec AD 2": {
        "train/good/000.png": ("train", U, "good", N, False),
        "test_public/good/000.png": ("test", U, "good", N, False),
        "test_public/bad/000.png": ("test", U, "bad", A, True),
        "test_public/ground_truth/bad/000_mask.png": "mask",
    },
    "VisA": {
        "candle/Data/Images/Normal/0000.JPG": (U, U, "Normal", N, False),
        "candle/Data/Images/Anomaly/000.JPG": (U, U, "Anomaly", A, True),
        "candle/Data/Masks/Anomaly/000.png": "mask",
    },
    "masks beside the pictures": {
        "good/x.png": (U, U, "good", N, False),
        "bad/y.png": (U, U, "bad", A, True),
        "bad/y_mask.png": "mask",
        "bad/z.bmp": (U, U, "bad", A, True),
        "bad/z_GT.bmp": "mask",
        "bad/lonely_mask.png": "lonely",
    },
    "masks in a folder, no classes": {
        "images/a.png": (U, U, "images", A, True),
        "images/b.png": (U, U, "images", U, False),
        "masks/a.png": "mask",
    },
    "gt beside class folders": {
        "good/1.png": (U, U, "good", N, False),
        "scratch/1.png": (U, U, "scratch", A, True),
        "GT/scratch/1.png": "mask",
    },
    "classes without labels": {"cat/1.png": (U, U, "cat", U, False), "dog/deep/1.png": (U, U, "dog", U, False)},
    "splits with classes": {
        "train/NORMAL/1.png": ("train", U, "NORMAL", N, False),
        "val/PNEUMONIA/1.png": ("val", U, "PNEUMONIA", A, False),
        "test/PNEUMONIA/1.png": ("test", U, "PNEUMONIA", A, False),
    },
    "splits of one flat folder": {
        "train/1.png": ("train", U, U, U, False),
        "test/good/1.png": ("test", U, "good", N, False),
        "test/bad/1.png": ("test", U, "bad", A, False),
    },
    "train alone": {"train/good/1.png": ("train", U, "good", N, False), "notes.png": "aside"},
    "a picture beside labelled folders": {
        "ok/1.png": (U, U, "ok", N, False),
        "nok/1.png": (U, U, "nok", A, False),
        "all.png": "aside",
    },
    "photographs of masks": {"n95_mask.png": (U, U, U, U, False), "ffp2_mask.png": (U, U, U, U, False)},
    "magnetic tiles": {
        "MT_Free/Imgs/a.jpg": (U, U, "MT_Free", N, False),
        "MT_Crack/Imgs/b.jpg": (U, U, "MT_Crack", A, True),
        "MT_Crack/Imgs/b.png": "mask",
    },
    "a folder Label": {
        "Train/0001.png": ("train", U, U, A, True),
        "Train/0002.png": ("train", U, U, U, False),
        "Train/Label/0001_label.png": "mask by look",
        "Test/0001.png": ("test", U, U, A, True),
        "Test/0002.png": ("test", U, U, U, False),
        "Test/Label/0001_label.png": "mask by look",
    },
    "labels beside pictures": {
        "kos01/Part0.jpg": (U, U, "kos01", A, True),
        "kos01/Part0_label.bmp": "mask by look",
        "kos02/Part0.jpg": (U, U, "kos02", N, True),
        "kos02/Part0_label.bmp": "empty mask by look",
    },
    "masks of another file type": {
        "OK/S1/C1.jpg": (U, U, "OK", N, False),
        "NG/S2/C1.jpg": (U, U, "NG", A, True),
        "NG/S2/C1.png": "mask by look",
    },
    "photographs of labels": {
        "jar.png": (U, U, U, U, False),
        "jar_label.png": (U, U, U, U, False),
        "labels/jar.png": (U, U, "labels", U, False),
    },
    "results inside": {
        "1.png": (U, U, U, U, False),
        "maps/1.png": "aside",
        "maps/good/2.png": "aside",
        "maps/maps.json": "ignored",
        "why/3.png": "aside",
        "why/explanations.json": "ignored",
    },
}

REFUSED = {
    "test beside folders of another kind": ["test/1.png", "parts/1.png"],
    "test beside pictures": ["test/1.png", "1.png", "2.png"],
    "a class called train": ["train/1.png", "car/1.png", "plane/1.png"],
    "good beside test": ["good/1.png", "test/good/1.png", "test/bad/1.png"],
}


def build(root, names):
    """Files of these names, white pictures; a dict may say which are masks that only their look tells."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            path.write_text("{}")
            continue
        look = str(names[name]) if isinstance(names, dict) else ""
        picture = Image.new("L", (6, 5), 0 if look.endswith("by look") else 255)
        if look.startswith("mask by"):
            picture.putpixel((2, 2), 255)
        picture.save(path)


def described(images: ImageSet) -> dict[str, tuple]:
    def column(name):
        return images.conditions.get(name, np.full(len(images), None)).tolist()

    splits = [None] * len(images) if images.splits is None else images.splits.tolist()
    labels = [None if np.isnan(label) else label for label in images.labels.tolist()]
    masked = [images.mask(i) is not None for i in range(len(images))]
    rows = zip(splits, column("product"), column("class"), labels, masked, strict=True)
    return dict(zip(images.ids.tolist(), rows, strict=True))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_read_right_and_nothing_is_lost(tmp_path, name):
    layout = LAYOUTS[name]
    build(tmp_path, layout)
    images = open_images(tmp_path)
    assert described(images) == {path: what for path, what in layout.items() if isinstance(what, tuple)}
    joined = sum(len(paths) for paths in images.masks or () if paths is not None)
    assert joined == sum("mask" in what for what in layout.values() if isinstance(what, str))
    kinds = {finding.path_or_id: finding.kind for finding in images.rejected}
    expected = {"aside": "set-aside", "lonely": "mask-without-image", "ignored": "ignored"}
    assert kinds == {path: expected[what] for path, what in layout.items() if what in expected}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_in_an_object_store_is_read_as_the_folder(tmp_path, name):
    build(tmp_path, LAYOUTS[name])
    files = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*") if path.is_file()}
    url = upload(f"memory://{tmp_path.name}/layout", {name: path.read_bytes() for name, path in files.items()})
    here, there = open_images(tmp_path), open_images(url)
    assert there.ids.tolist() == here.ids.tolist()
    np.testing.assert_array_equal(there.labels, here.labels)
    assert described(there) == described(here)
    assert {one.path_or_id: one.reason for one in there.rejected} == {
        one.path_or_id: one.reason for one in here.rejected
    }
    for i in range(len(here)):
        assert (there.mask(i) is None) == (here.mask(i) is None)
        if here.mask(i) is not None:
            np.testing.assert_array_equal(there.mask(i), here.mask(i))


@pytest.mark.parametrize("name", REFUSED)
def test_a_layout_of_two_readings_is_refused_with_both(tmp_path, name):
    build(tmp_path, REFUSED[name])
    with pytest.raises(DataError, match=r"two ways.*\(1\).*\(2\)"):
        open_images(tmp_path)


def test_a_mask_that_may_be_of_two_pictures_is_refused(tmp_path):
    build(tmp_path, ["left/1.png", "right/1.png", "masks/1.png"])
    with pytest.raises(DataError, match=r"masks/1\.png may belong to left/1\.png or to right/1\.png"):
        open_images(tmp_path)


def test_masks_of_an_image_set_aside_are_set_aside_with_it(tmp_path):
    build(tmp_path, ["train/good/1.png", "test/bad/1.png", "extra/2.png", "ground_truth/extra/2_mask.png"])
    found = {finding.path_or_id: finding.kind for finding in open_images(tmp_path).rejected}
    assert found == {"extra/2.png": "set-aside", "ground_truth/extra/2_mask.png": "set-aside"}


def test_folders_below_a_class_are_not_passed_over_in_silence(tmp_path):
    layout = ["A/round/1.png", "A/square/1.png", "B/round/1.png", "B/1.png", "C/Imgs/1.png", "C/Imgs/2.png"]
    build(tmp_path, dict.fromkeys(layout, (U, U, U, U, False)))
    images = open_images(tmp_path)
    assert [(one.path_or_id, one.severity) for one in images.rejected] == [("A", "note"), ("B", "note")]
    assert images.rejected[0].reason.startswith(
        "images in 'round', 'square' are not distinguished: all are of the class 'A'"
    )
    assert len(images) == 6
    assert not images.unusable


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a folder that may not be listed")
def test_a_folder_that_cannot_be_listed_is_a_finding(tmp_path):
    build(tmp_path, ["a.png", "closed/b.png"])
    (tmp_path / "closed").chmod(0)
    try:
        found = open_images(tmp_path).rejected
    finally:
        (tmp_path / "closed").chmod(stat.S_IRWXU)
    assert [(finding.path_or_id, finding.kind, finding.severity) for finding in found] == [
        ("closed", "unlisted", "error")
    ]


def test_a_folder_that_fails_to_list_is_a_finding_whoever_asks(tmp_path, monkeypatch):
    build(tmp_path, ["a.png", "closed/b.png"])
    scandir = os.scandir

    def failing(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    found = open_images(tmp_path).rejected
    assert [(finding.path_or_id, finding.kind) for finding in found] == [("closed", "unlisted")]
    assert "Permission denied" in found[0].reason


@pytest.mark.parametrize(
    ("name", "label"),
    [("ok_parts", 0), ("1-bad", 1), ("no defect", 0), ("not_good", 1), ("0", None), ("goodness", None), ("x", None)],
)
def test_words_within_the_name_of_a_class(name, label):
    assert class_word(name, parts=True) == label


names = st.sampled_from(["train", "test", "good", "bad", "crack", "a", "b", "masks", "ground_truth", "docs", "Label"])
files = st.sampled_from(["0.png", "1.png", "0_mask.png", "1_GT.png", "1.jpg", "0_label.png"])
paths = st.lists(st.tuples(st.lists(names, max_size=3), files), min_size=1, max_size=12, unique_by=str)


@given(paths, st.sets(st.integers(0, 11)))
def test_whatever_the_folders_every_file_is_something_and_no_defect_is_normal(drawn, black):
    """Each file is an image, set aside, a mask or a mask without image; a folder "bad" never holds normal images."""
    every = [(*folders, name) for folders, name in drawn]
    try:
        pictures, masks, lonely = match_masks(every, "root", lambda i: i in black)
        found = places([every[i] for i in pictures], "root")
    except DataError:
        return
    counted = [*pictures, *lonely, *(m for some in masks.values() for m in some)]
    assert sorted(counted) == list(range(len(every)))
    for i, place in zip(pictures, found, strict=True):
        if place.aside is None and "bad" in every[i][:-1] and "good" not in every[i][:-1]:
            assert place.name is not None


def test_the_guide_shows_these_layouts():
    page = (Path(__file__).parents[2] / "docs/guide/your-images.md").read_text("utf-8")
    shown = {}
    for section in page.split("\n### ")[1:]:
        title, tree = section.split("\n", 1)
        shown[title.lower()] = [line.split("  ")[0] for line in tree.split("```")[1].splitlines()[1:]]
    assert shown == {name.lower(): list(layout) for name, layout in {**LAYOUTS, **REFUSED}.items()}


def test_a_page_of_evaluate_beside_pictures_sets_none_aside(tmp_path):
    build(tmp_path, ["a.png", "b.png"])
    (tmp_path / "inspection.html").write_text("<p>")
    assert open_images(tmp_path).ids.tolist() == ["a.png", "b.png"]
