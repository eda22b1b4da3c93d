"""The data arguments that commands share: which split is used."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from knowngood import Detector
from knowngood.cli import main
from knowngood.cli.inputs import keep_split, open_selected, with_values
from knowngood.data import ImageSet, open_dataset
from knowngood.data.column_values import as_values
from knowngood.detector.added_groups import as_option
from knowngood.errors import DataError, KnowngoodError, SettingsError


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def images(*splits: str) -> ImageSet:
    found = ImageSet.from_arrays(np.zeros((len(splits) or 3, 8, 8), np.uint8))
    return found.replace(splits=np.array(splits)) if splits else found


@pytest.mark.parametrize(
    ("splits", "name", "default", "kept", "used"),
    [
        (("train", "test", "test"), None, "test", 2, "test"),
        (("train", "test", "test"), "train", "test", 1, "train"),
        (("train", "test", "test"), "all", "test", 3, "all"),
        (("train", "test", "test"), None, "all", 3, "all"),
        (("train", "val"), None, "test", 2, "all"),
        ((), None, "test", 3, "all"),
        ((), "all", "test", 3, "all"),
        (("all", "test"), "all", "test", 1, "all"),
    ],
)
def test_the_split_that_is_kept(splits: tuple[str, ...], name: str | None, default: str, kept: int, used: str) -> None:
    found, said = keep_split(images(*splits), name, default)
    assert (len(found), said) == (kept, used)


@pytest.mark.parametrize(("splits", "said"), [(("train", "test"), "its splits are: test, train"), ((), "no splits")])
def test_a_split_that_is_not_there_is_refused_with_those_that_are(splits: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        keep_split(images(*splits), "tset")


@pytest.mark.parametrize(("known", "said"), [(["camera", "lens"], "camera"), ([], "leave --as out")])
def test_a_condition_that_the_model_lacks_is_refused(known: list[str], said: str) -> None:
    with pytest.raises(DataError, match=f"--as camra: the model has no such condition.*{said}"):
        with_values(images(), {"camra": "B"}, known)
    assert with_values(images(), {"lens": "B"}, ["lens"]).conditions["lens"].tolist() == ["B"] * 3


def test_an_empty_list_of_classes_is_not_all_classes() -> None:
    with pytest.raises(KnowngoodError, match="class"):
        open_selected("digits", normal="")


@pytest.mark.slow
def test_score_and_evaluate_take_one_split_of_a_named_data_set(tmp_path: Path) -> None:
    train = open_dataset("digits").split("train")
    ones = train[train.conditions["class"] == "1"][:60].replace(conditions={})
    Detector("hog", "memory_bank", alpha=0.2).fit(ones).save(tmp_path / "model")
    assert run("score", tmp_path / "model", "digits", "--split", "test", "--output", tmp_path / "a.csv") == 0
    assert run("score", tmp_path / "model", "digits", "--output", tmp_path / "b.csv") == 0
    test, every = (pd.read_csv(tmp_path / f"{name}.csv") for name in "ab")
    assert (len(test), len(every)) == (449, 1797)
    assert test.equals(every[every["id"].isin(test["id"])].reset_index(drop=True))
    classes = ["--normal", "1", "--anomalous", "7", "--json", tmp_path / "m.json"]
    counts = {}
    for split in ("train", "test", "all"):
        assert run("evaluate", tmp_path / "model", "digits", "--split", split, *classes) == 0
        found = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
        assert found["split"] == split
        counts[split] = found["normals"] + found["anomalies"]
    assert counts["train"] + counts["test"] == counts["all"] > counts["train"] > counts["test"] > 0
    assert run("evaluate", tmp_path / "model", "digits", "--split", "valid", *classes) == 3


@pytest.mark.parametrize("words", [("--fdr", "0"), ("--fdr", "1"), ("--alpha", "0"), ("--alpha", "nan")])
def test_a_rate_that_is_none_is_refused_before_anything_is_opened(
    words: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("score", tmp_path / "model", tmp_path, *words) == 2
    assert "expected a number above 0 and below 1" in capsys.readouterr().err


def test_images_that_are_set_aside_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("good/a.png", "bad/b.png", "c.png", "d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    for name in ("a.txt", "good/b.doc"):
        (tmp_path / name).touch()
    assert len(open_selected(str(tmp_path))) == 2
    said = capsys.readouterr().err
    assert f"2 files of {tmp_path.name}; `knowngood inspect {tmp_path}` lists all (c.png: lies" in said
    assert "not read: a.txt, good/b.doc: is not an image by its name" in said


def test_images_beside_folders_of_classes_lack_a_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(60):
        path = tmp_path / "a" / ("x" if i % 2 else "y" if i % 3 else ".") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)).save(path)
    assert run("train", tmp_path / "a", "--representation", "hog", "--out", tmp_path / "m") == 3
    said = capsys.readouterr().err
    assert "all 2 classes count as normal (x, y)" in said
    assert "condition 'class' is missing for 10 of 60 items" in said
    assert "--condition NAMES (none: no column)" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("score model pictures --maps pictures", "--maps pictures: images that are read lie in it"),
        ("score model pictures --maps .", "--maps .: images that are read lie in it"),
        (
            "score model pictures/good/1.png --explain pictures/good",
            "--explain pictures/good: images that are read lie in",
        ),
        ("score model list.csv --output ./list.csv", "--output list.csv: the data are read from it"),
        (
            "score model pictures --explain x --normals list.csv -o list.csv",
            "--output list.csv: the data are read from",
        ),
        ("score model pictures --output judged.csv", "--output judged.csv: this table would be replaced, and holds no"),
        (
            "score model pictures --regions judged.parquet",
            "holds no results (columns image, judgement); choose an",
        ),
        ("figure reconstructions model pictures --out pictures/good/1.png", "1.png: the data are read from it"),
        ("evaluate model list.csv --json list.csv", "--json list.csv: the data are read from it"),
        ("score model pictures -o a.csv --regions ./a.csv", "a.csv is given for two outputs"),
        ("score model pictures --maps m --explain m", "m is given for two outputs"),
        ("evaluate model pictures --report a.html --inspect a.html", "a.html is given for two outputs"),
        ("watch model pictures --once --to a.csv --to ./a.csv", "a.csv is given for two outputs"),
        ("score model pictures --workers 2", "--workers and --threads are of a cluster"),
        ("score model pictures --threads 2", "--workers and --threads are of a cluster"),
        ("score model pictures --maps-format raw", "--maps-format raw goes with --maps DIR"),
        ("watch model pictures --keep-most 5", "--keep-most 5 goes with --keep FOLDER"),
        ("serve model --no-keep --keep-most 5", "--keep-most 5 and --no-keep contradict each other"),
        ("reviews pictures --format coco", "--format coco goes with --out OUT"),
        ("reviews pictures --model a", "--model a goes with --sample N"),
        ("reviews pictures --list 5 --out a", "--list 5 and --out a are two runs"),
    ],
)
def test_nothing_is_written_over_and_no_option_passed_over(
    words: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Detector("pixels", "vae", training={"epochs": 1}, alpha=0.3).fit(rng.random((30, 8, 8), np.float32)).save("model")
    (tmp_path / "pictures" / "good").mkdir(parents=True)
    Image.new("L", (8, 8)).save("pictures/good/1.png")
    (tmp_path / "list.csv").write_text("path\npictures/good/1.png\n")
    judged = pd.DataFrame({"image": ["1.png"], "judgement": ["good"]})
    judged.to_csv("judged.csv", index=False)
    judged.to_parquet("judged.parquet", index=False)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run(*words.split()) == 2
    assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["camera=B", "line=2"], {"camera": "B", "line": "2"}),
        (["camera=B, line=2"], {"camera": "B", "line": "2"}),
        (['camera="A, left",line=2'], {"camera": "A, left", "line": "2"}),
        (['camera="a=b,c"'], {"camera": "a=b,c"}),
        (["camera=O'Brien\\1#"], {"camera": "O'Brien\\1#"}),
    ],
)
def test_values_of_conditions(words: list[str], values: dict[str, str]) -> None:
    assert as_values(words) == values
    assert as_values(shlex.split(as_option(values))) == values


@pytest.mark.parametrize("word", ["camera", "camera=A, left", "=B", "camera=", "", ",", 'camera="A', 'camera=""'])
def test_what_is_no_value_of_a_condition_is_refused(word: str) -> None:
    with pytest.raises(SettingsError, match=r"--as .*expected"):
        as_values([word])


def test_two_values_of_one_condition_are_refused() -> None:
    assert as_values(["camera=A", "camera=A"]) == {"camera": "A"}
    with pytest.raises(SettingsError, match="--as camera=B: expected one value of camera; A is given too"):
        as_values(["camera=A,line=2", "camera=B"])
