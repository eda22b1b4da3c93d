"""The command line: options made from the settings, the lineage's words, and exit statuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks.__main__ import keyword_arguments
from knowngood.cli import build_app, main
from knowngood.cli.lazy import COMMANDS
from knowngood.cli.map_files import file_names
from knowngood.cli.options import setting_options, settings_from
from knowngood.config import (
    CVAE,
    DCVAE,
    Elbo,
    FeatureOptions,
    Fusion,
    Group,
    Neighbours,
    Settings,
    VAEOptions,
    choices,
    parse_settings,
)
from knowngood.errors import DataError, SettingsError

HEAVY = (
    "torch",
    "numpy",
    "sklearn",
    "scipy",
    "pandas",
    "pyarrow",
    "matplotlib",
    "lightning_fabric",
    "PIL",
    "fastapi",
    "uvicorn",
)


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `train` would do, noted at its first step after parsing."""
    seen: dict[str, Any] = {}

    def folder(out: Any, prefix: str, source: str, method: str, resume: bool) -> Path:
        seen.update(out=out, prefix=prefix, source=source, resume=resume)
        return Path("unused")

    def opened(data: str, **selection: Any) -> None:
        seen.update(selection)
        raise DataError("stop here")

    monkeypatch.setattr("knowngood.cli.train._output_folder", folder)
    monkeypatch.setattr("knowngood.cli.train.open_selected", opened)
    return seen


# Start-up ------------------------------------------------------------------------------------------------------------


def loaded(program: str, names: tuple[str, ...]) -> list[str]:
    """Which of these modules a program of its own has imported at its end."""
    code = f"import sys\n{program}\nprint('LOADED', *[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        "import knowngood",
        "from knowngood.cli import main\ntry: main(['--help'])\nexcept SystemExit as left: assert not left.code",
        "import knowngood.cli.score, knowngood.cli.serve, knowngood.cli.info",
    ],
)
def test_what_is_asked_first_imports_no_models_of_settings_either(program: str) -> None:
    assert loaded(program, (*HEAVY, "pydantic", "yaml", "rich")) == []


