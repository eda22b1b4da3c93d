"""The command line: options made from the settings, the lineage's words, and exit statuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import keyword_arguments
from knowngood.cli import main
from knowngood.cli.options import setting_options, settings_from
from knowngood.cli.score import file_names
from knowngood.config import DCVAE, Settings, choices, parse_settings
from knowngood.errors import DataError, SettingsError

HEAVY = ("torch", "numpy", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib", "lightning_fabric", "PIL")


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `train` would do, noted at its first step after parsing."""
    seen: dict[str, Any] = {}

    def folder(out: Any, prefix: str, source: str, objective: str, resume: bool) -> Path:
        seen.update(out=out, prefix=prefix, source=source, resume=resume)
        return Path("unused")

    def opened(data: str, **selection: Any) -> None:
        seen.update(selection)
        raise DataError("stop here")

    monkeypatch.setattr("knowngood.cli.train._output_folder", folder)
    monkeypatch.setattr("knowngood.cli.train.open_selected", opened)
    return seen


# Start-up ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["score", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom knowngood.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit as left: assert not left.code, left.code\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_help_is_plain_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--help") == 0
    text = capsys.readouterr().out
    assert "\033" not in text
    assert "╭" not in text


# Options from the settings models ------------------------------------------------------------------------------------


def test_every_setting_and_every_option_of_every_choice_is_an_option() -> None:
    options = setting_options()
    assert {option.field for option in options if option.family is None} == set(Settings.model_fields)
    for family in ("objective", "net", "likelihood", "scoring"):
        fields = {name for model in choices(family).values() for name in model.model_fields} - {"name"}
        assert {option.field for option in options if option.family == family} == fields
    assert len({option.parameter for option in options}) == len(options)


def test_help_shows_descriptions_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    run("train", "--help")
    text = " ".join(capsys.readouterr().out.split())
    for name, info in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert info.description is None or info.description[:12] in text
    assert "(default 128)" in text
    assert "(default cvae)" in text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"batch_size": "32"}, {"batch_size": 32}),
        ({"image_size": "64"}, {"image_size": 64}),
        ({"image_size": "64x48"}, {"image_size": (64, 48)}),
        ({"image_size": "64, 48"}, {"image_size": (64, 48)}),
        ({"scaling": "0,4095"}, {"scaling": (0.0, 4095.0)}),
        ({"scaling": "data"}, {"scaling": "data"}),
        ({"ema": "off"}, {"ema": None}),
        ({"random_state": "none"}, {"random_state": None}),
        ({"grey": True}, {"grey": True}),
        ({"strict": False}, {"strict": False}),
        (
            {"roles": ["camera=model,stratify", "lamp=infer"]},
            {"roles": {"camera": ("model", "stratify"), "lamp": ("infer",)}},
        ),
        ({"net": "mlp", "hidden": "64"}, {"net": {"name": "mlp", "hidden": (64,)}}),
        ({"net": "mlp", "hidden": "64,32"}, {"net": {"name": "mlp", "hidden": (64, 32)}}),
        ({"likelihood": "gaussian", "sigma": "0.1"}, {"likelihood": {"name": "gaussian", "sigma": 0.1}}),
        ({"likelihood": "gaussian", "sigma": "pixel"}, {"likelihood": {"name": "gaussian", "sigma": "pixel"}}),
        ({"samples": "4"}, {"scoring": {"name": "elbo", "samples": 4}}),
        (
            {"objective": "beta_vae", "capacity": "20", "gamma": "50"},
            {"objective": {"name": "beta_vae", "capacity": 20, "gamma": 50}},
        ),
    ],
)
def test_values_as_typed(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert settings_from(given) == parse_settings(expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beta": "2"}, "--beta: objective 'cvae' has no such option; it belongs to beta_vae, dcvae"),
        ({"objective": "dcvae", "capacity": "2"}, "objective 'dcvae' has no such option; it belongs to beta_vae"),
        ({"hidden": "2"}, "--hidden: net 'auto' has no such option; it belongs to mlp: add --net mlp"),
        (
            {"distance": "l2", "scoring": "elbo"},
            "--distance: scoring 'elbo' has no such option; it belongs to reconstruction",
        ),
        ({"objective": "dcvea", "beta": "2"}, "unknown objective 'dcvea'; did you mean 'dcvae'?"),
        ({"epochs": "many"}, "setting 'epochs' = 'many'"),
        ({"roles": ["camera"]}, "expected COLUMN=VALUE,VALUE"),
        ({"roles": ["camera=modle"]}, "modle"),
        ({"objective": "dcvae", "tc": "bound", "beta": "2"}, "tc='bound'"),
    ],
)
def test_values_that_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from(given)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_layers_preset_below_file_below_options(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("objective: {name: dcvae, tc: explicit, density: mws}\nepochs: 7\nlr: 0.5\n", encoding="utf-8")
    settings = settings_from({"epochs": "9"}, preset="paper-mlp", config=config)
    assert settings.objective == DCVAE(beta=2.0, density="mws")  # the same choice keeps what a lower layer set for it
    assert (settings.epochs, settings.lr, settings.latent_dim) == (9, 0.5, 20)
    assert settings_from({"objective": "cvae"}, preset="paper-mlp").objective.name == "cvae"
    assert settings_from({"beta": "5"}, preset="paper-mlp").objective == DCVAE(beta=5.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [("epoch: 3", "did you mean 'epochs'?"), ("a: [", "this is not YAML"), (None, "No such file")],
)
def test_a_bad_settings_file_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    config = tmp_path / "bad.yaml"
    if content is not None:
        config.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        settings_from({}, config=config)
    assert "bad.yaml" in str(caught.value)
    assert message in str(caught.value)


# The lineage's words -------------------------------------------------------------------------------------------------


PAPER = "--model dcvae --task mnist --beta 2.0 --num_epochs 100 --batch_size 64 --gpu"
OURS = "mnist --objective dcvae --beta 2 --epochs 100 --batch-size 64 --device gpu"


@pytest.mark.parametrize("line", [PAPER, OURS])
def test_the_papers_command_line(line: str, parsed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr(
        "knowngood.cli.options.settings_from", lambda *a, **k: seen.append(settings_from(*a, **k)) or seen[0]
    )
    assert run("train", *line.split()) == 3
    assert parsed["source"] == "mnist"
    assert seen[0] == parse_settings(
        {"objective": {"name": "dcvae", "beta": 2.0}, "epochs": 100, "batch_size": 64, "device": "gpu"}
    )


def test_the_papers_further_options(parsed: dict[str, Any], tmp_path: Path) -> None:
    line = (
        "train --task mnist --latent_dim 10 --lr 1e-5 --lr_secondary 1e-3 --train_size 500 "
        "--num_generated_image 4 --prefix a-"
    )
    assert run(*line.split(), "--outdir", tmp_path / "mit Leer ü", "--holdout", "9") == 3
    assert parsed["out"] == tmp_path / "mit Leer ü"
    assert (parsed["prefix"], parsed["holdout"]) == ("a-", "9")


# Usage errors and exit statuses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "no data given"),
        (["train", "mnist", "--task", "kmnist"], "given twice"),
        (["train", "mnist", "--gpu", "--device", "cpu"], "--gpu contradicts --device cpu"),
        (["train", "mnist", "--batchsize", "3"], "--batch-size"),
        (["train", "mnist", "--train-size", "0"], "Invalid value for '--train-size'"),
        (["train", "mnist", "--beta", "2"], "it belongs to beta_vae, dcvae"),
        (["train", "mnist", "--preset", "paper"], "did you mean 'paper-mlp'?"),
        (["trian", "mnist"], "trian"),
        (["score", "m", "d", "--output", "a.xls"], "unknown format '.xls'; known: .csv, .parquet, .json"),
        (["score", "m", "d", "--unknown", "guess"], "expected error or infer"),
    ],
)
def test_usage_errors_leave_with_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    printed = capsys.readouterr()
    assert message in " ".join(printed.err.split())
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_a_missing_model_leaves_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", tmp_path / "nowhere") == 3
    assert "nowhere" in capsys.readouterr().err


