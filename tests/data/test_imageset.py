from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from knowngood.data import FilePixels, ImageSet, open_images
from knowngood.data.labels import parse_labels
from knowngood.errors import DataError


def numbered(n=6, shape=(4, 5), dtype=np.uint8):
    """Images whose pixels all equal their index."""
    return np.broadcast_to(np.arange(n).reshape(n, *([1] * len(shape))), (n, *shape)).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
def test_arrays_keep_their_dtype_and_gain_a_channel(dtype):
    images = ImageSet.from_arrays(numbered(dtype=dtype))
    assert images.read(3).shape == (4, 5, 1)
    assert images.read(3).dtype == np.dtype(dtype)
    assert (images.read(3) == 3).all()
    assert images.shapes().tolist() == [[4, 5, 1]] * 6


def test_torch_is_channels_first():
    tensor = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    image = ImageSet.from_arrays(tensor).read(1)
    assert image.shape == (4, 5, 3)
    assert np.array_equal(image[..., 2], tensor[1, 2].numpy())
    assert ImageSet.from_arrays(tensor.bfloat16()).read(0).dtype == np.float32


def test_big_endian_and_bool_become_native():
    assert ImageSet.from_arrays(numbered(dtype=">u2")).read(5).dtype == np.dtype("uint16")
    assert ImageSet.from_arrays(numbered() > 2).read(5).tolist() == np.ones((4, 5, 1)).tolist()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 7)), "tables"),
        (np.zeros((2, 3, 32, 32)), "transpose"),
        (np.zeros((2, 3, 4), dtype=complex), "complex128"),
        (np.zeros((2, 0, 4)), "without pixels"),
        ([[1, 2]], "list"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_set_of_images_is_refused(array, said):
    with pytest.raises(DataError, match=said):
        ImageSet.from_arrays(array)


def test_ids_are_padded_and_given_ids_must_be_unique():
    assert ImageSet.from_arrays(numbered(11)).ids.tolist()[::5] == ["00", "05", "10"]
    assert ImageSet.from_arrays(numbered(0)).ids.tolist() == []
    assert ImageSet.from_arrays(numbered(2), ids=["a", "ü"]).ids.tolist() == ["a", "ü"]
    with pytest.raises(DataError, match="'a' occurs 2 times"):
        ImageSet.from_arrays(numbered(2), ids=["a", "a"])


def test_lengths_must_agree():
    with pytest.raises(DataError, match=r"6 images but 5 values of condition 'camera'"):
        ImageSet.from_arrays(numbered(), conditions={"camera": list("AAABB")})
    with pytest.raises(DataError, match="2 values of labels"):
        ImageSet.from_arrays(numbered(), labels=[0, 1])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1], [0, 1]),
        ([True, False], [1, 0]),
        (["Good", "BAD", "normal", "anomalous", "ok", "defect", "not ok"], [0, 1, 0, 1, 0, 1, 1]),
        (["gut", "i.O.", "i. O.", "IO", "schlecht", "Defekt", "n.i.O.", "nio"], [0, 0, 0, 0, 1, 1, 1, 1]),
        (["0", "1.0", "", None, "unknown"], [0, 1, np.nan, np.nan, np.nan]),
        (np.array([[0.0], [np.nan]]), [0, np.nan]),
    ],
)
def test_label_words(values, expected):
    found = parse_labels(np.array(values, dtype=object) if isinstance(values[0], str) else values)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float64


def test_labels_may_be_bools_of_which_some_are_missing():
    expected = [1, 0, np.nan]
    for given in ([True, False, None], pd.array([True, False, pd.NA], "boolean"), pd.array([1, 0, pd.NA], "Int64")):
        np.testing.assert_array_equal(parse_labels(given), expected)
    with pytest.raises(DataError, match="label 'True'"):  # a word in a column may answer another question
        parse_labels(["True", "False"])


@pytest.mark.parametrize("values", [["good", "scratch"], [0, 7], [0.5, 1.0]])
def test_unknown_labels_are_refused_by_name(values):
    with pytest.raises(DataError, match=r"'scratch' of 'b'|7 of 'b'|0.5 of 'a'"):
        ImageSet.from_arrays(numbered(2), labels=values, ids=["a", "b"])


