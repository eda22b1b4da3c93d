from __future__ import annotations

import gzip
import os
import struct

import numpy as np
import pytest
from PIL import Image

from knowngood.data import ImageSet, Reader, open_images
from knowngood.data.readers.idx import parse_idx
from knowngood.errors import DataError, SettingsError

CODES = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}


def idx_bytes(array: np.ndarray) -> bytes:
    start = struct.pack(">BBBB", 0, 0, CODES[array.dtype.name], array.ndim)
    return start + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx(path, array, packed=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(idx_bytes(array)) if packed else idx_bytes(array))


def pixels(n, seed=0, shape=(6, 5)):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("packed", [True, False])
def test_idx_of_every_type(tmp_path, dtype, packed):
    array = (np.arange(24).reshape(2, 3, 4) - 5 * (dtype != "uint8")).astype(dtype)
    write_idx(tmp_path / "a-idx3", array, packed)
    found = parse_idx((tmp_path / "a-idx3").read_bytes(), "a-idx3")
    assert found.dtype == np.dtype(dtype)
    assert found.flags.writeable
    assert np.array_equal(found, array)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-1], r"2×3×4 idx file has 40"),
        (lambda data: data + b"\0", r"41 bytes"),
        (lambda data: b"\1" + data[1:], r"not an idx file.*found \[1, 0, 8, 3\]"),
        (lambda data: data[:2] + b"\7" + data[3:], "not an idx file"),
        (lambda data: data[:10], "cut off within its header"),
        (lambda data: gzip.compress(data)[:-9], "damaged gzip"),
        (lambda data: b"", "not an idx file"),
    ],
)
def test_damaged_idx_is_refused_by_name(tmp_path, damage, said):
    path = tmp_path / "a-images-idx3-ubyte.gz"
    path.write_bytes(damage(idx_bytes(np.zeros((2, 3, 4), np.uint8))))
    with pytest.raises(DataError, match=said) as caught:
        open_images(path)
    assert str(path) in str(caught.value)


def test_an_idx_file_finds_its_labels(tmp_path):
    images = pixels(4)
    write_idx(tmp_path / "x-images-idx3-ubyte.gz", images)
    alone = open_images(tmp_path / "x-images-idx3-ubyte.gz")
    assert [f.kind for f in alone.rejected] == ["no-labels"]
    write_idx(tmp_path / "x-labels-idx1-ubyte", np.array([3, 1, 3, 0], np.uint8), packed=False)
    both = open_images(str(tmp_path / "x-images-idx3-ubyte.gz"))
    assert both.conditions["class"].tolist() == ["3", "1", "3", "0"]
    assert np.array_equal(both.pixels.array[..., 0], images)
    write_idx(tmp_path / "x-labels-idx1-ubyte", np.array([3, 1], np.uint8), packed=False)
    with pytest.raises(DataError, match=r"shape \(2,\); expected \(4,\)"):
        open_images(tmp_path / "x-images-idx3-ubyte.gz")


def test_a_folder_of_idx_files_is_one_set(tmp_path):
    for prefix, n in (("train", 3), ("t10k", 2)):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", pixels(n))
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", np.arange(n, dtype=np.uint8))
    images = open_images(tmp_path)
    assert images.splits.tolist() == ["train"] * 3 + ["test"] * 2
    assert images.conditions["class"].tolist() == ["0", "1", "2", "0", "1"]


def test_npz_in_the_medmnist_style(tmp_path):
    path = tmp_path / "organ.npz"
    labels = {"train": np.array([[1], [0], [2]]), "test": np.array([[2], [2]])}
    arrays = {f"{s}_images": pixels(len(y), shape=(6, 5, 3)) for s, y in labels.items()}
    np.savez(path, **arrays, **{f"{s}_labels": y for s, y in labels.items()})
    images = open_images(path)
    assert images.shapes()[0].tolist() == [6, 5, 3]
    assert images.splits.tolist() == ["train"] * 3 + ["test"] * 2
    assert images.conditions["class"].tolist() == ["1", "0", "2", "2", "2"]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros(3)}, "found x"),
        ({"train_images": np.zeros((2, 4, 4)), "train_labels": np.zeros(3)}, r"train_labels has shape \(3,\)"),
        ({"train_images": np.zeros((2, 4, 4)), "test_images": np.zeros((2, 4, 5))}, "different shapes"),
        ({"train_images": np.array([{"a": 1}], dtype=object)}, "cannot be read as .npz"),
    ],
)
def test_other_npz_files_are_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=said):
        open_images(tmp_path / "a.npz")


def test_a_damaged_npz_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(DataError, match=r"a\.npz: cannot be read"):
        open_images(tmp_path / "a.npz")


def test_one_image_file(tmp_path):
    Image.new("RGB", (5, 4)).save(tmp_path / "part.png")
    images = open_images(tmp_path / "part.png")
    assert images.ids.tolist() == ["part.png"]
    assert images.shapes().tolist() == [[4, 5, 3]]


