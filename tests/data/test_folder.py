from __future__ import annotations

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from knowngood.data import open_images
from knowngood.errors import DataError


def write(root, name, value=100, size=(6, 5)):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


def mvtec(root):
    for name in ("train/good/000.png", "train/good/001.png", "test/good/000.png", "test/crack/000.png"):
        write(root, name)
    write(root, "test/crack/0001.png")
    write(root, "ground_truth/crack/000_mask.png", 255)
    (root / "license.txt").write_text("free")


def test_plain_folder_is_sorted_and_lazy(tmp_path):
    for name in ("b.png", "A.JPG", "ünïcode 图.png", "sub/c.png", ".hidden.png", "__MACOSX/x.png"):
        write(tmp_path, name)
    (tmp_path / "broken.png").write_bytes(b"")
    images = open_images(tmp_path)
    assert images.ids.tolist() == ["A.JPG", "b.png", "broken.png", "sub/c.png", "ünïcode 图.png"]
    assert images.splits is None
    assert images.masks is None
    assert np.isnan(images.labels).all()
    assert images.read(4).shape == (5, 6, 1)
    with pytest.raises(DataError, match="empty"):
        images.read(2)


def test_class_folders(tmp_path):
    for name in ("cat/1.png", "cat/deep/2.png", "dog/1.png", "stray.png"):
        write(tmp_path, name)
    images = open_images(tmp_path)
    assert images.conditions["class"].tolist() == ["cat", "cat", "dog", None]
    assert np.isnan(images.labels).all()
    assert images.name == tmp_path.name


def test_a_class_named_good_makes_labels(tmp_path):
    for name in ("OK/1.png", "scratch/1.png", "unlabelled/1.png", "defect/1.png"):
        write(tmp_path, name)
    images = open_images(tmp_path)
    assert dict(zip(images.conditions["class"], images.labels.tolist(), strict=True)) == pytest.approx(
        {"OK": 0, "defect": 1, "scratch": 1, "unlabelled": np.nan}, nan_ok=True
    )


def test_numbered_class_folders_are_classes_not_labels(tmp_path):
    for name in ("0/1.png", "1/1.png", "2/1.png"):
        write(tmp_path, name)
    assert np.isnan(open_images(tmp_path).labels).all()


def test_split_folders_with_classes(tmp_path):
    for split in ("train", "valid", "test"):
        for name in ("NORMAL", "PNEUMONIA"):
            write(tmp_path, f"{split}/{name}/1.jpeg")
    images = open_images(tmp_path)
    assert images.splits.tolist() == ["test", "test", "train", "train", "val", "val"]
    assert images.labels.tolist() == [0, 1] * 3
    assert images.conditions["class"].tolist() == ["NORMAL", "PNEUMONIA"] * 3


def test_mvtec_layout_matches_masks_by_exact_stem(tmp_path):
    mvtec(tmp_path)
    images = open_images(tmp_path)
    assert images.ids.tolist() == [
        "test/crack/000.png", "test/crack/0001.png", "test/good/000.png", "train/good/000.png", "train/good/001.png",
    ]  # fmt: skip
    assert images.labels.tolist() == [1, 1, 0, 0, 0]
    assert images.splits.tolist() == ["test"] * 3 + ["train"] * 2
    assert [mask is not None for mask in images.masks] == [True, False, False, False, False]
    assert images.mask(0).all()
    assert images.mask(0).shape == (5, 6)
    assert images.mask(1) is None
    assert [(f.path_or_id, f.kind, f.severity) for f in images.rejected] == [("license.txt", "ignored", "note")]


def test_a_manifest_in_a_folder_is_named_since_it_was_not_read(tmp_path):
    mvtec(tmp_path)
    (tmp_path / "manifest.csv").write_text("path,camera\n")
    (finding,) = [one for one in open_images(tmp_path).rejected if one.path_or_id == "manifest.csv"]
    assert finding.severity == "note"
    assert f"give {tmp_path / 'manifest.csv'} in place of the folder" in finding.reason


def test_mvtec_mask_without_an_image_is_found(tmp_path):
    mvtec(tmp_path)
    write(tmp_path, "ground_truth/crack/007_mask.png")
    write(tmp_path, "ground_truth/dent/000_mask.png")
    found = [f.path_or_id for f in open_images(tmp_path).rejected if f.kind == "mask-without-image"]
    assert found == ["ground_truth/crack/007_mask.png", "ground_truth/dent/000_mask.png"]


def test_masks_match_whatever_unicode_form_the_names_have(tmp_path):
    name = unicodedata.normalize("NFC", "é")
    write(tmp_path, "train/good/0.png")
    write(tmp_path, f"test/crack/{name}.png")
    write(tmp_path, f"ground_truth/crack/{unicodedata.normalize('NFD', name)}_mask.png", 255)
    assert open_images(tmp_path).mask(0) is not None


def test_magnetic_tile_layout(tmp_path):
    for name in ("MT_Free/Imgs/a", "MT_Crack/Imgs/b", "MT_Crack/Imgs/c"):
        write(tmp_path, f"{name}.jpg")
        write(tmp_path, f"{name}.png", 0 if name.startswith("MT_Free") else 255)
    write(tmp_path, "MT_Crack/Imgs/lonely.png")
    images = open_images(tmp_path)
    assert images.ids.tolist() == ["MT_Crack/Imgs/b.jpg", "MT_Crack/Imgs/c.jpg", "MT_Free/Imgs/a.jpg"]
    assert images.labels.tolist() == [1, 1, 0]
    assert [bool(images.mask(i).any()) for i in range(3)] == [True, True, False]
    assert [f.path_or_id for f in images.rejected] == ["MT_Crack/Imgs/lonely.png"]


