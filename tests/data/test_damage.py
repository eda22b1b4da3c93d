"""What is no readable file: foreign errors carry its name, and nothing waits for a pipe."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image

from knowngood.data import open_images
from knowngood.data.audit import audit
from knowngood.errors import DataError


def picture(path, seed=0, side=8):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)).save(path)


def test_a_header_that_is_no_python_is_damage_of_the_file(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 8, 8), np.uint8))
    (tmp_path / "x.npy").write_bytes(buffer.getvalue().replace(b"'shape'", b"'''ape'"))

    with pytest.raises(DataError, match=r"x\.npy: cannot be read as \.npy"):
        open_images(tmp_path / "x.npy")


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-this-name/x", "a\0b"])
def test_a_name_that_no_file_can_have_is_a_file_that_does_not_exist(name, tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text(f'path\na.png\n"{name}"\n')

    with pytest.raises(DataError, match="no existing path"):
        open_images(name)
    assert [finding.kind for finding in open_images(tmp_path / "list.csv").rejected] == ["missing"]


@pytest.mark.parametrize("name", ["pipe.png", "pipe.dcm", "pipe.txt", "pipe.csv"])
def test_a_pipe_is_not_waited_for(name, tmp_path):
    picture(tmp_path / "a.png")
    os.mkfifo(tmp_path / name)

    found = audit(open_images(tmp_path))

    assert found.images.ids.tolist() == ["a.png"]
    assert name in {finding.path_or_id for finding in found.findings}
    with pytest.raises(DataError, match="pipe or device"):
        open_images(tmp_path / name)


def test_folders_whose_names_are_no_text_can_be_printed(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    for kind in (b"good\xfe", b"bad"):
        (folder / os.fsdecode(kind)).mkdir(parents=True)
        picture(folder / os.fsdecode(kind) / "a.png")

    images = open_images(folder)

    assert images.name == "\\udcff"
    assert set(images.conditions["class"]) == {"good\\udcfe", "bad"}


def test_very_large_values_do_not_stop_the_search_for_near_copies(tmp_path):
    rng = np.random.default_rng(0)
    block = rng.uniform(1e307, 1.7e308, (20, 32, 32, 3))

    assert len(audit(open_images(block)).images) == 20


@pytest.mark.skipif(os.name != "posix", reason="needs file names of any characters")
def test_controls_in_names_are_written_as_escapes(tmp_path):
    for name in ("new\nline.png", "\x1b[31mred.png", "left\u202egnp.png"):
        picture(tmp_path / name)
    images = open_images(tmp_path)
    assert sorted(images.ids) == [r"\x1b[31mred.png", r"left\u202egnp.png", r"new\nline.png"]
    assert images.read(0).shape == (8, 8, 1)
