"""`knowngood calibrate`: what it prints compares with the table of `score`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import beta

from knowngood import Detector
from knowngood.cli import main


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


@pytest.mark.filterwarnings("ignore")
def test_the_printed_threshold_is_that_of_the_scores_in_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 99, (80, 8, 1), np.uint8) + rng.integers(0, 20, (80, 8, 8), np.uint8)
    noisy = rng.integers(0, 99, (160, 8, 8), np.uint8)
    Detector("hog", "memory_bank", alpha=0.1, calibration={"method": "split"}).fit(smooth).save(tmp_path / "model")
    np.savez(tmp_path / "b.npz", images=noisy[:40])
    np.savez(tmp_path / "new.npz", images=noisy[40:])
    before = Detector.load(tmp_path / "model").pipeline_.calibration
    assert run("calibrate", tmp_path / "model", tmp_path / "b.npz", "--as", "camera=B") == 0
    added = Detector.load(tmp_path / "model").pipeline_.added[0].calibration
    assert before is not None
    assert added.pooled_threshold > 1.1 * before.pooled_threshold  # the table cannot hold such scores unshifted
    out = capsys.readouterr().out
    low, high = beta.interval(0.95, 1, 16)  # of 16 calibration items, at alpha = .1
    assert f"alarms  {low:.1%} to {high:.1%} of normal items, asked for 10% (95 % interval, 16 calibration items" in out
    rows = [line.split() for line in out.splitlines()]
    above = {row[0]: float(row[2]) for row in rows if row[0] in ("all", "camera=B")}
    assert run("score", tmp_path / "model", tmp_path / "new.npz", "--as", "camera=B", "-o", tmp_path / "b.csv") == 0
    table, rounding = pd.read_csv(tmp_path / "b.csv"), 1e-5 * above["camera=B"]
    flagged = table["is_anomalous"]
    assert flagged.any()
    assert table["anomaly_score"][flagged].min() > above["camera=B"] - rounding
    assert table["anomaly_score"][~flagged].max() < above["camera=B"] + rounding
    assert above["all"] == above["camera=B"] == pytest.approx(before.pooled_threshold, rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_split_or_every_image_calibrates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(2)
    old, new = rng.integers(0, 99, (60, 8, 8), np.uint8), rng.integers(0, 99, (50, 8, 8), np.uint8)
    Detector("hog", "memory_bank", alpha=0.1, calibration={"method": "split"}).fit(old).save(tmp_path / "model")
    np.savez(tmp_path / "new.npz", train_images=new[:20], test_images=new[20:])
    for words, images in ((("--split", "test"), 30), (("--split", "all"), 50), ((), 50)):
        assert run("calibrate", tmp_path / "model", tmp_path / "new.npz", *words) == 0
        assert f"calibrated on {images} normal images" in capsys.readouterr().out
    assert run("calibrate", tmp_path / "model", tmp_path / "new.npz", "--split", "tset") == 3
    assert "new has no split 'tset'; its splits are: test, train" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_value_that_the_model_does_not_know_cannot_calibrate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(3)
    cameras = {"camera": np.repeat(["A", "B"], 30)}
    detector = Detector("hog", "memory_bank", alpha=0.2).fit(
        rng.integers(0, 99, (60, 8, 8), np.uint8), conditions=cameras
    )
    detector.save(tmp_path / "model")
    lines = ["path,camera,lamp"]
    for i, picture in enumerate(rng.integers(0, 99, (20, 8, 8), np.uint8)):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{'AC'[i % 2]},2")
    (tmp_path / "new.csv").write_text("\n".join(lines))
    for command in ("calibrate", "update"):
        assert run(command, tmp_path / "model", tmp_path / "new.csv") == 3
        said = capsys.readouterr().err
        assert "condition 'camera' has no value 'C'; known: A, B. Items that are learned from or calibrate need" in said
        assert "unknown" not in said
    assert run("calibrate", tmp_path / "model", tmp_path / "new.csv", "--as", "lamp=2") == 0  # infers the camera


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_fewer_independent_images_than_given_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    old, new = rng.integers(0, 99, (60, 8, 8), np.uint8), rng.integers(0, 99, (20, 8, 8), np.uint8)
    Detector("hog", "memory_bank", alpha=0.1, calibration={"method": "split"}).fit(old).save(tmp_path / "model")
    for name, product in (("alone", np.arange(20)), ("pairs", np.arange(20) // 2)):
        folder = tmp_path / name
        folder.mkdir()
        for i, image in enumerate(new):
            Image.fromarray(image).save(folder / f"{i}.png")
        lines = [f"{i}.png,{part}" for i, part in enumerate(product)]
        (folder / "manifest.csv").write_text("\n".join(["path,group", *lines]) + "\n")
        assert run("calibrate", tmp_path / "model", folder / "manifest.csv", "--out", tmp_path / f"new-{name}") == 0
    said = capsys.readouterr().err
    assert said.count("images calibrate: of exact copies, or of images of one group, one counts") == 1
    assert "10 of these 20 images calibrate" in said


def test_the_next_commands_check_the_images_and_calibrate_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(3)
    old = rng.integers(0, 99, (60, 8, 8), np.uint8)
    Detector("hog", "memory_bank", alpha=0.1, calibration={"method": "split"}).fit(old).save(tmp_path / "model")
    new = pictures(tmp_path / "our normal", 13, 3)
    (new / "0.png").unlink()
    command = ["calibrate", str(tmp_path / "model"), str(new)]
    for expected in ("inspect", "calibrate"):
        assert run(*command) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next")]
        command = shlex.split(lines[0].removeprefix("next"))[1:]
        assert command[0] == expected
    assert command == ["calibrate", str(tmp_path / "model"), str(new)]


def pictures(folder: Path, n: int, seed: int) -> Path:
    """PNGs, of which the first is cut off."""
    folder.mkdir()
    for i, image in enumerate(np.random.default_rng(seed).integers(0, 99, (n, 8, 8), np.uint8)):
        Image.fromarray(image).save(folder / f"{i}.png")
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:40])
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("always")
def test_unreadable_files_are_set_aside_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, folder = tmp_path / "model", pictures(tmp_path / "new", 20, 1)
    old = np.random.default_rng(0).integers(0, 99, (60, 8, 8), np.uint8)
    Detector("hog", "memory_bank", alpha=0.1, calibration={"method": "split"}).fit(old).save(model)
    before = Detector.load(model).pipeline_.calibration
    assert run("calibrate", model, folder) == 3  # one of 20 is more than 1 %
    said = capsys.readouterr().err
    assert "0.png: " in said
    assert "allow more: --tolerance 0.05" in said
    assert np.array_equal(Detector.load(model).pipeline_.calibration.scores, before.scores)
    for words in ((), ("--as", "camera=B")):
        assert run("calibrate", model, folder, "--tolerance", "0.05", "--json", *words) == 0
        out, err = capsys.readouterr()
        assert "warning: new: 1 of 20 images set aside: 0.png: " in err
        assert json.loads(out)["images"] == 19
    assert [group.values for group in Detector.load(model).pipeline_.added] == [{"camera": "B"}]
    assert run("update", model, folder, "--tolerance", "0.05", "--calibrate-on", folder) == 3
    more = pictures(tmp_path / "more", 40, 2)
    assert run("update", model, more, "--tolerance", "0.05") == 0
    out, err = capsys.readouterr()
    assert "warning: more: 1 of 40 images set aside: 0.png: " in err
    assert "updated with 19 normal images" in out or "updated with 20 normal images" in out
    assert run("update", model, "--reviews", "--tolerance", "0.05") == 2
    assert "with --reviews it is as trained" in capsys.readouterr().err
