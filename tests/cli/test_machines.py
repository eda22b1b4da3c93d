"""What machines and shells get of the command line: JSON alone on stdout, colours only where wanted, completion."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from knowngood import Detector
from knowngood.cli import completion, console, main
from knowngood.config.presets import preset_names
from knowngood.evaluation.figures import FIGURES


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = np.random.default_rng(0).integers(0, 99, (60, 8, 8), np.uint8)
    detector = Detector("hog", "memory_bank", calibration={"method": "split", "fraction": 0.5})
    return detector.fit(pictures).save(tmp_path_factory.mktemp("machines") / "model")


@pytest.fixture
def normals(tmp_path: Path) -> Path:
    path = tmp_path / "new.npz"
    pictures = np.random.default_rng(5).integers(0, 99, (40, 8, 8), np.uint8)
    np.savez(path, images=pictures, labels=np.repeat([0, 1], 20))
    return path


def said(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_info_and_rollback(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", model, "--json") == 0
    record = said(capsys)
    assert record["versions"] == [{**record["versions"][0], "version": 1, "made_by": "fit", "in_use": True}]
    assert record["settings"]["model"]["name"] == "memory_bank"
    assert record["alpha"] == 0.05
    assert run("info", model) == 0
    assert capsys.readouterr().out.startswith("# Anomaly detector")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_calibrate_update_and_monitor(
    model: Path, normals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("calibrate", model, normals, "--normal", "0-1", "--out", tmp_path / "m", "--json") == 0
    record = said(capsys)
    assert record["images"] == 40
    assert record["groups"][0]["images"] == 40
    assert run("update", tmp_path / "m", normals, "--normal", "0-1", "--json") == 0
    record = said(capsys)
    assert (record["taken"], record["calibrate"]) == (20, 20)
    results = tmp_path / "r.csv"
    results.write_text("id,anomaly_score\n" + "".join(f"{i},{i % 7}\n" for i in range(50)))
    assert run("monitor", results, "--json") == 0
    record = said(capsys)
    assert (record["drift"], record["items"], record["alarm"]) == (False, 50, None)
    results.write_text("id,anomaly_score\n" + "".join(f"{i},{i % 7 + 100 * (i > 60)}\n" for i in range(120)))
    assert run("monitor", results, "--json") == 5
    assert said(capsys)["alarm"]["change"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_dash_in_place_of_a_file_is_stdout_alone(
    model: Path, normals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", model, normals, "--normal", "0", "--json", "-") == 0
    record = said(capsys)
    assert 0 <= record["auroc"] <= 1
    assert run("inspect", normals, "--json", "-") == 0
    assert isinstance(said(capsys), list)
    assert not Path("-").exists()


def test_data_sets_and_reviews(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "list", "--json") == 0
    assert "digits" in [one["name"] for one in said(capsys)]


def test_numbers_that_json_does_not_know_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    with console.for_machines(True):
        console.say("for people")
        console.emit({"a": float("inf"), "b": np.float64("nan"), "c": np.int64(3), "d": (Path("x"), True)})
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"a": None, "b": None, "c": 3, "d": ["x", True]}
    assert printed.err == "for people\n"
    console.emit({"a": 1})
    assert capsys.readouterr().out == ""


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("variables", "colour"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_can_be_switched_off(variables: dict[str, str], colour: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    console.fail("wrong")
    assert ("\033[" in screen.getvalue()) == colour


# Completion ----------------------------------------------------------------------------------------------------------


def test_names_and_paths_are_completed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digital").mkdir()
    (tmp_path / "a.csv").touch()
    (tmp_path / ".hidden").touch()
    monkeypatch.chdir(tmp_path)
    assert completion.data_sets("digi") == ["digits", "digital/"]
    assert completion.data_sets("a.") == ["a.csv"]
    assert not [one for one in completion.data_sets("") if one.startswith(".")]
    assert completion.data_sets("none/such/") == []
    assert completion.models(f"{model.parent}/") == [f"{model}/"]
    assert completion.models("") == []  # no folder here holds a model or leads to one
    assert "paper-mlp" in completion.one_of(preset_names())("paper")
    assert completion.one_of(FIGURES)("viol") == ["violin"]


def test_the_shell_asks_and_is_answered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def complete(words: str) -> list[str]:
        monkeypatch.setenv("_KNOWNGOOD_COMPLETE", "complete_zsh")
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", words)
        run()
        return capsys.readouterr().out.split('"')

    monkeypatch.setattr(sys, "argv", ["knowngood"])
    assert "mnist" in complete("knowngood train mni")
    assert "memory_bank" in complete("knowngood train digits --model memory")
    assert "dcvae" in complete("knowngood train digits --objective dc")


# Doctor --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_doctor_says_what_is_there_and_how_fast(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from knowngood.cli import doctor

    monkeypatch.setattr(doctor, "LEAST", 0.01)
    assert run("doctor", "--json") == 0
    record = said(capsys)
    assert record["problems"] == []
    assert record["weights"] == "present"
    assert record["versions"]["torch"]
    for one in record["speed"].values():
        assert one["ratio"] == pytest.approx(one["one_core"] / one["reference"])
        assert one["value"] > 0
    assert run("doctor", "--no-speed") == 0
    printed = capsys.readouterr().out
    assert "speed" not in printed
    assert "the HTTP server and its page" in printed


def test_the_doctor_names_what_is_wrong_and_how_to_mend_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from knowngood.cli import doctor

    monkeypatch.setattr(doctor, "_there", lambda module: module != "onnxscript")
    monkeypatch.setattr(doctor, "_weights", lambda: "MISSING: no file")
    monkeypatch.chdir(tmp_path)
    assert run("doctor", "--no-speed") == 4
    printed = capsys.readouterr()
    line = next(line for line in printed.out.splitlines() if line.startswith("export"))
    assert "no " in line
    assert line.endswith('pip install "knowngood[export]"')
    assert "problem: weights of the default backbone: MISSING: no file" in printed.err
    states = {one["place"]: one["state"] for one in doctor._folders()}
    assert states["runs"] == "will be made"
    assert states["working folder"] == "writable"


def test_the_doctor_shows_of_which_two_columns_the_ratio_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from knowngood.cli import doctor

    one = {"value": 20.0, "one_core": 30.0, "reference": 60.0, "ratio": 0.5}
    monkeypatch.setattr(doctor, "_speed", lambda: {"matmul": one})
    monkeypatch.setattr(doctor, "_weights", lambda: "present")
    assert run("doctor") == 0
    title, row = capsys.readouterr().out.partition("speed ")[2].splitlines()[:2]
    assert re.split(r"\s{2,}", title.strip()) == [
        "all threads, now", "one core", "reference core", "one core ÷ reference core", "unit"
    ]  # fmt: skip
    assert row.split()[:5] == ["matmul", "20.0", "30.0", "60.0", "0.50"]


def test_the_doctor_knows_every_extra_of_the_package() -> None:
    import tomllib

    from knowngood.cli.doctor import EXTRAS

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    known = set(project["project"]["optional-dependencies"]) - {"dev", "docs"}
    assert {one.name for one in EXTRAS} == known


# Dry run -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["memory_bank", "vae"])
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("train", "digits", "--normal", "0-1", "--representation", "hog", "--model", kind, "--dry-run")
    assert run(*words, "--json") == 0
    record = said(capsys)
    assert record["sizes"] == [[8, 8]]
    assert record["conditions"] == {"class": 2}
    assert f"model {kind}" in record["recipe"]
    assert 0 < record["seconds"] < 3600
    assert not list(tmp_path.iterdir())
    assert run(*words, "--alpha", "0.001") == 0
    printed, noted = capsys.readouterr()
    assert "nothing was written" in printed
    assert f"read    {record['normal']} normal images of 8 × 8 px, 1 channel, " in printed
    assert (
        f"at most {record['normal']:,} calibrate: nothing can be flagged. Give 999 normal images, or --alpha" in noted
    )


def test_a_typo_is_answered_in_python_too() -> None:
    with pytest.raises(ValueError, match=r"unknown setting 'alhpa'; did you mean 'alpha'\?"):
        Detector(alhpa=0.1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"'beta'; it is an option of objective 'beta_vae': model=\{'name': 'vae'"):
        Detector(beta=2)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"model 'vae' has no option 'latnt_dim'; did you mean 'latent_dim'\?"):
        Detector(model={"name": "vae", "latnt_dim": 3}).fit(np.zeros((10, 8, 8)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("words", [("--objective", "dan_vae"), ("--group", "part"), ()])
def test_a_dry_run_takes_groups_and_names_as_the_fit_does(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A group column, or one that names each item, is no condition, which would leave each item in a group alone."""
    monkeypatch.chdir(tmp_path)
    column = words[1] if "--group" in words else "group"
    lines = [f"path,{column},serial"]
    for i, image in enumerate(np.random.default_rng(0).integers(0, 99, (40, 16, 16), np.uint8)):
        Image.fromarray(image).save(f"{i}.png")
        lines.append(f"{i}.png,p{i},s{i}")
    Path("list.csv").write_text("\n".join(lines) + "\n")
    assert run("train", "list.csv", *words, "--dry-run", "--json") == 0
    recipe = said(capsys)["recipe"]
    assert run("train", "list.csv", *words, "--out", "model", "--epochs", "1", "--alpha", "0.5") == 0
    assert Detector.load("model").about_["recipe"].startswith(recipe)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_dry_run_of_a_network_takes_more_conditions_than_images_it_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("knowngood.cli.dry_run.OF_NETWORK", 8)  # of 20 cameras
    lines = ["path,camera"]
    for i, image in enumerate(np.random.default_rng(0).integers(0, 99, (60, 8, 8), np.uint8)):
        Image.fromarray(image).save(f"{i}.png")
        lines.append(f"{i}.png,c{i % 20}")
    Path("list.csv").write_text("\n".join(lines) + "\n")
    assert run("train", "list.csv", "--model", "vae", "--objective", "cvae", "--dry-run") == 0
    assert "nothing was written" in capsys.readouterr().out


def test_values_of_the_data_move_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    value = "A\x1b]0;title\x07\u202e"
    for print_one in (console.say, console.note, console.fail):
        print_one(f"first\ncamera={value}")
    console.table(["camera"], [[f"{value}\nB"]])
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert shown.out.splitlines() == [
        "first", "camera=A\\x1b]0;title\\x07\\u202e", "camera", "A\\x1b]0;title\\x07\\u202e\\nB"
    ]  # fmt: skip
    assert len(shown.err.splitlines()) == 4