def test_same_stem_is_no_mask_elsewhere(tmp_path):
    write(tmp_path, "a.jpg")
    write(tmp_path, "a.png")
    images = open_images(tmp_path)
    assert len(images) == 2
    assert images.masks is None


def test_formats_that_are_not_read_are_set_aside_and_refused_when_strict(tmp_path):
    write(tmp_path, "a.png")
    (tmp_path / "b.heic").write_bytes(b"x")
    assert [(f.path_or_id, f.severity) for f in open_images(tmp_path).rejected] == [("b.heic", "error")]
    with pytest.raises(DataError, match=r"b\.heic.*not read"):
        open_images(tmp_path, strict=True)


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"no images.*notes\.txt"):
        open_images(tmp_path)


def test_a_folder_of_results_says_that_they_are_no_parts(tmp_path):
    for name in ("a.png", "b.png"):
        write(tmp_path / "maps", name)
    for name in ("maps.json", "a.npy"):
        (tmp_path / "maps" / name).touch()
    said = r"a\.png: lies beside maps\.json: a folder of results of knowngood, not of images of parts \(and 1 more\)"
    with pytest.raises(DataError, match=said) as refused:
        open_images(tmp_path / "maps")
    assert "expected files named" not in str(refused.value)


def test_reasons_why_no_image_is_one_of_parts_are_named_each(tmp_path):
    write(tmp_path, "ground_truth/crack/000_mask.png", 255)
    (tmp_path / "b.webm").write_bytes(b"x")
    (tmp_path / "b.heic").write_bytes(b"x")
    with pytest.raises(DataError, match="no images of parts in it") as refused:
        open_images(tmp_path)
    assert "ground_truth/crack/000_mask.png: is a mask by its name and folder" in str(refused.value)
    assert "b.heic: " in str(refused.value)
    assert "webm" not in str(refused.value)


@pytest.mark.parametrize("name", ["ground_truth", "Ground Truth", "masks", "GT"])
def test_a_folder_of_masks_is_no_folder_of_photographs(tmp_path, name, monkeypatch):
    for mask in ("crack/000_mask.png", "hole/000_mask.png"):
        write(tmp_path / name, mask, 255)
    with pytest.raises(DataError, match=f"'{name}' holds masks, .* give the folder above it.* or rename it"):
        open_images(tmp_path / name)
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(DataError, match=f"'{name}' holds masks"):
        open_images(".")


@pytest.mark.parametrize(
    "files", [("train/good/0.png", "test/good/0.png"), ("good/0.png", "torn/0.png"), ("0.png", "0_mask.png")]
)
def test_a_data_set_that_is_called_mask_is_read(tmp_path, files):
    for name in files:
        write(tmp_path / "mask", name, 255 if "_mask" in name else 100)
    assert len(open_images(tmp_path / "mask"))


def test_what_training_drew_is_no_image_of_the_data(tmp_path):
    for name in ("good/a.png", "runs/parts/reconstructions.png", "good/reconstructions.png"):
        write(tmp_path, name)
    write(tmp_path, "runs/parts/run/reconstructions.gif")  # of --film
    (tmp_path / "runs" / "parts" / "command.json").write_text("{}")
    (tmp_path / "runs" / "parts" / "run" / "log.csv").touch()
    images = open_images(tmp_path)
    assert images.ids.tolist() == ["good/a.png", "good/reconstructions.png"]
    drawn, film = (one for one in images.rejected if one.kind == "set-aside")
    assert str(drawn) == "runs/parts/reconstructions.png: lies beside command.json: knowngood drew it, of a training"
    assert str(film) == "runs/parts/run/reconstructions.gif: lies beside log.csv: knowngood drew it, of a training"


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
def test_links_are_followed_once(tmp_path):
    write(tmp_path, "real/a.png")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real", target_is_directory=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "linked").symlink_to(tmp_path / "real", target_is_directory=True)
    assert open_images(tmp_path / "real").ids.tolist() == ["a.png"]
    assert open_images(other).ids.tolist() == ["linked/a.png"]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
def test_a_folder_of_two_names_is_read_once_and_that_is_said(tmp_path):
    write(tmp_path, "pool/a.png")
    for product in ("one", "two"):
        write(tmp_path, f"data/{product}/good/b.png")
        (tmp_path / "data" / product / "shared").symlink_to(tmp_path / "pool", target_is_directory=True)
    (tmp_path / "data" / "one" / "loop").symlink_to(tmp_path / "data", target_is_directory=True)
    images = open_images(tmp_path / "data")
    assert images.ids.tolist() == ["one/good/b.png", "one/shared/a.png", "two/good/b.png"]
    (found,) = images.rejected
    assert str(found) == "two/shared: is the folder one/shared by another name, and is read once"
    assert found.severity == "warning"


@pytest.mark.skipif(os.name != "posix", reason="needs file names of any bytes")
def test_names_that_are_no_text_get_an_id_that_is(tmp_path):
    name = os.fsdecode(b"a\xff.png")
    try:
        write(tmp_path, name)
    except OSError:
        pytest.skip("this file system takes only text as names")
    images = open_images(tmp_path)
    images.ids[0].encode("utf-8")
    assert images.read(0).shape == (5, 6, 1)
