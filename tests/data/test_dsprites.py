from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from knowngood.data import open_dataset, open_images
from knowngood.data.readers.dsprites import FILE, is_dsprites, read_dsprites
from knowngood.errors import DataError


class Trap:
    """Unpickling it leaves a folder behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


SHAPES = np.array(["square", "ellipse", "heart"])


def parts(n=40, **changes):
    """The arrays of the official file, for n random images of random factors."""
    rng = np.random.default_rng(2)
    codes = rng.integers(0, (3, 6, 40, 32, 32), (n, 5))
    scale, rotation, x, y = (codes[:, 1:] / (5, 39, 31, 31)).T
    arrays = {
        "imgs": rng.integers(0, 2, (n, 64, 64), dtype=np.uint8),
        "latents_classes": np.column_stack([np.zeros(n, dtype=np.int64), codes]),
        "latents_values": np.column_stack([np.ones(n), codes[:, 0] + 1.0, 0.5 + scale / 2, 2 * np.pi * rotation, x, y]),
    }
    return arrays | changes


def write(path, n=40, **changes):
    arrays = parts(n, **changes)
    trap = path.parent / "unpickled"
    np.savez_compressed(path, metadata=np.array(Trap(trap), dtype=object), **arrays)
    return arrays, trap


def test_the_official_form_is_read_without_its_pickle(tmp_path):
    path = tmp_path / FILE
    arrays, trap = write(path)
    images = read_dsprites(path)
    assert len(images) == 40
    assert images.conditions["class"].tolist() == SHAPES[arrays["latents_classes"][:, 1]].tolist()
    for k, name in enumerate(("scale", "rotation", "x", "y"), start=2):
        np.testing.assert_array_equal(images.conditions[name], arrays["latents_values"][:, k])
    assert np.array_equal(np.stack([images.read(i) for i in range(40)])[..., 0], arrays["imgs"] * 255)
    assert set(images.splits) == {"train"}
    assert not trap.exists()
    assert np.array_equal(images[[7, 3]].read(1), images.read(3))
    assert np.array_equal(pickle.loads(pickle.dumps(images.pixels)).read(5), images.read(5))
    assert images.pixels.bits.nbytes == 40 * 64 * 64 // 8
    with np.load(path, allow_pickle=True) as file:
        _ = file["metadata"]
    assert trap.exists()  # the trap would have worked


def test_it_is_found_by_name_and_by_path(tmp_path, monkeypatch):
    monkeypatch.setenv("KNOWNGOOD_DATA", str(tmp_path))
    monkeypatch.setenv("KNOWNGOOD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=f"dsprites: {FILE} not found in"):
        open_dataset("dsprites", download=False)
    (tmp_path / "dsprites").mkdir()
    path = tmp_path / "dsprites" / FILE
    write(path)
    by_name, by_path = open_dataset("dsprites", download=False), open_images(path)
    assert by_name.variant == "not the official counts: 40 train of 737,280"
    assert by_name.fingerprint() == by_path.fingerprint()
    assert sorted(set(by_name.conditions["class"])) == ["ellipse", "heart", "square"]


def test_more_images_than_one_block_and_pixels_that_fill_no_byte(tmp_path):
    n = 1500
    imgs = np.random.default_rng(0).integers(0, 2, (n, 5, 3), dtype=np.uint8)
    arrays = parts(n, imgs=imgs)
    np.savez(tmp_path / "small.npz", **arrays)
    images = read_dsprites(tmp_path / "small.npz")
    assert images.shapes()[0].tolist() == [5, 3, 1]
    assert np.array_equal(np.concatenate(list(images.pixels.chunks(400)))[..., 0], imgs * 255)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imgs": np.full((40, 64, 64), 2, dtype=np.uint8)}, "imgs has the value 2; expected 0 and 1"),
        ({"imgs": np.zeros((40, 64, 64))}, r"imgs is \(40, 64, 64\), float64; expected uint8"),
        ({"imgs": np.zeros((40, 64), dtype=np.uint8)}, r"imgs is \(40, 64\), uint8"),
        (
            {"imgs": np.zeros((39, 64, 64), dtype=np.uint8)},
            r"latents_classes is \(40, 6\), int64; expected integers \(39",
        ),
        ({"latents_values": np.zeros((40, 5))}, r"latents_values is \(40, 5\)"),
        ({"latents_values": np.full((40, 6), np.nan)}, "not finite"),
        ({"latents_classes": np.full((40, 6), [0, 3, 0, 0, 0, 0])}, "a colour above 0 or a shape outside 0 to 2"),
        ({"latents_classes": np.full((40, 6), [1, 0, 0, 0, 0, 0])}, "a colour above 0 or a shape outside 0 to 2"),
        ({"latents_classes": np.array([[{}] * 6] * 40, dtype=object)}, "cannot be read as the .npz of dSprites"),
    ],
)
def test_other_contents_are_refused(tmp_path, changes, message):
    write(tmp_path / "file.npz", **changes)
    with pytest.raises(DataError, match=message):
        read_dsprites(tmp_path / "file.npz")


def test_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", imgs=np.zeros((2, 64, 64), dtype=np.uint8))
    assert not is_dsprites(tmp_path / "other.npz")
    assert not is_dsprites(tmp_path / "nothing.npz")
    with pytest.raises(DataError, match="no array latents_classes; expected imgs, latents_classes, latents_values"):
        read_dsprites(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(DataError, match=r"text\.npz: no \.npz file"):
        read_dsprites(tmp_path / "text.npz")


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "file.npz"
    write(path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    for damaged in (data[:middle] + bytes(60) + data[middle + 60 :], data[:middle]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"file\.npz: (cannot be read|no \.npz file)"):
            read_dsprites(path)


def test_an_array_longer_or_shorter_than_it_says_is_refused(tmp_path):
    arrays = parts()
    for cut, message in ((b"more", "imgs goes on after its 40 images"), (None, "imgs ends at image 39 of 40")):
        with zipfile.ZipFile(tmp_path / "file.npz", "w") as archive:
            for name, array in arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, array)
                data = buffer.getvalue()
                if name == "imgs":
                    data = data + cut if cut else data[:-5]
                archive.writestr(f"{name}.npy", data)
        with pytest.raises(DataError, match=message):
            read_dsprites(tmp_path / "file.npz")


def test_a_file_whose_content_was_exchanged_is_refused(tmp_path):
    arrays = parts()
    np.savez(tmp_path / "file.npz", **arrays)  # not compressed: pixels lie open
    data = bytearray((tmp_path / "file.npz").read_bytes())
    data[-8000 - 40 * 6 * 16] ^= 1
    (tmp_path / "file.npz").write_bytes(data)
    with pytest.raises(DataError, match="Bad CRC-32"):
        read_dsprites(tmp_path / "file.npz")
