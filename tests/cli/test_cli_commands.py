"""Whole commands on a small folder of PNGs: train → score → evaluate → info, inspect, and the named data."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from knowngood import Detector
from knowngood.cli import main
from knowngood.cli.outputs import write_tables
from knowngood.data import ImageSet, open_images
from knowngood.errors import DataError
from knowngood.files import locked
from knowngood.training.loop import Run

pytestmark = pytest.mark.slow  # fitting models, serving and exporting take seconds

QUICK = [
    "--representation",
    "pixels",
    "--net",
    "mlp",
    "--hidden",
    "32",
    "--latent-dim",
    "4",
    "--epochs",
    "40",
    "--batch-size",
    "16",
    "--ema",
    "none",
    "--alpha",
    "0.2",
]


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


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
    assert run("train", parts, "--out", out, *QUICK, "--num_generated_image", "2", "--film") == 0
    return out


def test_train_leaves_model_log_command_and_drawing(trained: Path) -> None:
    assert {"model", "run", "command.json", "reconstructions.png"} <= {path.name for path in trained.iterdir()}
    assert (trained / "run" / "log.csv").stat().st_size > 0
    with Image.open(trained / "run" / "reconstructions.gif") as film:
        assert film.n_frames > 1
    record = json.loads((trained / "command.json").read_text(encoding="utf-8"))
    assert record["images"] == 60
    assert record["settings"]["model"]["net"]["hidden"] == [32]


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


def test_parquet_without_its_package_is_refused_before_anything_is_scored(
    trained: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("knowngood.cli.score.find_spec", lambda name: None)
    assert (
        run("score", trained, parts / "test", "-o", tmp_path / "r.csv", "--probabilities", tmp_path / "p.parquet") == 2
    )
    assert "pip install pyarrow" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_json_has_all_digits_and_null_for_what_is_missing(tmp_path: Path) -> None:
    scores = [1.2345678901234567e-14, 0.1234567890123456, float("nan")]
    table = pd.DataFrame({"id": ["ä", "b", "c"], "anomaly_score": scores, "error": [None, None, "no image"]})
    table["is_anomalous"] = pd.array([True, False, pd.NA], dtype="boolean")
    write_tables([table[:1], table[1:]], tmp_path / "a.json", {"scored_by": "x"})
    rows = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert [row["anomaly_score"] for row in rows] == [*scores[:2], None]
    assert rows[0] == {"id": "ä", "anomaly_score": scores[0], "error": None, "is_anomalous": True, "scored_by": "x"}
    assert (rows[2]["error"], rows[2]["is_anomalous"]) == ("no image", None)


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
    from knowngood.data import open_images

    words = "--maps", tmp_path / "maps", "--maps-format", "raw"
    assert run("score", trained, parts / "test", "--output", tmp_path / "r.csv", *words) == 0
    index = json.loads((tmp_path / "maps" / "maps.json").read_text(encoding="utf-8"))
    assert len(index["maps"]) == 20
    images = open_images(parts / "test")
    expected = Detector.load(trained / "model").anomaly_maps(images)
    for name, values in zip(images.ids, expected, strict=True):
        grey = np.asarray(Image.open(tmp_path / "maps" / index["maps"][name]))
        assert grey.dtype == np.uint16
        assert grey.shape == (12, 16)
        np.testing.assert_allclose(index["offset"] + grey * index["scale"], values, atol=index["scale"])


def test_score_maps_are_coloured_where_they_are_above_the_threshold(
    trained: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pandas as pd

    words = "--maps", tmp_path / "maps", "--regions", tmp_path / "regions.csv"
    assert run("score", trained, parts / "test", "--output", tmp_path / "r.csv", *words) == 0
    assert "Colour begins at the threshold of the map" in capsys.readouterr().err
    index = json.loads((tmp_path / "maps" / "maps.json").read_text(encoding="utf-8"))
    assert (tmp_path / "maps" / "legend.png").stat().st_size > 0
    images, found = open_images(parts / "test"), pd.read_csv(tmp_path / "regions.csv")
    for i, (name, values) in enumerate(
        zip(images.ids, Detector.load(trained / "model").anomaly_maps(images), strict=True)
    ):
        with Image.open(tmp_path / "maps" / index["maps"][name]) as picture:
            assert "threshold of the map" in picture.info["Description"]
            drawn = np.asarray(picture)
        changed = (drawn != images.read(i)).any(axis=2)
        above = values > index["colour_begins"][name]
        assert changed[above].all()
        assert changed.any() == above.any() == (name in set(found["id"]))
    assert run("score", trained, parts, "--maps", tmp_path / "m", "--maps-format", "rww") == 2
    assert "did you mean 'raw'?" in capsys.readouterr().err


def test_score_flags_by_false_discovery_rate(trained: Path, parts: Path, tmp_path: Path) -> None:
    import pandas as pd

    from knowngood.calibration import benjamini_hochberg

    assert run("score", trained, parts / "test", "--output", tmp_path / "r.csv", "--fdr", "0.3") == 0
    table = pd.read_csv(tmp_path / "r.csv")
    np.testing.assert_array_equal(table["is_anomalous"], benjamini_hochberg(table["p_value"].to_numpy(), 0.3))


def test_score_gives_the_table_of_detect(trained: Path, parts: Path, tmp_path: Path) -> None:
    import pandas as pd

    from knowngood import Detector
    from knowngood.data import open_images

    copy = tmp_path / "test"
    shutil.copytree(parts / "test", copy)
    (copy / "good" / "100.png").write_bytes(b"no image")
    assert run("score", trained, copy, "--output", tmp_path / "r.csv") == 0
    table = pd.read_csv(tmp_path / "r.csv")
    expected = Detector.load(trained / "model").detect(open_images(copy))
    assert list(table.columns) == list(expected.columns)
    assert table["id"].tolist() == expected["id"].tolist()
    np.testing.assert_allclose(table["anomaly_score"], expected["anomaly_score"], rtol=1e-9)
    assert table["error"].notna().sum() == 1
    assert table["is_anomalous"].isna().sum() == 1


def test_explanations_are_of_flagged_images(
    trained: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pandas as pd

    out, why = tmp_path / "r.csv", tmp_path / "why"
    new = tmp_path / "new"
    for kind, name in (("good", "100"), ("scratch", "200"), ("scratch", "201")):
        (new / kind).mkdir(parents=True, exist_ok=True)
        shutil.copy(parts / "test" / kind / f"{name}.png", new / kind)
    words = ["--output", out, "--explain", why]
    assert run("score", trained, new, *words) == 0
    table = pd.read_csv(out)
    records = json.loads((why / "explanations.json").read_text(encoding="utf-8"))
    flagged = table[table["is_anomalous"]].sort_values("anomaly_score", ascending=False)
    assert [record["id"] for record in records] == flagged["id"].tolist()
    assert len(records) >= 2
    assert table.loc[table["is_anomalous"], "explanation"].notna().all()
    given = ["--output", tmp_path / "g.csv", "--explain", tmp_path / "given", "--normals", parts / "train"]
    assert run("score", trained, new, *given) == 0  # those trained on are found without
    for record in records:
        assert (why / record["picture"]).read_bytes() == (tmp_path / "given" / record["picture"]).read_bytes()
    page = (why / "inspection.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") >= 2 * len(records)  # images and their maps
    assert "explain-most" not in capsys.readouterr().out + page.partition("Reproduce")[0]
    assert run("score", trained, new, *words, "--explain-most", 1) == 0
    said = f"1 of {len(records)} flagged explained (--explain-most {len(records)} explains all)"
    assert said in capsys.readouterr().out
    assert said in (why / "inspection.html").read_text(encoding="utf-8").partition("Reproduce")[0]
    assert len(json.loads((why / "explanations.json").read_text(encoding="utf-8"))) == 1


def test_calibrate_gives_thresholds_from_other_normal_images(
    trained: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from knowngood import Detector

    _write_parts(tmp_path / "new" / "good", 19, first=900)
    _write_parts(tmp_path / "new" / "scratch", 2, first=950, scratched=True)
    words = ["calibrate", trained, tmp_path / "new", "--normal", "good"]
    assert run(*words, "--out", tmp_path / "m") == 0
    printed = capsys.readouterr()
    assert "left out: 2 images labelled anomalous" in printed.err
    assert "calibrated on 19 normal images" in printed.out
    old, new = (Detector.load(path).pipeline_ for path in (trained / "model", tmp_path / "m"))
    assert new.calibration is not None
    assert (len(new.calibration), new.calibrated_by) == (19, "set")
    for name, tensor in old.model.state_dict().items():
        assert (tensor == new.model.state_dict()[name]).all()
    assert run(*words, "--out", tmp_path / "m") == 2
    assert "not empty" in capsys.readouterr().err
    assert run("calibrate", trained, tmp_path / "new", "--split", "calib") == 3


def test_an_alpha_that_cannot_be_guaranteed_is_refused(
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
    out = capsys.readouterr().out
    assert "AUROC" in out
    (line,) = (line for line in out.splitlines() if line.startswith("false alarms"))
    least, most = found["false_alarm_range"]
    where = "below" if found["false_alarm_rate"] < least else "above" if found["false_alarm_rate"] > most else "within"
    assert line.endswith(f"asked for 0.2, {where} the 95 % interval expected, {least:.4f} to {most:.4f}")


@pytest.mark.slow
def test_other_classes_than_in_the_training_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ("--representation", "hog", "--model", "memory_bank", "--out", tmp_path / "m")
    assert run("train", "digits", "--holdout", "9", "--train-size", "120", *model) == 0
    for chosen, said in (
        (("--holdout", "9"), None),
        (("--holdout", "7"), "trained with --holdout 9 and is evaluated with --holdout 7"),
        (("--normal", "7"), "trained with --holdout 9 and is evaluated with no --holdout"),
    ):
        capsys.readouterr()
        assert run("evaluate", tmp_path / "m", "digits", *chosen) == 0
        err = capsys.readouterr().err
        assert said in err if said else "trained with" not in err


def test_evaluate_without_anomalies_is_refused(trained: Path, parts: Path) -> None:
    assert run("evaluate", trained, parts / "train") == 3


def test_evaluate_says_that_what_is_missing_could_not_be_read(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_parts(tmp_path / "test" / "good", 10, first=100)
    _write_parts(tmp_path / "test" / "scratch", 2, first=200, scratched=True)
    for path in (tmp_path / "test" / "scratch").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    assert run("evaluate", trained, tmp_path) == 3
    assert "without what cannot be read: 10 images labelled normal and 0 labelled anomalous" in capsys.readouterr().err


def test_evaluate_counts_the_images_that_its_rates_are_of(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_parts(tmp_path / "test" / "good", 10, first=100)
    _write_parts(tmp_path / "test" / "scratch", 4, first=200, scratched=True)
    for name in ("good/100.png", "scratch/200.png", "scratch/201.png"):
        (tmp_path / "test" / name).write_bytes(b"")
    assert run("evaluate", trained, tmp_path / "test", "--json", tmp_path / "m.json") == 0
    found = json.loads((tmp_path / "m.json").read_text())
    assert (found["normals"], found["anomalies"], found["unreadable"]) == (9, 2, 3)
    assert "not scored: good/100.png: is empty (0 bytes)" in capsys.readouterr().err


def test_info_says_what_the_model_is(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", trained) == 0
    assert "gute Teile ü" in capsys.readouterr().out


def test_a_damaged_model_leaves_with_3(trained: Path, parts: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(trained / "model", copy)
    weights = copy / "versions" / "0001" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert run("score", copy, parts / "test") == 3


def test_holding_out_a_class_trains_given_the_class_and_infers_it_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run(
            "train", "digits", "--holdout", "9", "--train-size", "300", "--out", tmp_path / "m", *QUICK, "--epochs", "5"
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "300 normal images of digits, given class" in printed
    assert f"knowngood evaluate {tmp_path / 'm'} digits --holdout 9" in printed
    assert run("evaluate", tmp_path / "m", "digits", "--holdout", "9", "--json", tmp_path / "hidden.json") == 0
    told = capsys.readouterr().err
    assert "hidden from the model" in told
    assert "has no value" not in told
    hidden = json.loads((tmp_path / "hidden.json").read_text(encoding="utf-8"))
    assert (hidden["normals"], hidden["anomalies"]) == (403, 46)


def test_a_class_folder_never_seen_is_inferred_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for first, kind in enumerate(("cap", "nut")):
        _write_parts(tmp_path / "known" / kind, 30, first=100 * first)
    words = ["train", tmp_path / "known", "--unknown", "infer", "--out", tmp_path / "m", *QUICK, "--epochs", "2"]
    assert run(*words) == 0
    _write_parts(tmp_path / "new" / "cap", 2, first=500)
    _write_parts(tmp_path / "new" / "pin", 2, first=600)
    capsys.readouterr()
    assert run("score", tmp_path / "m", tmp_path / "new", "--output", tmp_path / "r.csv") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(told) == 1
    assert told[0].startswith("warning: condition 'class' has no value 'pin' (known: cap, nut); these items were")


def test_the_probability_of_every_condition_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pandas as pd
    from sklearn.datasets import load_digits

    images, kind = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) * 15).astype(np.uint8)
    for name, rows in (("known", kind < 3), ("new", kind < 4)):
        for k in np.unique(kind[rows]):
            folder = tmp_path / name / f"digit {k}"
            folder.mkdir(parents=True)
            for i, image in enumerate(images[rows & (kind == k)][:60]):
                Image.fromarray(image).save(folder / f"{i}.png")
    assert run("train", tmp_path / "known", "--out", tmp_path / "m", "--preset", "known-kinds", "--epochs", "15") == 0
    capsys.readouterr()
    flat = tmp_path / "flat"
    flat.mkdir()
    for k in range(3):
        Image.open(tmp_path / "new" / f"digit {k}" / "5.png").save(flat / f"{k}.png")
    out, told = tmp_path / "verdicts.csv", tmp_path / "kinds.csv"
    assert run("score", tmp_path / "m", flat, "--output", out, "--probabilities", told) == 0
    found = pd.read_csv(told).set_index("id")
    assert list(found.columns) == [f"class=digit {k}" for k in range(3)]
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    assert [found.loc[f"{k}.png"].idxmax() for k in range(3)] == list(found.columns)
    assert str(told) in capsys.readouterr().out


def test_one_condition_alone_has_no_probabilities(
    trained: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("score", trained, parts / "test", "--output", tmp_path / "r.csv", "--probabilities", "p.csv") == 2
    assert "at least two conditions" in capsys.readouterr().err
    assert not (tmp_path / "r.csv").exists()


def test_no_condition_and_an_unknown_condition(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "digits", "--train-size", "100", *QUICK]
    assert run(*words, "--condition", "clas", "--out", tmp_path / "a") == 3
    assert "did you mean 'class'?" in capsys.readouterr().err
    assert run(*words, "--condition", "none", "--out", tmp_path / "b") == 0
    assert "given" not in capsys.readouterr().out.splitlines()[0]


def test_inspect_lists_findings_and_refuses(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_train_shows_the_warnings_of_inspect_in_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for i in range(30):
        shape = (8, 12) if i < 3 else (8, 8, 3) if i < 6 else (8, 8)
        Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(tmp_path / f"{i:02}.png")
    for i in range(30, 33):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f"{i}.png")
    assert run("inspect", tmp_path) == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(listed) == 5
    words = ("--representation", "hog", "--image-size", "8", "--model", "memory_bank", "--grey")
    assert run("train", tmp_path, *words, "--out", tmp_path / "run") == 0
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert sum(line in listed for line in shown) == 2
    assert f"{listed[0]} (2 more of this kind)" in shown
    assert any("aspect ratios (width / height) from 1 to 1.5" in line for line in shown)


def test_inspect_shows_ranges_of_numbers_and_columns_that_name_images(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((parts / "train" / "good").iterdir())[:12]
    lines = [f"{path},SN-{i},{20 + i / 4},{i % 2}" for i, path in enumerate(files)]
    (tmp_path / "parts.csv").write_text("\n".join(["path,serial,temperature,lane", *lines]), encoding="utf-8")
    run("inspect", tmp_path / "parts.csv")
    printed = capsys.readouterr().out.splitlines()
    assert "serial: another value for each image, such as SN-0; no condition unless it is asked for" in printed
    assert "temperature: 20 to 22.75, 12 values" in printed
    assert "lane: 0 (6), 1 (6)" in printed


@pytest.mark.parametrize(("side", "n", "status"), [(64, 3, 3), (64, 4, 0), (16, 3, 0)])
def test_inspect_refuses_as_few_images_as_train(side, n, status, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    assert run("inspect", tmp_path) == status
    said = capsys.readouterr().err
    assert ("3 normal images to train on; `knowngood train` needs at least 4 here" in said) == (status == 3)


def test_unknown_data_names_the_nearest_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "dgits", *QUICK, "--out", "unused") == 3
    assert "digits" in capsys.readouterr().err


def test_data_get_says_what_a_data_set_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "get", "digits") == 0
    assert "train: 1,348" in capsys.readouterr().out
    assert run("data", "list") == 0
    assert "embedded" in capsys.readouterr().out


def test_data_write_makes_a_folder_that_opens_again(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "write", "generated-parts/number=5,size=32,products=label", tmp_path / "parts") == 0
    assert f"manifest {tmp_path / 'parts' / 'manifest.csv'}: 5 images" in capsys.readouterr().out
    assert sorted(open_images(tmp_path / "parts").ids)[-1] == "train/good/000002.png"
    assert run("data", "write", "digits", tmp_path / "parts") == 4
    assert "not an empty folder" in capsys.readouterr().err


def test_data_write_says_what_it_leaves_out(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    _write_parts(tmp_path / "parts", 3, first=0)
    (tmp_path / "parts" / "raw.dng").write_bytes(b"raw")
    assert run("data", "write", tmp_path / "parts", tmp_path / "out") == 0
    said = capsys.readouterr()
    assert "3 images" in said.out
    assert "not written: 1 file that cannot be read, the first: raw.dng: is an image of a kind" in said.err


def test_the_demo_reports_digits_and_parts(tmp_path, monkeypatch, capsys) -> None:
    infer: Any = {"conditioning": {"unknown": "infer"}}
    monkeypatch.setattr(Detector, "from_settings", lambda _: Detector("hog", "memory_bank", **infer))
    monkeypatch.setattr("knowngood.data.open_dataset", lambda name: open_images(name)[::3])
    monkeypatch.setattr("knowngood.cli.demo.PARTS", "generated-parts/size=32,number=60,products=washer,defects=stain")
    assert run("demo", "--out", tmp_path) == 0
    said = capsys.readouterr().out
    assert "9 is not in the training data: AUROC 0." in said
    assert "of the parts with a defect detected" in said
    for folder, title in ((tmp_path, "Handwritten digits: 9"), (tmp_path / "parts", "Generated washers")):
        assert title in (folder / "report.html").read_text(encoding="utf-8")
        assert (folder / "model").is_dir()


def test_with_a_size_the_fit_is_not_given_what_training_excludes(tmp_path, monkeypatch) -> None:
    seen = []

    def fit(self: Detector, images: ImageSet, **_: Any) -> None:
        seen.append(images)
        raise DataError("stop here")

    monkeypatch.setattr(Detector, "fit", fit)
    words = ["train", "digits", "--normal", "1", *QUICK]
    assert run(*words, "--out", tmp_path / "all") == run(*words, "--train-size", "10", "--out", tmp_path / "few") == 3
    assert [bool((images.split("train").labels == 1).any()) for images in seen] == [True, False]
    assert len(seen[1].split("train")) == 10
    assert len(seen[1].split("test")) == len(seen[0].split("test"))


def test_an_unfinished_run_goes_on_only_when_asked(
    trained: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "again"
    shutil.copytree(trained, copy)
    shutil.rmtree(copy / "model")
    words = ["train", parts, "--out", copy, *QUICK]
    assert run(*words) == 2
    assert "add --resume" in capsys.readouterr().err
    assert run(*words, "--resume") == 0
    name = "model/versions/0001/weights.safetensors"
    assert (copy / name).read_bytes() == (trained / name).read_bytes()


def test_two_runs_do_not_write_to_one_place(
    trained: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, place in {
        ("train", parts, *QUICK, "--out"): tmp_path / "run",
        ("calibrate", trained, parts / "test" / "good", "--out"): tmp_path / "model",
        ("evaluate", trained, parts, "--json"): tmp_path / "metrics.json",
        ("score", trained, parts / "test", "--maps"): tmp_path / "maps",
    }.items():
        with locked(place.with_name(f".{place.name}.lock"), "another run"):
            assert run(*words, place) == 2
        assert f"{place} is in use by process" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_commands_that_change_a_model_take_one_lock(
    trained: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, inside = parts / "test" / "good", []

    def training(self: object, *_: object, **__: object) -> None:
        for path in (trained, trained / "model"):
            commands = ["calibrate", path, good], ["update", path, good, "--with", good], ["rollback", path]
            inside.extend(run(*command) for command in commands)

    monkeypatch.setattr("knowngood.detector.estimator.Detector.fit", training)
    before = sorted((trained / "model" / "versions").iterdir())
    assert run("train", parts, "--out", trained, *QUICK, "--resume") == 4  # the stand-in fits nothing
    assert inside == [2] * 6
    assert capsys.readouterr().err.count(f"{trained / 'model'} is in use by process {os.getpid()}") == 6
    assert sorted((trained / "model" / "versions").iterdir()) == before
    assert not list(trained.glob(".*.lock"))


def test_training_ends_with_the_status_of_its_signal_and_says_how_to_go_on(
    trained: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step, done = Run._step, []

    def stepping(self: Run, *batches: object) -> None:
        step(self, *batches)  # type: ignore[arg-type]
        done.append(1)
        if len(done) == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Run, "_step", stepping)
    out = tmp_path / "run"
    words = ["train", parts, "--out", out, *QUICK]
    assert run(*words) == 143
    assert "--resume goes on where it stopped" in capsys.readouterr().err
    assert len(done) == 5
    for command in (["info", out], ["score", out, parts / "test"]):
        assert run(*command) == 3
        assert f"{out} holds an unfinished run" in capsys.readouterr().err
    assert run(*words, "--resume") == 0
    name = "model/versions/0001/weights.safetensors"
    assert (out / name).read_bytes() == (trained / name).read_bytes()
