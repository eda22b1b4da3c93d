"""`knowngood inspect --suspicious`: what is counted, and a next command that runs as it is printed."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knowngood.cli import main

pytestmark = pytest.mark.slow  # fitting models, serving and exporting take seconds


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("suspicious")
    (root / "new parts").mkdir()
    for i, picture in enumerate(np.random.default_rng(0).integers(0, 99, (40, 8, 8), np.uint8)):
        Image.fromarray(picture).save(root / "new parts" / f"{i:02}.png")
    words = ["--representation", "hog", "--model", "memory_bank", "--calibration", "split", "--alpha", "0.2"]
    assert run("train", root / "new parts", *words, "--outdir", root / "run") == 0
    return root


def test_only_images_that_calibrate_are_counted(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", place / "new parts", "--suspicious", "--model", place / "run", "--most", "3") == 0
    out = capsys.readouterr().out
    assert f"40 normal images, listed are the 8 that calibrate {place / 'run'}" in out
    assert len([line for line in out.splitlines() if ".png" in line]) == 3


def test_a_file_that_cannot_be_read_is_set_aside(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place / "new parts", tmp_path / "parts")
    for i in range(120):
        shutil.copy(place / "new parts" / f"{i % 40:02}.png", tmp_path / "parts" / f"more{i}.png")
    (tmp_path / "parts" / "zero.png").touch()
    assert run("inspect", tmp_path / "parts", "--suspicious") == 0
    shown = capsys.readouterr()
    assert "scored in folds" in shown.out
    assert "not scored: zero.png: is empty" in shown.err
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(place / "new parts" / "00.png", other / "new.png")
    (other / "cut.png").write_bytes(b"\x89PNG")
    assert run("inspect", other, "--suspicious", "--model", place / "run") == 0
    shown = capsys.readouterr()
    assert "1     new.png" in shown.out
    assert "not scored: cut.png: is no image" in shown.err
    assert run("train", tmp_path / "parts", "--dry-run", "--representation", "hog", "--model", "memory_bank") == 0
    assert "read    160 normal images of 8 × 8 px, 1 channel, 1 set aside" in capsys.readouterr().out


def test_the_next_command_runs_as_it_is_printed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = place / "run" / "command.json"
    command = shlex.join(["knowngood", "train", str(place / "new parts"), "--representation", "hog"])
    ends = shlex.join(["--resume", "--outdir", str(place / "run"), f"--out={place}", "--model", "memory_bank"])
    recorded.write_text(json.dumps({"command": f"{command} {ends}"}))
    for _ in range(2):
        assert run("inspect", place / "new parts", "--suspicious", "--model", place / "run") == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next")]
        words = shlex.split(line.removeprefix("next"))
        assert shlex.join(words).startswith(f"{command} --model memory_bank --out ")
        assert run(*words[1:]) == 0
        capsys.readouterr()
    assert (place / "run-2" / "model").is_dir()
    assert (place / "run-3" / "model").is_dir()


def test_without_a_model_the_next_command_chooses_the_same_classes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "digits", "--normal", "0", "--suspicious", "--most", "1") == 0
    assert "next    knowngood train digits --normal 0\n" in capsys.readouterr().out