def test_the_help_knows_each_command_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    app: Any = typer.main.get_command(build_app())
    context = typer.Context(app)
    for name, place in COMMANDS.items():
        command = app.resolve_command(context, [name])[1]
        assert (command.name, bool(command.help)) == (name, True)
        assert len(place.help) <= 45  # columns that completion has for it
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown and place.help.rstrip(".") in shown for name, place in COMMANDS.items())


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    asked = [["--version"], ["--help"], ["score", "--help"], ["train", "--help"], ["train", "--help-all"]]
    asked += [["serve", "--help"], ["watch", "--help"]]
    code = (
        f"import sys\nfrom knowngood.cli import main\nfor words in {asked!r}:\n"
        "    try: main(words)\n    except SystemExit as left: assert not left.code, left.code\n"
        f"    print('LOADED', words, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
    assert loaded == [f"LOADED {words} []" for words in asked]


def test_help_is_plain_off_a_terminal_and_fits_a_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert run("train", "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert not any("\033" in line or "╭" in line for line in lines)
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    for name in Settings.model_fields:
        assert f"  --{name.replace('_', '-')} " in text or f"  {name} " in text
    assert "--help-all" in text
    assert "--resume" in text
    said = {line.split()[0]: line for line in lines if line.strip().startswith("--")}
    defaults = {"--representation": "auto", "--objective": "cvae", "--alpha": "0.05", "--random-state": "0"}
    assert all(said[flag].endswith(f"(default {value})") for flag, value in defaults.items())


def test_help_all_lists_every_option_and_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--help-all") == 0
    lines = capsys.readouterr().out.splitlines()
    words = {word.split("/")[0] for line in lines for word in line.split() if word.startswith("--")}
    assert {option.flag for option in setting_options()} <= words
    starts = {line.split()[0] for line in lines if line.startswith("    ") and line.split()}
    for option in setting_options():
        assert set(option.family) <= starts
    text = " ".join(" ".join(lines).split())
    assert "items a step and process; of pixels the default is 32 (default 128)" in text
    assert "the loss that is minimised (default cvae)" in text
    assert "Options of representation pixels, hog, features" in text


# Options from the settings models ------------------------------------------------------------------------------------


def test_every_option_of_every_choice_and_group_is_an_option() -> None:
    options = setting_options()
    held = {(option.path, option.field) for option in options}
    for field, info in Settings.model_fields.items():
        if isinstance(info.default, Group):
            assert {((field,), name) for name in type(info.default).model_fields} <= held
        else:
            assert ((), field) in held
    for path, model in ((("representation",), FeatureOptions), (("model",), VAEOptions), (("score",), Neighbours)):
        assert {(path, name) for name in model.model_fields if name != "name"} <= held
    for field in ("objective", "net", "likelihood"):
        for model in choices(VAEOptions, field).values():
            assert {(("model", field), name) for name in model.model_fields if name != "name"} <= held
    assert len({option.parameter for option in options}) == len(options)


def test_names_are_short_where_unique_and_prefixed_elsewhere() -> None:
    by_place = {(*option.path, option.field): option.flag for option in setting_options()}
    assert by_place["representation", "image_size"] == "--image-size"
    assert by_place["model", "objective", "beta"] == "--beta"
    assert by_place["model", "objective", "alpha"] == "--objective-alpha"
    assert by_place["training", "warmup"] == "--warmup"
    assert by_place["labels", "warmup"] == "--labels-warmup"
    assert by_place["calibration", "method"] == "--calibration"
    assert (by_place["model", "coreset"], by_place["score", "coreset"]) == ("--model-coreset", "--score-coreset")


VAE = {"name": "vae"}
NET = {"name": "transformers", "source": "nets/dinov2"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"batch_size": "32"}, {"training": {"batch_size": 32}}),
        ({"representation": "hog", "image_size": "64"}, {"representation": {"name": "hog", "image_size": 64}}),
        ({"representation": "hog", "image_size": "64x48"}, {"representation": {"name": "hog", "image_size": (64, 48)}}),
        (
            {"representation": "hog", "image_size": "64, 48"},
            {"representation": {"name": "hog", "image_size": (64, 48)}},
        ),
        ({"representation": "hog", "scaling": "0,4095"}, {"representation": {"name": "hog", "scaling": (0.0, 4095.0)}}),
        ({"representation": "hog", "scaling": "data"}, {"representation": {"name": "hog", "scaling": "data"}}),
        ({"representation": "pixels", "grey": True}, {"representation": {"name": "pixels", "grey": True}}),
        ({"ema": "off"}, {"training": {"ema": None}}),
        ({"random_state": "none"}, {"random_state": None}),
        ({"strict": False}, {"data": {"strict": False}}),
        ({"ignore": "mask.png"}, {"data": {"ignore": "mask.png"}}),
        ({"measure": "brightness,contrast"}, {"conditioning": {"measure": ["brightness", "contrast"]}}),
        ({"measure": "brightness"}, {"conditioning": {"measure": ["brightness"]}}),
        (
            {"roles": ["camera=model,stratify", "lamp=infer"]},
            {"conditioning": {"roles": {"camera": ("model", "stratify"), "lamp": ("infer",)}}},
        ),
        ({"calibration": "cross", "folds": "4"}, {"calibration": {"method": "cross", "folds": 4}}),
        ({"net": "mlp", "hidden": "64"}, {"model": {**VAE, "net": {"name": "mlp", "hidden": (64,)}}}),
        ({"net": "mlp", "hidden": "64,32"}, {"model": {**VAE, "net": {"name": "mlp", "hidden": (64, 32)}}}),
        (
            {"likelihood": "gaussian", "sigma": "0.1"},
            {"model": {**VAE, "likelihood": {"name": "gaussian", "sigma": 0.1}}},
        ),
        (
            {"likelihood": "gaussian", "sigma": "pixel"},
            {"model": {**VAE, "likelihood": {"name": "gaussian", "sigma": "pixel"}}},
        ),
        ({"score": "elbo", "samples": "4"}, {"score": {"name": "elbo", "samples": 4}}),
        ({"score": "elbo,neighbours"}, {"score": ["elbo", "neighbours"]}),
        # An option of one choice alone implies it.
        ({"objective": "dcvae", "beta": "2"}, {"model": {**VAE, "objective": {"name": "dcvae", "beta": 2}}}),
        ({"hidden": "64"}, {"model": {**VAE, "net": {"name": "mlp", "hidden": (64,)}}}),
        (
            {"capacity": "20", "gamma": "50"},
            {"model": {**VAE, "objective": {"name": "beta_vae", "capacity": 20, "gamma": 50}}},
        ),
        ({"align": "rigid"}, {"representation": {"name": "features", "align": "rigid"}}),
        (
            {"blocks": "1,2"},
            {"representation": {"name": "features", "backbone": {"name": "efficientnet_lite0", "blocks": (1, 2)}}},
        ),
        (
            {"backbone": "nets/dinov2", "layers": "4,8"},
            {"representation": {"name": "features", "backbone": {**NET, "layers": (4, 8)}}},
        ),
        ({"source": "nets/dinov2"}, {"representation": {"name": "features", "backbone": NET}}),
        (
            {"backbone": "net.onnx", "outputs": "fine"},
            {
                "representation": {
                    "name": "features",
                    "backbone": {"name": "onnx", "path": "net.onnx", "outputs": ["fine"]},
                }
            },
        ),
        ({"shrinkage": "0.5"}, {"model": {"name": "patch_gaussian", "shrinkage": 0.5}}),
        ({"k": "3"}, {"score": {"name": "neighbours", "k": 3}}),
        ({"shift": "5"}, {"labels": {"name": "shift", "shift": 5}}),
        ({"tile": "512"}, {"data": {"tile": 512}}),
        ({"tile": "none"}, {"data": {"tile": "none"}}),
        ({"image_size": "64"}, {"representation": {"name": "auto", "image_size": 64}}),
        ({"grey": "true", "align": "none"}, {"representation": {"name": "features", "grey": True, "align": "none"}}),
        ({"model": "auto", "latent_dim": "8"}, {"model": {**VAE, "latent_dim": 8}}),
        # Options of the scores in a fusion go to those that have them.
        (
            {"score": "elbo,neighbours", "samples": "0", "k": "3", "score_weights": "1,2"},
            {
                "score": {
                    "name": "fusion",
                    "scores": [{"name": "elbo", "samples": 0}, {"name": "neighbours", "k": 3}],
                    "weights": [1, 2],
                }
            },
        ),
        # The word of the dCVAE paper.
        ({"model": "dcvae", "beta": "2"}, {"model": {**VAE, "objective": {"name": "dcvae", "beta": 2}}}),
        ({"model": "cvae", "objective": "cvae"}, {"model": {**VAE, "objective": "cvae"}}),
        ({"model": "vae"}, {"model": "vae"}),
    ],
)
def test_values_as_typed(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert settings_from(given) == parse_settings(expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beta": "2"}, "--beta: several choices have this option; add --objective beta_vae, dcvae or tc_vae"),
        (
            {"illumination": ".3"},
            "--illumination: several choices have this option; add --representation pixels or feat",
        ),
        ({"samples": "4"}, "add --score elbo, iwae"),
        (
            {"objective": "cvae", "beta": "2"},
            "--beta: objective 'cvae' has no such option; it belongs to beta_vae, dcvae",
        ),
        (
            {"objective": "dcvae", "capacity": "2"},
            "objective 'dcvae' has no such option; it belongs to beta_vae: choose it",
        ),
        (
            {"net": "conv", "hidden": "2"},
            "--hidden: net 'conv' has no such option; it belongs to mlp: choose it with --net",
        ),
        (
            {"model": "patch_gaussian", "beta": "2"},
            "--beta: model 'patch_gaussian' has no such option; it belongs to vae",
        ),
        (
            {"representation": "hog", "illumination": ".3"},
            "it belongs to pixels, features: choose one with --representation",
        ),
        (
            {"distance": "l2", "score": "elbo"},
            "--distance: score 'elbo' has no such option; it belongs to reconstruction",
        ),
        ({"score": "elbo,kl", "k": "2"}, "--k: score 'elbo, kl' has no such option; it belongs to neighbours"),
        ({"k": "3", "distance": "l2"}, "no score has all of these options: --distance belongs to reconstruction; --k"),
        ({"labels": "ignore", "shift": "3"}, "--shift: labels 'ignore' has no such option; it belongs to shift"),
        ({"objective": "dcvea", "beta": "2"}, "unknown objective 'dcvea'; did you mean 'dcvae'?"),
        ({"model": "vea"}, "unknown model 'vea'; did you mean 'vae'?"),
        ({"model": "dcvae", "objective": "cvae"}, "--model dcvae contradicts --objective cvae"),
        ({"model": "vae", "align": "rigid"}, "model 'vae' takes pixels or hog or table, not representation 'features'"),
        ({"epochs": "many"}, "setting 'training.epochs' = 'many'"),
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
    config.write_text(
        "model: {name: vae, objective: {name: dcvae, tc: explicit, density: mws}}\ntraining: {epochs: 7, lr: 0.5}\n",
        encoding="utf-8",
    )
    settings = settings_from({"epochs": "9"}, preset="paper-mlp", config=config)
    model = settings.model
    assert isinstance(model, VAEOptions)
    assert model.objective == DCVAE(
        beta=2.0, tc="sampled", density="mws"
    )  # the same choice keeps what a lower layer set for it
    assert (settings.training.epochs, settings.training.lr, model.latent_dim) == (9, 0.5, 20)
    changed = settings_from({"objective": "cvae"}, preset="paper-mlp").model
    assert changed == model.model_copy(update={"objective": CVAE()})
    assert settings_from({"beta": "5"}, preset="paper-mlp").model.objective == DCVAE(beta=5.0)  # type: ignore[union-attr]
    for given, latent in (({"model": "vae"}, 20), ({"model": "FactorVAE"}, 50), ({"objective": "rf_vae"}, 50)):
        assert settings_from(given, preset="paper-mlp").model.latent_dim == latent  # type: ignore[union-attr]
    config.write_text("model: {name: vae, objective: factor_vae}", encoding="utf-8")
    assert settings_from({}, preset="paper-mlp", config=config).model.latent_dim == 50  # type: ignore[union-attr]
    assert settings_from({"latent_dim": "3"}, preset="paper-mlp", config=config).model.latent_dim == 3  # type: ignore[union-attr]


def test_options_reach_the_scores_of_a_presets_fusion() -> None:
    score = settings_from({"k": "9"}, preset="shapes").score
    assert score == Fusion(scores=(Elbo(samples=0), Neighbours(of="items", k=9)))


@pytest.mark.parametrize(
    ("content", "message"),
    [("epoch: 3", "unknown setting 'epoch'"), ("a: [", "this is not YAML"), (None, "No such file")],
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
SHORT = "mnist --objective dcvae --beta 2 --epochs 100 --batch-size 64 --device gpu"
LONG = "mnist --model vae --model-objective dcvae --objective_beta 2 --epochs 100 --batch-size 64 --device gpu"


@pytest.mark.slow
@pytest.mark.parametrize("line", [PAPER, SHORT, LONG])
def test_the_papers_command_line(line: str, parsed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr(
        "knowngood.cli.options.settings_from", lambda *a, **k: seen.append(settings_from(*a, **k)) or seen[0]
    )
    assert run("train", *line.split()) == 3
    assert parsed["source"] == "mnist"
    assert seen[0] == parse_settings(
        {
            "model": {"name": "vae", "objective": {"name": "dcvae", "beta": 2.0}},
            "training": {"epochs": 100, "batch_size": 64},
            "device": "gpu",
        }
    )


@pytest.mark.parametrize(
    ("word", "objective", "beta"),
    [
        ("vae", "vae", None), ("cvae", "cvae", None), ("FactorVAE", "factor_vae", None), ("rf_vae", "rf_vae", None),
        ("rfvae", "rf_vae", None), ("corex", "corex", None), ("betavae", "beta_vae", 2), ("beta-vae", "beta_vae", 2),
        ("beta_tcvae", "tc_vae", 2), ("dcvae", "dcvae", 2),
    ],
)  # fmt: skip
def test_every_model_of_the_lineage_takes_its_command(
    word: str, objective: str, beta: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_from({"model": word, "beta": "2.0", "epochs": "100", "batch_size": "64"})
    own = {} if beta is None else {"beta": beta}
    assert settings.model == parse_settings({"model": {**VAE, "objective": {"name": objective, **own}}}).model
    said = capsys.readouterr().err
    assert (said == "") == (beta is not None)
    if beta is None:
        assert said.startswith(f"--beta 2.0 changes nothing: {objective} has no beta")
        assert said.count("\n") == 1


def test_a_named_objective_decides_what_beta_is() -> None:
    assert settings_from({"model": "vae", "objective": "dcvae", "beta": "3"}).model.objective == DCVAE(beta=3)  # type: ignore[union-attr]


def test_the_papers_further_options(parsed: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = (
        "train --model dcvae --task mnist --latent_dim 10 --lr 1e-5 --lr_secondary 1e-3 --train_size 500 "
        "--num_generated_image 4 --prefix a-"
    )
    assert run(*line.split(), "--outdir", tmp_path / "mit Leer ü", "--holdout", "9") == 3
    assert parsed["out"] == tmp_path / "mit Leer ü"
    assert (parsed["prefix"], parsed["holdout"]) == ("a-", "9")
    assert "--prefix a- changes nothing" in capsys.readouterr().err
    assert run(*line.split()) == 3
    assert "changes nothing" not in capsys.readouterr().err


# Usage errors and exit statuses --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "no data given"),
        (["train", "mnist", "--task", "kmnist"], "given twice"),
        (["train", "mnist", "--gpu", "--device", "cpu"], "--gpu contradicts --device cpu"),
        (["train", "mnist", "--batchsize", "3"], "--batch-size"),
        (["train", "mnist", "--train-size", "0"], "Invalid value for '--train-size'"),
        (["train", "mnist", "--beta", "2"], "add --objective beta_vae, dcvae or tc_vae"),
        (["train", "mnist", "--model", "patch_gaussian", "--num-generated-image", "2"], "only a VAE on pixels"),
        (["train", "mnist", "--representation", "hog", "--num-generated-image", "2"], "pixels --model vae"),
        (["train", "mnist", "--representation", "hog", "--film"], "pixels --model vae"),
        (["train", "mnist", "--holdout", "9", "--labels", "shift"], "keeps classes out of training"),
        (["score", "m", "d", "--normals", "n"], "give --explain DIR with it"),
        (["score", "m", "d", "--explain-most", "9"], "--explain-most 9 goes with --explain DIR"),
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


@pytest.mark.parametrize("words", [["info"], ["score", "{}", "d"], ["calibrate", "{}", "d"]])
def test_a_missing_model_leaves_with_3(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "nowhere"
    assert run(*(missing if word == "{}" else word for word in words), *([missing] if len(words) == 1 else [])) == 3
    assert "nowhere" in capsys.readouterr().err


def test_an_output_folder_with_a_model_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    assert run("train", "mnist", "--out", tmp_path) == 2
    assert "already holds a model" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "expected"), [("torch", True), ("knowngood.cli.nothing", False)])
def test_a_package_that_is_not_installed_is_named_with_what_brings_it(
    name: str, expected: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacking(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr("knowngood.cli.info.in_use", lacking)
    assert run("info", "m") == 4
    said = capsys.readouterr().err
    assert ("not expected" not in said) == expected
    assert ("torch is not installed" in said) == ("`pip install knowngood`" in said) == expected


def test_an_unexpected_error_is_one_block_and_debug_shows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("knowngood.cli.info.in_use", broken)
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


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or not Path("/dev/full").exists(), reason="needs a full device, and pipes")
@pytest.mark.parametrize(
    ("closed", "status", "said"),
    [(False, 4, "error: the output cannot be written: No space left on device; free some space"), (True, 1, "")],
    ids=["full", "closed"],
)
def test_output_that_nobody_takes_is_no_unexpected_error(closed: bool, status: int, said: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    out = writer if closed else os.open("/dev/full", os.O_WRONLY)
    code = "from knowngood.cli import main; main(['data', 'list'])"
    done = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.startswith(said), "not expected" in done.stderr) == (status, True, False)
    assert "Exception ignored" not in done.stderr