def test_an_output_folder_with_a_model_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    assert run("train", "mnist", "--out", tmp_path) == 2
    assert "already holds a model" in capsys.readouterr().err


def test_an_unexpected_error_is_one_block_and_debug_shows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("knowngood.cli.info.model_folder", broken)
    assert run("info", "m") == 4
    assert "KeyError: 'surprise'" in capsys.readouterr().err
    with pytest.raises(KeyError):
        main(["info", "m", "--debug"])


# Benchmarks ----------------------------------------------------------------------------------------------------------


def _protocol(
    *, dataset: str = "digits", seeds: list[int] | None = None, dev: bool = False, out: Path | None = None
) -> None:
    """A stand-in for a benchmark."""


def test_benchmark_options_are_the_functions_arguments() -> None:
    words = ["--dataset", "mnist", "--seeds=0,1", "--dev", "--out", "a b"]
    assert keyword_arguments(_protocol, words, "x") == {
        "dataset": "mnist",
        "seeds": [0, 1],
        "dev": True,
        "out": Path("a b"),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sedes", "1"], "takes no '--sedes'; did you mean '--seeds'?"),
        (["--seeds", "a"], "--seeds a"),
        (["--dataset"], "needs a value"),
        (["loose"], "takes no 'loose'"),
    ],
)
def test_benchmark_options_that_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        keyword_arguments(_protocol, words, "x")
    assert message in str(caught.value)


# Maps ----------------------------------------------------------------------------------------------------------------


def test_map_names_are_unique_and_stay_inside() -> None:
    ids = ["good/a.png", "bad/a.jpg", "bad/A.png", "../x.png", "/etc/y.png", "0003"]
    names = file_names(ids)
    assert names[0] == "good/a.png"
    assert len({name.lower() for name in names}) == len(ids)
    assert not any(name.startswith(("/", "..")) for name in names)