def test_indexing_keeps_everything_together():
    images = ImageSet.from_arrays(
        numbered(), labels=[0, 0, 0, 1, 1, np.nan], conditions={"class": list("aabbcc"), "size": np.arange(6.0)}
    ).replace(splits=np.array(["train"] * 3 + ["test"] * 3))
    for key, index in [
        (slice(1, 4), [1, 2, 3]),
        (slice(None, None, -2), [5, 3, 1]),
        (np.array([4, 0, 4]), [4, 0, 4]),
        ([-1], [5]),
        (np.arange(6) % 2 == 0, [0, 2, 4]),
        ([], []),
    ]:
        part = images[key][np.arange(len(index))]  # a second step, so that positions are chained
        assert [int(part.read(i)[0, 0, 0]) for i in range(len(part))] == index
        assert part.pixels.array[:, 0, 0, 0].tolist() == index
        assert part.ids.tolist() == [str(i) for i in index]
        assert part.conditions["size"].tolist() == index
        np.testing.assert_array_equal(part.labels, images.labels[index])
    assert images.split("test").ids.tolist() == ["3", "4", "5"]


def test_unknown_keys_and_splits_are_refused():
    images = ImageSet.from_arrays(numbered())
    with pytest.raises(DataError, match="mask of 5 values"):
        images[np.ones(5, dtype=bool)]
    with pytest.raises(DataError, match="float64"):
        images[np.array([1.5])]
    with pytest.raises(IndexError):
        images[[6]]
    with pytest.raises(DataError, match="no splits"):
        images.split("test")
    with pytest.raises(DataError, match="its splits are: test, train"):
        images.replace(splits=np.array(["train", "test"] * 3)).split("val")


def test_fingerprint_sees_pixels_labels_conditions_and_order(tmp_path):
    images = ImageSet.from_arrays(numbered(), labels=[0] * 6, conditions={"camera": list("AAABBB")})
    same = ImageSet.from_arrays(numbered().copy(), labels=[0] * 6, conditions={"camera": list("AAABBB")})
    assert images.fingerprint() == same.fingerprint() == images[np.arange(6)].fingerprint()
    changed = numbered().copy()
    changed[5, 3, 4] += 1
    others = [
        ImageSet.from_arrays(changed, labels=[0] * 6, conditions={"camera": list("AAABBB")}),
        images.annotate(labels=[0] * 5 + [1]),
        images.annotate(conditions={"camera": list("AAABBA")}),
        images.annotate(conditions={"size": np.zeros(6)}),
        images[::-1],
        ImageSet.from_arrays(numbered(shape=(5, 4)), labels=[0] * 6, conditions={"camera": list("AAABBB")}),
    ]
    assert len({images.fingerprint(), *(other.fingerprint() for other in others)}) == 7


def test_fingerprint_of_files_is_of_their_bytes(tmp_path):
    for name, value in (("a", 1), ("b", 2)):
        Image.new("L", (4, 4), value).save(tmp_path / f"{name}.png")
    before = open_images(tmp_path).fingerprint()
    assert before == open_images(tmp_path).fingerprint()
    Image.new("L", (4, 4), 3).save(tmp_path / "b.png")
    assert open_images(tmp_path).fingerprint() != before


def test_pixels_can_be_sent_to_other_processes(tmp_path):
    Image.new("L", (4, 3), 7).save(tmp_path / "a.png")
    for pixels in (FilePixels((tmp_path / "a.png",)), ImageSet.from_arrays(np.full((1, 3, 4), 7, np.uint8)).pixels):
        again = pickle.loads(pickle.dumps(pixels))
        assert again.read(0).tolist() == [[[7]] * 4] * 3


def test_a_memory_mapped_array_is_not_copied(tmp_path):
    np.save(tmp_path / "stack.npy", numbered())
    images = open_images(tmp_path / "stack.npy")[2:]
    assert isinstance(images.pixels.base, np.memmap)
    assert (images.read(0) == 2).all()


def test_one_is_singular():
    assert "(array: 1 image, 0 normal, 0 anomalous)" in repr(ImageSet.from_arrays(numbered(1)))
    assert "(array: 2 images, " in repr(ImageSet.from_arrays(numbered(2)))
    with pytest.raises(DataError, match="1 image but 2 values of ids"):
        ImageSet.from_arrays(numbered(1)).replace(ids=np.array(["a", "b"]))


def test_one_value_of_a_condition_stands_for_all_images() -> None:
    images = ImageSet.from_arrays(np.zeros((3, 4, 4), np.uint8), conditions={"camera": "B", "time": 2.5, "lot": None})
    assert images.conditions["camera"].tolist() == ["B"] * 3
    assert images.conditions["time"].tolist() == [2.5] * 3
    assert images[1:].conditions["lot"].tolist() == [None] * 2
    again = images.annotate(conditions={"camera": np.str_("A")})
    assert again.fingerprint() == images.annotate(conditions={"camera": ["A"] * 3}).fingerprint()
    with pytest.raises(DataError, match="3 images but 2 values of condition 'camera'"):
        images.annotate(conditions={"camera": ["A", "B"]})
