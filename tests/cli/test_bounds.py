"""The bounds on what is read are those of the model, and every command that reads images has options for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from knowngood import Detector
from knowngood.cli import build_app, main
from knowngood.cli.lazy import COMMANDS
from knowngood.config.bounds import BOUNDS

READ_NO_IMAGES = {"demo", "doctor", "info", "rollback", "push", "pull", "review", "reviews", "list", "get"}


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose bound on unpacked archives is too small for the images beside it."""
    root, rng = tmp_path_factory.mktemp("bounds"), np.random.default_rng(0)
    bounds = {"max_unpacked_gb": 1e-6}
    detector = Detector("hog", "memory_bank", alpha=0.2, calibration={"method": "split"}, data=bounds)
    detector.fit(rng.integers(0, 99, (40, 8, 8), np.uint8)).save(root / "model")
    np.savez(root / "new.npz", images=rng.integers(0, 99, (20, 8, 8), np.uint8))
    return root


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "words",
    [
        "score MODEL DATA",
        "evaluate MODEL DATA",
        "calibrate MODEL DATA --out NEW",
        "update MODEL DATA --out NEW",
        "monitor MODEL DATA",
        "figure box MODEL DATA --out NEW.svg",
        "inspect DATA --suspicious --model MODEL",
    ],
)
def test_the_bound_of_the_model_holds_and_an_option_widens_it(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    places = {"MODEL": place / "model", "DATA": place / "new.npz", "NEW": tmp_path / "new"}
    command = [str(places.get(word, word)).replace("NEW.svg", str(tmp_path / "a.svg")) for word in words.split()]
    assert run(*command) == 3
    assert "above the limit of 1e-06 GB; if that is meant, allow it" in capsys.readouterr().err
    status = run(*command, "--max-unpacked-gb", "1")
    assert "above the limit" not in capsys.readouterr().err
    assert status == (3 if words.startswith("evaluate") else 0)  # these images have no labels


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_option_narrows_the_bound_of_the_model_too(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    assert run("inspect", tmp_path, "--max-pixels", "63", "--tolerance", "1") == 3
    assert "a.png: declares 8 × 8 = 64 pixels, above the limit of 63" in capsys.readouterr().out
    assert run("score", place / "model", tmp_path, "--max-pixels", "63") == 3
    assert "a.png: declares 8 × 8 = 64 pixels, above the limit of 63" in capsys.readouterr().err
    assert run("score", place / "model", tmp_path, "--max-pixels", "64") == 0


def test_every_command_that_reads_images_has_the_options() -> None:
    group: Any = typer.main.get_command(build_app())
    commands = {name: group.load(name) for name in COMMANDS}
    commands |= commands.pop("data").commands
    lacking = {name for name, one in commands.items() if not {*BOUNDS} <= {param.name for param in one.params}}
    assert lacking == READ_NO_IMAGES


def test_without_a_model_the_option_is_the_bound(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", place / "new.npz") == 0
    assert run("inspect", place / "new.npz", "--max-unpacked-gb", "1e-6") == 3
    assert run("data", "write", place / "new.npz", place / "written", "--max-unpacked-gb", "1e-6") == 3
    assert run("inspect", place / "new.npz", "--max-pixels", "0") == 2
    assert "max_pixels' = 0: input should be greater than 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "score MODEL gone",
        "score MODEL DATA --explain NEW --normals gone",
        "score MODEL gone --cluster local --output NEW",
        "evaluate MODEL gone",
        "calibrate MODEL gone --out NEW",
        "update MODEL gone --out NEW",
        "update MODEL DATA --calibrate-on gone",
        "monitor MODEL gone",
        "figure box MODEL gone --out NEW.svg",
        "inspect gone --suspicious --model MODEL",
        "export MODEL NEW.onnx --data gone",
        "score MODEL http://gone",
    ],
)
def test_data_that_are_not_there_are_said_before_a_model_is_loaded(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    monkeypatch.setattr(Detector, "load", lambda *_, **__: pytest.fail("the model is loaded"))
    places = {"MODEL": str(place / "model"), "DATA": str(place / "new.npz")}
    assert run(*[places.get(word, word.replace("NEW", str(tmp_path / "new"))) for word in words.split()]) in (2, 3)
    said = capsys.readouterr().err
    assert "'gone' is no existing path and no data set" in said or "unknown scheme 'http'" in said
