"""Measuring a model on the images that it was trained on: said, and not recommended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knowngood.cli import main


def write(folder: Path, low: int, n: int, seed: int) -> None:
    folder.mkdir(parents=True)
    for i, image in enumerate(np.random.default_rng(seed).integers(low, low + 60, (n, 8, 8), dtype=np.uint8)):
        Image.fromarray(image).save(folder / f"{i:02}.png")


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


TRAIN = ("--representation", "hog", "--model", "memory_bank", "--alpha", "0.2")


@pytest.mark.slow
def test_images_that_were_trained_on_do_not_pass_for_a_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = tmp_path / "parts"
    write(parts / "good", 20, 30, 0)
    write(parts / "bad", 180, 5, 1)
    assert run("train", parts, *TRAIN, "--out", tmp_path / "run") == 0
    out = capsys.readouterr().out
    assert "knowngood evaluate" not in out
    assert "next    knowngood score" in out

    assert run("evaluate", tmp_path / "run", parts, "--report", tmp_path / "report.html") == 0
    said = "of the 30 normal images were trained on"
    assert "of 30 images labelled normal were trained on" in capsys.readouterr().err
    page = (tmp_path / "report.html").read_text()
    assert said in page
    assert "The guarantee holds" not in page

    write(tmp_path / "new" / "good", 20, 30, 2)
    write(tmp_path / "new" / "bad", 180, 5, 3)
    assert run("evaluate", tmp_path / "run", tmp_path / "new", "--report", tmp_path / "report.html") == 0
    assert "trained on" not in capsys.readouterr().err


@pytest.mark.slow
def test_where_a_split_is_kept_for_it_evaluate_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "parts" / "train" / "good", 20, 30, 0)
    write(tmp_path / "parts" / "test" / "good", 20, 4, 1)
    write(tmp_path / "parts" / "test" / "bad", 180, 4, 2)
    assert run("train", tmp_path / "parts", *TRAIN, "--out", tmp_path / "run") == 0
    assert "next    knowngood evaluate" in capsys.readouterr().out
