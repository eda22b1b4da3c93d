"""Lists, iterators, Pillow images and frames as sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from knowngood.data import open_images
from knowngood.data.readers.given import holds_images
from knowngood.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 9, 8), dtype=np.uint8)


@pytest.fixture
def paths(tmp_path):
    found = [tmp_path / f"{k}.png" for k in range(3)]
    for path, image in zip(found, PIXELS, strict=True):
        Image.fromarray(image).save(path)
    return found


@pytest.mark.parametrize(
    "form",
    [
        list,
        tuple,
        iter,
        lambda paths: [str(path) for path in paths],
        lambda paths: np.array([str(path) for path in paths]),
        lambda paths: pd.Series([str(path) for path in paths], index=[5, 6, 7]),
        lambda paths: pd.DataFrame({"Filename": [str(path) for path in paths]}),
        lambda paths: [Image.open(path) for path in paths],
        lambda paths: (image for image in PIXELS),
    ],
)
def test_every_form_gives_the_same_pixels(paths, form):
    images = open_images(form(paths))
    assert np.array_equal(np.stack([images.read(i)[..., 0] for i in range(3)]), PIXELS)


def test_one_picture_is_a_set_of_one():
    colour = np.dstack([PIXELS[0]] * 3)
    assert np.array_equal(open_images(colour).read(0), colour)
    assert np.array_equal(open_images(Image.fromarray(colour)).read(0), colour)
    assert len(open_images(PIXELS)) == 3


def test_pictures_of_several_sizes_stay_as_they_are():
    images = open_images([PIXELS[0], np.dstack([PIXELS[1][:5]] * 3)])
    assert images.shapes().tolist() == [[9, 8, 1], [5, 8, 3]]
    assert images[1:].shapes().tolist() == [[5, 8, 3]]


def test_a_frame_brings_its_columns(paths):
    images = open_images(
        pd.DataFrame({"image_path": map(str, paths), "label": ["ok", "bad", ""], "camera": list("ABA")})
    )
    assert images.conditions["camera"].tolist() == ["A", "B", "A"]
    np.testing.assert_array_equal(images.labels, [0, 1, np.nan])


def test_ids_are_paths_as_they_are_written_wherever_the_program_runs(paths, monkeypatch):
    written = [str(path) for path in paths]
    monkeypatch.chdir(paths[0].parent)  # where a path relative to the folder would be shorter
    for given in (written, pd.DataFrame({"path": written})):
        assert open_images(given).ids.tolist() == written


def test_what_is_empty_mixed_or_missing_is_named(paths):
    with pytest.raises(DataError, match=r"\[\] holds no image"):
        open_images([])
    with pytest.raises(DataError, match=r"paths and pictures: item 0 .*, item 1"):
        open_images([paths[0], PIXELS[0]])
    with pytest.raises(DataError, match=r"occurs 2 times"):
        open_images([paths[0], paths[0]])
    with pytest.raises(DataError, match=r"no file of the list exists \(of 1\)"):
        open_images([Path("nowhere.png")])
    with pytest.raises(DataError, match=r"item 0 .* shape \(9, 0\)"):
        open_images([np.zeros((9, 0))])
    assert [str(one) for one in open_images([paths[0], "nowhere.png"]).rejected] == [
        "nowhere.png: does not exist (item 1 of the list)"
    ]


def test_tables_are_no_images():
    assert not holds_images([[1.0, 2.0], [3.0, 4.0]])
    assert not holds_images(pd.DataFrame({"path": [1.0]}))
    assert not holds_images(np.zeros((4, 3)))
