"""The command line: options made from the settings, the lineage's words, exit statuses, and whole commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from knowngood.cli import main
from knowngood.cli.benchmark import keyword_arguments
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


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["score", "--help"], ["benchmark"], ["--version"]])
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
        ({"distance": "l2"}, "--distance: scoring 'elbo' has no such option; it belongs to reconstruction"),
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
        (["benchmark", "sped"], "did you mean 'speed'?"),
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
    assert json.dumps(names)


# Whole commands ------------------------------------------------------------------------------------------------------

QUICK = [
    "--net",
    "mlp",
    "--hidden",
    "32",
    "--latent-dim",
    "4",
    "--epochs",
    "60",
    "--batch-size",
    "16",
    "--ema",
    "none",
    "--alpha",
    "0.2",
]


def _write_parts(folder: Path, count: int, *, first: int, scratched: bool = False) -> None:
    """Grey 12×16 parts: a bright disc with noise; a scratched one has a black bar across."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    y, x = np.mgrid[:12, :16]
    disc = 200.0 * ((y - 6) ** 2 + (x - 8) ** 2 < 25)
    for i in range(first, first + count):
        noisy = disc + np.random.default_rng(i).normal(20, 5, disc.shape)
        if scratched:
            noisy[4:8] = 0
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i:03d}.png")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of parts in the MVTec layout, with a blank and a non-ASCII letter in its name."""
    root = tmp_path_factory.mktemp("cli") / "gute Teile ü"
    _write_parts(root / "train" / "good", 60, first=0)
    _write_parts(root / "test" / "good", 10, first=100)
    _write_parts(root / "test" / "scratch", 10, first=200, scratched=True)
    return root


@pytest.fixture(scope="module")
def trained(parts: Path) -> Path:
    """The output folder of `knowngood train` on the parts."""
    out = parts.parent / "lauf é"
    assert run("train", parts, "--out", out, *QUICK, "--num_generated_image", "2") == 0
    return out


def test_train_leaves_model_log_command_and_drawing(trained: Path) -> None:
    assert {"model", "run", "command.json", "reconstructions.png"} <= {path.name for path in trained.iterdir()}
    assert (trained / "run" / "log.csv").stat().st_size > 0
    record = json.loads((trained / "command.json").read_text(encoding="utf-8"))
    assert record["images"] == 60
    assert record["settings"]["net"]["hidden"] == [32]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_score_writes_one_row_an_image(trained: Path, parts: Path, tmp_path: Path, suffix: str) -> None:
    import pandas as pd

    output = tmp_path / "neu ä" / f"results{suffix}"
    assert run("score", trained, parts / "test", "--output", output) == 0
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".json": pd.read_json}[suffix]
    found = read(output)
    assert len(found) == 20
    assert {"id", "anomaly_score", "p_value", "is_anomalous"} <= set(found.columns)
    scratched = found["id"].str.contains("scratch").to_numpy()
    assert scratched.sum() == 10
    assert found["anomaly_score"][scratched].min() > found["anomaly_score"][~scratched].max()
    assert found["is_anomalous"].astype(bool)[scratched].all()


def test_score_without_output_prints_only_the_table(
    trained: Path, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("score", trained / "model", parts / "test" / "good") == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith("id,anomaly_score,p_value,is_anomalous")
    assert len(lines) == 11
    assert "false-alarm rate of 0.2" in printed.err


def test_score_maps_have_the_images_size_and_one_scale(trained: Path, parts: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    from knowngood import Detector
    from knowngood.images import open_images

    assert run("score", trained, parts / "test", "--output", tmp_path / "r.csv", "--maps", tmp_path / "maps") == 0
    index = json.loads((tmp_path / "maps" / "maps.json").read_text(encoding="utf-8"))
    assert len(index["maps"]) == 20
    images = open_images(parts / "test")
    expected = Detector.load(trained / "model").anomaly_maps(images)
    for name, values in zip(images.ids, expected, strict=True):
        grey = np.asarray(Image.open(tmp_path / "maps" / index["maps"][name]))
        assert grey.dtype == np.uint16
        assert grey.shape == (12, 16)
        np.testing.assert_allclose(grey * index["scale"], np.clip(values, 0, None), atol=index["scale"])


def test_an_alpha_that_cannot_be_promised_is_refused(
    trained: Path, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("score", trained, parts / "test", "--alpha", "0.001") == 3
    assert "missing" in capsys.readouterr().err


def test_evaluate_measures_and_reports(
    trained: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, metrics = tmp_path / "r" / "report.html", tmp_path / "m.json"
    assert run("evaluate", trained, parts, "--report", report, "--json", metrics) == 0
    found = json.loads(metrics.read_text(encoding="utf-8"))
    assert found["auroc"] == 1.0
    assert (found["normals"], found["anomalies"], found["alpha"]) == (10, 10, 0.2)
    assert report.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html")
    assert "AUROC" in capsys.readouterr().out


def test_evaluate_without_anomalies_is_refused(trained: Path, parts: Path) -> None:
    assert run("evaluate", trained, parts / "train") == 3


def test_info_says_what_the_model_is(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", trained) == 0
    assert "gute Teile ü" in capsys.readouterr().out


def test_a_damaged_model_leaves_with_3(trained: Path, parts: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(trained / "model", copy)
    weights = copy / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert run("score", copy, parts / "test") == 3


def test_holding_out_a_class_trains_given_the_class_and_infers_it_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", "digits", "--holdout", "9", "--train-size", "300", "--out", tmp_path / "m", *QUICK) == 0
    printed = capsys.readouterr().out
    assert "300 good images of digits, given class" in printed
    assert f"knowngood evaluate {tmp_path / 'm'} digits --holdout 9" in printed
    assert run("evaluate", tmp_path / "m", "digits", "--holdout", "9", "--json", tmp_path / "hidden.json") == 0
    assert "the model does not see it" in capsys.readouterr().err
    hidden = json.loads((tmp_path / "hidden.json").read_text(encoding="utf-8"))
    assert (hidden["normals"], hidden["anomalies"]) == (403, 46)


def test_no_condition_and_an_unknown_condition(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "digits", "--train-size", "100", *QUICK]
    assert run(*words, "--condition", "clas", "--out", tmp_path / "a") == 3
    assert "did you mean 'class'?" in capsys.readouterr().err
    assert run(*words, "--condition", "none", "--out", tmp_path / "b") == 0
    assert "given" not in capsys.readouterr().out.splitlines()[0]


def test_inspect_lists_findings_and_refuses(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    assert run("inspect", parts) == 0
    capsys.readouterr()
    copy = tmp_path / "kaputt"
    shutil.copytree(parts, copy)
    (copy / "train" / "good" / "000.png").write_bytes(b"")
    records = tmp_path / "findings.json"
    assert run("inspect", copy, "--strict", "--json", records) == 3
    assert "000.png" in capsys.readouterr().err
    assert any("000.png" in record["path_or_id"] for record in json.loads(records.read_text(encoding="utf-8")))
    assert run("inspect", copy, "--tolerance", "0.5") == 0
    assert "zero-byte" in capsys.readouterr().out


def test_unknown_data_names_the_nearest_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "dgits", *QUICK, "--out", "unused") == 3
    assert "digits" in capsys.readouterr().err


def test_data_get_says_what_a_data_set_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "get", "digits") == 0
    assert "train: 1,348" in capsys.readouterr().out
    assert run("data", "list") == 0
    assert "embedded" in capsys.readouterr().out
