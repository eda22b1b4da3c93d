"""`knowngood update` on a small model: a new version that took half of the images, and the way back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knowngood import Detector
from knowngood.cli import main


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def pictures(folder: Path, n: int, seed: int) -> Path:
    folder.mkdir(parents=True)
    for i, image in enumerate(np.random.default_rng(seed).integers(0, 99, (n, 8, 8), np.uint8)):
        Image.fromarray(image).save(folder / f"{seed}-{i}.png")
    return folder


@pytest.mark.slow
def test_update_adds_a_version_and_rollback_goes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new, others = (pictures(tmp_path / str(seed), n, seed) for seed, n in enumerate((50, 40, 20)))
    bank = {"name": "memory_bank", "coreset": None}
    Detector("hog", bank, calibration={"method": "split"}, alpha=0.1).fit(old).save(tmp_path / "model")
    model = tmp_path / "model"
    before = len(Detector.load(model).model_.bank)
    assert run("update", model, new) == 0
    shown = capsys.readouterr().out
    assert "updated with 20 normal images" in shown
    assert "calibrated on 20 of" in shown
    assert len(Detector.load(model).model_.bank) == before + 20
    assert run("info", model) == 0
    assert "update" in capsys.readouterr().out
    assert run("rollback", model) == 0
    capsys.readouterr()
    assert run("rollback", model) == 3
    assert f"`knowngood rollback {model} --to 2` switches to the newest one" in capsys.readouterr().err
    assert len(Detector.load(model).model_.bank) == before
    assert run("update", model, new, "--calibrate-on", others, "--out", tmp_path / "second") == 0
    second = Detector.load(tmp_path / "second")
    assert len(second.model_.bank) == before + 40
    assert second.pipeline_.calibration is not None
    assert len(second.pipeline_.calibration) == 20
    capsys.readouterr()
    assert run("update", model, pictures(tmp_path / "few", 4, 9)) == 3
    assert "give 18 new ones" in capsys.readouterr().err
    assert run("update", model, new, "--with", old) == 2
    assert "without the old ones" in capsys.readouterr().err
    assert len(Detector.load(model).model_.bank) == before


@pytest.mark.slow
def test_a_network_needs_the_old_images_and_the_whole_command_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = pictures(tmp_path / "old", 40, 0), pictures(tmp_path / "new", 10, 1)
    quick = ["--representation", "pixels", "--net", "mlp", "--hidden", "4", "--epochs", "1", "--alpha", "0.2"]
    assert run("train", old, "--out", tmp_path / "run", *quick) == 0
    capsys.readouterr()
    assert run("update", tmp_path / "run", new) == 2
    assert capsys.readouterr().err.endswith(f": knowngood update {tmp_path / 'run'} {new} --with {old}\n")