def test_labels_and_conditions_can_be_added(tmp_path):
    pd = pytest.importorskip("pandas")
    array = pixels(3)
    frame = pd.DataFrame({"camera": list("AAB"), "size": [1.0, 2.0, 3.0]})
    images = open_images(array, labels=["ok", "nok", ""], conditions=frame)
    assert list(images.conditions) == ["camera", "size"]
    np.testing.assert_array_equal(images.labels, [0, 1, np.nan])
    again = open_images(images, conditions={"size": [4, 5, 6]})
    assert again.conditions["size"].tolist() == [4, 5, 6]
    assert images.conditions["size"].tolist() == [1, 2, 3]
    with pytest.raises(DataError, match="columns"):
        open_images(array, conditions=7)


def test_names_and_paths_that_are_neither():
    with pytest.raises(DataError, match="did you mean 'mnist'"):
        open_images("mnits")
    with pytest.raises(DataError, match="no existing path"):
        open_images("no/such/folder")
    with pytest.raises(
        DataError, match=r"is a pattern, .* give the folder, or in Python .*Path\('no'\)\.glob\('\*\.png'"
    ):
        open_images("no/*.png")


def test_a_misspelt_folder_is_suggested_before_the_data_sets(tmp_path, monkeypatch):
    (tmp_path / "today").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=r"^'todya' is no existing path: did you mean 'today', which is there\?\nIt is no data set"
    ):
        open_images("todya")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="not a source of images"):
        open_images(tmp_path / "a.txt")


# Readers of other packages


def register(monkeypatch, *readers):
    monkeypatch.setattr("knowngood.data.open.plugins", lambda group, base: readers if group == "readers" else ())


def raw(path):
    return ImageSet.from_arrays(np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 6, 5), name=path.stem)


@pytest.mark.parametrize("name", ["a.raw8", "B.RAW8", "c.raw8.bin"])
def test_a_reader_of_another_package_opens_the_files_of_its_suffixes(tmp_path, monkeypatch, name):
    register(monkeypatch, Reader("raw", (".raw8", ".raw8.bin"), raw))
    (tmp_path / name).write_bytes(pixels(3).tobytes())
    images = open_images(tmp_path / name, labels=[0, 1, 0])
    assert np.array_equal(images.pixels.array[..., 0], pixels(3))
    assert images.labels.tolist() == [0, 1, 0]


def test_a_reader_of_another_package_comes_before_the_built_in_ones_and_may_take_folders(tmp_path, monkeypatch):
    register(
        monkeypatch, Reader("stacks", (".npz", ".stack"), lambda path: ImageSet.from_arrays(pixels(2), name="own"))
    )
    np.savez(tmp_path / "a.npz", train_images=pixels(5))
    (tmp_path / "b.stack").mkdir()
    assert [open_images(tmp_path / name).name for name in ("a.npz", "b.stack")] == ["own", "own"]


def test_files_that_no_reader_takes_are_refused_with_the_suffixes_of_all(tmp_path, monkeypatch):
    register(monkeypatch, Reader("raw", (".raw8",), raw))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"not a source of images; .*\.npy, \.raw8 \(raw\), a video .*or an image"):
        open_images(tmp_path / "a.txt")


def test_a_reader_that_returns_something_else_is_named(tmp_path, monkeypatch):
    register(monkeypatch, Reader("raw", (".raw8",), lambda path: pixels(2)))
    (tmp_path / "a.raw8").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.raw8: reader 'raw' returned a ndarray; expected an ImageSet"):
        open_images(tmp_path / "a.raw8")


@pytest.mark.parametrize("suffixes", [".raw8", ("raw8",), (".",)])
def test_suffixes_without_a_dot_are_refused(suffixes):
    with pytest.raises(SettingsError, match=r"reader 'raw': suffixes = .*such as"):
        Reader("raw", suffixes, raw)


def test_an_imageset_passes_through():
    images = ImageSet.from_arrays(pixels(2))
    assert open_images(images).pixels is images.pixels


def test_one_file_whose_name_is_no_text_has_an_id_that_is(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    assert open_images(path).ids.tolist() == [r"caf\udce9.png"]
    assert open_images([path]).ids[0].endswith(r"caf\udce9.png")


def test_an_empty_name_is_not_the_folder_that_one_is_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(pixels(1)[0]).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="the name of the data is empty"):
        open_images("")
    assert len(open_images(".")) == 1


def test_a_picture_in_an_npy_file_is_one_as_it_is_in_memory(tmp_path):
    picture = pixels(1, shape=(9, 8, 3))[0]
    np.save(tmp_path / "a.npy", picture)
    images = open_images(tmp_path / "a.npy")
    assert (len(images), images.name) == (len(open_images(picture)), "a") == (1, "a")
    assert np.array_equal(images.read(0), picture)


def test_a_file_of_two_bytes_is_no_image(tmp_path):
    (tmp_path / "a.png").write_bytes(b"xx")
    with pytest.raises(DataError, match=r"a\.png: is no image, or is cut off early, though it is named \.png"):
        open_images(tmp_path / "a.png")
