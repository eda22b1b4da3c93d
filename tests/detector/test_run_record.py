"""The record beside a model names the images that it was trained on, from whatever folder it is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from knowngood.detector.run_record import trained_on, training_images


@pytest.fixture
def model(tmp_path: Path) -> Path:
    run = tmp_path / "runs" / "parts"
    (run / "model").mkdir(parents=True)
    (run / "model" / "config.json").touch()
    (tmp_path / "parts").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "parts" / "a.png")
    return run


def recorded(model: Path, data: str, folder: Path) -> None:
    (model / "command.json").write_text(json.dumps({"data": data, "folder": str(folder)}))


def test_a_relative_path_is_of_the_folder_that_the_training_ran_in(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(model, "parts", tmp_path)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "parts").mkdir(parents=True)
    Image.new("L", (4, 4)).save(elsewhere / "parts" / "other.png")
    monkeypatch.chdir(elsewhere)
    assert trained_on(model) == str(tmp_path / "parts")
    images = training_images(model)
    assert images is not None
    assert images.ids.tolist() == ["a.png"]
    monkeypatch.chdir(tmp_path)
    assert trained_on(model) == "parts"


def test_what_is_no_path_there_is_named_as_it_was(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for data in ("digits", "s3://bucket/parts", str(tmp_path / "parts")):
        recorded(model, data, tmp_path / "moved")
        assert trained_on(model) == data
    (model / "command.json").write_text(json.dumps({"data": "parts"}))  # without a folder
    assert trained_on(model) == "parts"
    (model / "command.json").unlink()
    assert trained_on(model) == ""
    assert training_images(model) is None
