from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from knowngood.data import ImageSet, open_images
from knowngood.data.datasets.parts import open_parts
from knowngood.data.image_folder import write_folder
from knowngood.errors import DataError, OutputError


def small(dtype=np.uint8, channels=1, **columns):
    pixels = np.random.default_rng(0).integers(0, 200, (3, 8, 8, channels)).astype(dtype)
    return ImageSet.from_arrays(pixels, conditions={name: np.array(values) for name, values in columns.items()})


def same(found, expected):
    assert {name: values.tolist() for name, values in found.conditions.items()} == {
        name: values.tolist() for name, values in expected.conditions.items()
    }
    assert np.array_equal(found.labels, expected.labels, equal_nan=True)
    for i in range(len(expected)):
        assert found.read(i).dtype == expected.read(i).dtype
        assert np.array_equal(found.read(i), expected.read(i))
        assert np.array_equal(found.mask(i), expected.mask(i))


def test_a_folder_comes_before_the_data_set_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(open_images("generated-parts")) == 400
    write_folder(open_parts(5, size=32), "generated-parts")
    assert len(open_images("generated-parts")) == 5


def test_a_set_comes_back_from_its_manifest_and_its_folder(tmp_path):
    parts = open_parts(5, size=32)
    manifest = write_folder(parts, tmp_path / "parts")
    found = open_images(manifest)
    same(found, parts)
    assert found.ids.tolist() == parts.ids.tolist()
    assert found.splits.tolist() == parts.splits.tolist()
    folder = open_images(tmp_path / "parts")  # MVTec layout
    assert sorted(folder.ids.tolist()) == sorted(parts.ids.tolist())
    assert folder.labels.sum() == parts.labels.sum() == 1
    for i in np.flatnonzero(folder.labels == 1):
        assert np.array_equal(folder.mask(i), parts.mask(parts.ids.tolist().index(folder.ids[i])))


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 1), (np.uint8, 3), (np.uint16, 1)])
def test_grey_colour_and_16_bits_are_kept(tmp_path, dtype, channels):
    images = small(dtype, channels, exposure=[0.1, 1 / 3, 2.0], camera=["a,b", "=c", 'd"'])
    same(open_images(write_folder(images, tmp_path)), images)


def test_no_cell_of_the_manifest_is_a_formula_and_all_come_back(tmp_path):
    images = small(**{"=kind": ["@SUM(1)", "'plain", "-5"]})
    images = images.replace(ids=np.array(["=a.png", "+b/c.png", " d.png"]))
    manifest = write_folder(images, tmp_path)
    cells = [cell for row in csv.reader(manifest.read_text().splitlines()) for cell in row]
    assert {cell for cell in cells if cell[:1] in tuple("=+-@")} == {"-5"}  # a number
    found = open_images(manifest)
    assert found.ids.tolist() == ["=a.png", "+b/c.png", "d.png"]
    same(found, images)


def test_what_cannot_be_written_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"0\.png: PNG holds no float64 of shape \(8, 8\); expected uint8"):
        write_folder(small(np.float64), tmp_path / "float")
    with pytest.raises(DataError, match="condition 'mask' has the name of a column of manifests"):
        write_folder(small(mask=[1, 2, 3]), tmp_path / "mask")
    with pytest.raises(DataError, match=r"the id '\.\./a' is no path below a folder"):
        write_folder(small().replace(ids=np.array(["b", "../a", "c"])), tmp_path / "up")
    with pytest.raises(DataError, match=r"two ids would be the file 'a\.jpg\.png'"):
        write_folder(small().replace(ids=np.array(["a.jpg", "b", "a.jpg.png"])), tmp_path / "twice")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(OutputError, match="full exists and is not an empty folder"):
        write_folder(small(), tmp_path / "full")


def test_an_image_that_png_does_not_hold_leaves_nothing_half_written(tmp_path):
    images = open_images([np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.float32)])
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"1\.png: PNG holds no float32"):
        write_folder(images, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_masks_of_one_name_in_two_splits_stay_apart(tmp_path):
    parts = open_parts(4, size=32)
    masks = tuple((lambda k=k: np.arange(32 * 32).reshape(32, 32) == k) for k in range(4))
    ids, splits = np.array(["val/a.png", "test/a.png", "val/b.png", "train/c.png"]), ["val", "test", "val", "train"]
    images = parts.replace(ids=ids, splits=np.array(splits), masks=masks, labels=np.ones(4))
    same(open_images(write_folder(images, tmp_path / "out")), images)


def test_what_cannot_be_read_is_left_out_with_a_warning(tmp_path):
    source = tmp_path / "source"
    for name in ("images/a.png", "images/b.png", "images/c.png", "masks/b.png", "masks/c.png"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small().read(0)[..., 0]).save(source / name)
    Image.fromarray(255 * np.eye(8, dtype=np.uint8)).save(source / "masks" / "c.png")
    (source / "images" / "a.png").write_bytes((source / "images" / "a.png").read_bytes()[:60])
    with pytest.warns(UserWarning, match=r"not written: 2 files that cannot be read, the first: images/a\.png: "):
        manifest = write_folder(open_images(source), tmp_path / "out")
    found = open_images(manifest)
    assert found.ids.tolist() == ["images/b.png", "images/c.png"]
    assert found.labels.tolist() == [1, 1]
    assert found.mask(0) is None
    assert found.mask(1).sum() == 8
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"none of its images can be read; the first, a\.png: "):
        write_folder(open_images(tmp_path / "bad"), tmp_path / "none")
    assert not (tmp_path / "none").exists() or not any((tmp_path / "none").iterdir())
    with pytest.raises(DataError, match="condition 'Mask' has the name"):
        write_folder(small(Mask=[1, 2, 3]), tmp_path / "mask")
