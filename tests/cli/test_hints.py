"""What is meant by words that other programs use, and by arguments in the wrong order, is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from knowngood import Detector
from knowngood.cli import main
from knowngood.cli.lazy import ALSO, COMMANDS
from knowngood.errors import NotEnoughNormals, SettingsError


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), np.uint8)
    return Detector("hog", "memory_bank", alpha=0.1).fit(images).save(tmp_path_factory.mktemp("saved") / "model")


@pytest.mark.parametrize(("word", "meant"), [("predict", "score"), ("detect", "score"), ("fit", "train")])
def test_another_name_of_a_command_names_it(word: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(word, "a", "b") == 2
    assert f"there is no command '{word}'; did you mean `knowngood {meant}`?" in capsys.readouterr().err


def test_other_names_of_commands_are_none_themselves() -> None:
    assert set(ALSO.values()) <= COMMANDS.keys()
    assert not ALSO.keys() & COMMANDS.keys()


@pytest.mark.parametrize("command", ["score", "evaluate", "train", "watch"])
def test_a_threshold_is_asked_for_by_alpha(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "a", "b", "--threshold", "3") == 2
    assert f"knowngood {command} has no option --threshold; use --alpha NUMBER" in capsys.readouterr().err


def test_where_there_is_no_alpha_it_is_not_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", "a", "--threshold", "3") == 2
    assert "--alpha" not in capsys.readouterr().err


@pytest.mark.parametrize("words", [("score", "a", "b"), ("train", "a")])
def test_a_rate_in_percent_is_answered_with_the_share(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for typed in ("5", "5%"):
        assert run(*words, "--alpha", typed) == 2
        err = capsys.readouterr().err
        assert "expected a number above 0 and below 1" in err
        assert "for 5 % give 0.05" in err
    assert run(*words, "--alpha", "-1") == 2
    assert "%" not in capsys.readouterr().err


@pytest.mark.parametrize("words", [("train", "parts", "runs/x"), ("score", "m", "parts", "x.csv")])
def test_a_word_too_many_may_name_the_output(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    flag = "--out" if words[0] == "train" else "--output"
    assert f"takes no further argument '{words[-1]}'; if it names the output, give {flag} {words[-1]}" in (
        capsys.readouterr().err
    )


def test_a_rate_in_percent_is_answered_in_python_too() -> None:
    with pytest.raises(SettingsError, match=r"expected a number above 0 and below 1; for 5 % give 0\.05"):
        Detector(alpha=5).fit(np.zeros((4, 3)))


@pytest.mark.parametrize("command", ["score", "evaluate", "calibrate", "update", "watch"])
def test_a_model_in_the_place_of_the_data_is_recognised(
    command: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, tmp_path, model) == 2
    said = f"{model} is a model and {tmp_path} is none; give the model first: {model} {tmp_path}"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--out", "--output", "-o"])
def test_every_command_takes_out_and_output(flag: str, model: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 255, (20, 8, 8), np.uint8)
    np.savez(tmp_path / "new.npz", images=images)
    assert run("score", model, tmp_path / "new.npz", flag, tmp_path / "table.csv") == 0
    assert (tmp_path / "table.csv").is_file()
    assert run("calibrate", model, tmp_path / "new.npz", flag, tmp_path / "other") == 0
    assert (tmp_path / "other").is_dir()


def test_a_rate_that_cannot_be_guaranteed_is_refused_with_the_smallest_one(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "new.npz", images=np.zeros((2, 8, 8), np.uint8))
    assert run("score", model, tmp_path / "new.npz", "--alpha", "0.001") == 3
    assert "ask for an alpha of at least 0.02" in capsys.readouterr().err


def test_where_two_tests_share_the_rate_the_smallest_one_is_of_both() -> None:
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8), np.uint8) // 3
    images[30:] += 120
    asked = {"check": "auto", "unknown": "infer"}
    detector = Detector("pixels", "memory_bank", conditioning=asked, alpha=0.2)
    detector.fit(images, conditions={"kind": np.repeat(["a", "b"], 30)})
    n = len(detector.pipeline_.calibration or ())
    with pytest.raises(NotEnoughNormals, match=r"alpha = 0\.001 needs 1999 .* alpha of at least (\S+)\.$") as refused:
        detector.detect(images[:2], alpha=0.001)
    smallest = float(str(refused.value).rstrip(".").split()[-1])
    assert smallest == pytest.approx(2 / (n + 1), rel=1e-3)
    detector.detect(images[:2], alpha=smallest)


@pytest.mark.parametrize("words", [("export", "m"), ("export", "m", "a.onnx", "--out", "b.onnx")])
def test_the_file_of_an_export_is_named_once(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    assert "name the file to write, once: knowngood export MODEL FILE.onnx" in capsys.readouterr().err
