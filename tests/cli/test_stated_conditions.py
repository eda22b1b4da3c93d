"""Stated conditions on the command line: the table, resume, evaluation, explanations and pages say what Python says."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from knowngood import Detector
from knowngood.cli import main
from knowngood.cli.options import settings_from
from knowngood.config import read_settings
from knowngood.data import open_images

ALIKE = ["anomaly_score", "p_value", "p_condition", "mismatch"]


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def bars(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Upright and level bars of 12 px, in turn; and their names."""
    rng, kind = np.random.default_rng(seed), np.arange(n) % 2
    images = rng.normal(60, 8, (n, 12, 12))
    images[kind == 0, 2:10, 5:7] += 120
    images[kind == 1, 5:7, 2:10] += 120
    return images.clip(0, 255).astype(np.uint8), np.array(["upright", "level"])[kind]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a manifest of 40 images, the first 6 with the other name, the last without one."""
    root = tmp_path_factory.mktemp("stated")
    images, kind = bars(200, 0)
    chosen = {"representation": "hog", "model": "memory_bank", "conditioning": {"check": "auto", "unknown": "infer"}}
    Detector(**chosen).fit(images, conditions={"pose": kind}).save(root / "model")
    pictures, right = bars(40, 1)
    stated = np.r_[right[1:7], right[6:39], [""]]
    with (root / "new.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "pose", "label"])
        for i, (picture, name) in enumerate(zip(pictures, stated, strict=True)):
            Image.fromarray(picture).save(root / f"{i:02d}.png")
            rows.writerow([f"{i:02d}.png", name, int(i < 6)])
    return root


@pytest.mark.slow
def test_the_table_is_that_of_python_and_the_summary_counts_the_wrong_ones(place: Path, tmp_path: Path, capsys) -> None:
    assert run("score", place / "model", place / "new.csv", "--output", tmp_path / "out.csv") == 0
    table = pd.read_csv(tmp_path / "out.csv")
    wrong = table["verdict"].str.startswith("wrong for pose: looks like ")
    assert wrong[:6].all()
    assert f"{wrong.sum()} of them wrong for what they are said to be" in capsys.readouterr().out
    assert table["p_condition"].isna().tolist() == [False] * 39 + [True]
    known = Detector.load(place / "model").detect(open_images(place / "new.csv"))
    assert list(table) == list(known)
    np.testing.assert_allclose(table[ALIKE].to_numpy(), known[ALIKE].to_numpy())
    assert table[["verdict", "looks_like", "is_anomalous"]].equals(known[["verdict", "looks_like", "is_anomalous"]])
    assert run("score", place / "model", place / "new.csv", "--output", tmp_path / "out.json") == 0
    assert [row["verdict"] for row in json.loads((tmp_path / "out.json").read_text())] == table["verdict"].tolist()
    assert run("monitor", place / "model", tmp_path / "out.csv") == 0


@pytest.mark.slow
def test_an_unfinished_run_ends_with_the_same_bytes(place: Path, tmp_path: Path, monkeypatch) -> None:
    from knowngood.cli.scored_rows import ScoredRows

    monkeypatch.setattr("knowngood.detector.scoring.MOST_ROWS", 2)
    words = ["score", place / "model", place / "new.csv", "--output"]
    assert run(*words, tmp_path / "whole.csv") == 0
    add, kept = ScoredRows.add, []

    def adding(rows: ScoredRows, decisions) -> None:
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(1)
        add(rows, decisions)

    with monkeypatch.context() as patched:
        patched.setattr(ScoredRows, "add", adding)
        assert run(*words, tmp_path / "half.csv") != 0
    assert run(*words, tmp_path / "half.csv", "--resume") == 0
    assert (tmp_path / "half.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_by_false_discovery_rate_verdicts_follow_the_flags(place: Path, tmp_path: Path) -> None:
    assert run("score", place / "model", place / "new.csv", "--fdr", "0.4", "--output", tmp_path / "out.csv") == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["is_anomalous"][:6].all()
    assert ((table["verdict"] != "normal") == table["is_anomalous"]).all()
    known = Detector.load(place / "model").detect(open_images(place / "new.csv"), fdr=0.4)
    assert known["verdict"].tolist() == table["verdict"].tolist()


@pytest.mark.slow
def test_evaluation_reports_the_mismatch(place: Path, tmp_path: Path, capsys) -> None:
    pages = ["--report", tmp_path / "report.html", "--inspect", tmp_path / "images.html"]
    assert run("evaluate", place / "model", place / "new.csv", "--json", tmp_path / "m.json", *pages) == 0
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["auroc_mismatch"] == 1.0
    assert metrics["detection_rate"] == 1.0
    assert metrics["wrong"] >= 6
    assert "AUROC of the mismatch" in capsys.readouterr().out
    assert "wrong for what they are said to be" in (tmp_path / "report.html").read_text()
    page = (tmp_path / "images.html").read_text()
    assert "wrong for pose: looks like" in page
    assert page.count('class="examples"') >= 6
    assert "stated: pose=level" in page


def test_explanations_say_it_and_name_an_example_of_what_it_looks_like(place: Path) -> None:
    detector, images = Detector.load(place / "model"), open_images(place / "new.csv")
    found = {one.id: one for one in detector.explain(images[:6])}
    one = found["00.png"]
    assert one.misfit == "wrong for pose: looks like upright"
    assert one.sentences[0].startswith("Wrong for pose: looks like upright, p = ")
    assert "By itself it is not anomalous" in one.sentences[0]
    assert int(one.lookalikes[0].id) % 2 == 0  # upright ones have even numbers
    assert int(one.nearest[0].id) % 2 == 1
    assert one.lookalike_image is not None
    assert one.summary.startswith("Wrong for pose: looks like upright;")
    json.dumps(one.to_record())


def test_one_word_turns_it_on(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("conditioning: {check: auto}\n")
    assert settings_from({"check": "auto"}).conditioning.check == "auto"
    assert read_settings(tmp_path / "s.yaml").conditioning.check == "auto"
    assert settings_from({"check": "pose,product"}).conditioning.check == ("pose", "product")
    assert settings_from({"check": "pose"}).conditioning.check == ("pose",)
    assert settings_from({"check": "none"}).conditioning.check == settings_from({}).conditioning.check == ()
