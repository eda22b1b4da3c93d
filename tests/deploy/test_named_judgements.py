"""`knowngood review`: judged images by id, number and file, reviewed from the command line."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from knowngood.cli import main
from knowngood.deploy.judged_store import JudgedStore, Judgement
from knowngood.deploy.reviews import read_reviews


def add(
    store: JudgedStore, key: str, name: str, content: bytes, flagged: bool | None = True, model: str = "line"
) -> int:
    row = {"id": name, "anomaly_score": 1.0, "p_value": 0.01, "is_anomalous": flagged}
    row["error"] = None if flagged is not None else "cut off"
    one: dict[str, Any] = {"source": "watch", "scored_by": "m1", "suffix": ".png", "conditions": {}, "size": (8, 8)}
    return store.add([Judgement(key=key, model=model, row=row, picture=content, **one)])[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the model `line` five judged images, 1 to 5, two of them with one id; the sixth is another model's."""
    monkeypatch.chdir(tmp_path)
    with closing(JudgedStore(tmp_path / "line-judged")) as store:
        add(store, "a", "a.png", b"first")
        add(store, "b", "b.png", b"second", flagged=False)
        add(store, "c", "torn.png", b"third", flagged=None)
        add(store, "d", "same.png", b"fourth")
        add(store, "e", "same.png", b"fifth")
        add(store, "f", "f.png", b"sixth", model="other")
    return tmp_path / "line-judged"


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main(["review", *map(str, words)])
    return int(left.value.code or 0)


def test_images_are_reviewed_by_id_number_and_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = folder.parent / "moved elsewhere.png"
    moved.write_bytes(b"fifth")
    assert run("line", "a.png", "4", moved, "--as", "false-alarm", "--by", "ana") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["1  a.png  false alarm", "4  same.png  false alarm", "5  same.png  false alarm"]
    assert "`knowngood update line --reviews`" in printed.err
    table = read_reviews(folder)
    assert table["number"].tolist() == [1, 4, 5]
    assert set(table["review"]) == {"good"}
    assert set(table["who"]) == {"ana"}


def test_what_a_review_makes_of_the_verdict_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("line", "b.png", "--as", "defect", "--kind", "dent", "--note", "at the rim") == 0
    assert capsys.readouterr().out == "2  b.png  missed defect\n"
    table = read_reviews(folder)
    assert (table["kind"].tolist(), table["note"].tolist()) == (["dent"], ["at the rim"])
    assert run("line", "b.png", "--as", "none") == 0
    assert capsys.readouterr().out == "2  b.png  taken back\n"
    assert len(read_reviews(folder)) == 0


def test_a_false_alarm_that_was_not_flagged_is_stored_as_good_and_that_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("line", "a.png", "b.png", "--as", "false-alarm") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["1  a.png  false alarm", "2  b.png  good"]
    assert "b.png: stored as good, no false alarm: it was not flagged" in printed.err
    assert read_reviews(folder)["review"].tolist() == ["good", "good"]
    for verdict in ("good", "none"):
        assert run("line", "b.png", "--as", verdict) == 0
        assert "not flagged" not in capsys.readouterr().err


def test_an_exported_file_is_the_model_of_its_name(folder: Path) -> None:
    (folder.parent / "line.onnx").touch()
    assert run("line.onnx", "a.png", "--as", "good") == 0
    assert read_reviews(folder)["number"].tolist() == [1]


def test_without_images_the_reviews_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("line") == 0
    assert capsys.readouterr().out == "0 images reviewed\n"
    assert run("line", "a.png", "--as", "unsure") == 0
    assert run("line", "b.png", "--as", "good") == 0
    capsys.readouterr()
    assert run("line") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "2 images reviewed, 1 good, 1 unsure"
    assert [line.split()[0] for line in printed[1:]] == ["number", "2", "1"]
    assert run("line", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["reviewed"], said["counts"]) == (2, {"good": 1, "unsure": 1})
    assert [one["id"] for one in said["images"]] == ["b.png", "a.png"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["a.png", "c.png"], "not among the 5 images judged by line: c.png; did you mean"),
        (["a.png", "f.png", "99"], "judged by line: f.png, 99"),
        (
            ["a.png", "same.png"],
            "2 judged images of different content have the id same.png; give the number of one: 5, 4",
        ),
        (
            ["a.png", "torn.png"],
            "torn.png (image 3) could not be read: nothing can be learned from that; leave it out.",
        ),
        (["a.png", "new.png"], "new.png"),
    ],
)
def test_if_one_image_is_refused_none_is_reviewed(
    folder: Path, images: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder.parent / "new.png").write_bytes(b"never judged")
    assert run("line", *images, "--as", "good") == 3
    said = capsys.readouterr().err
    assert message in said
    assert "Nothing was reviewed" in said
    assert len(read_reviews(folder)) == 0


def test_the_refusal_says_what_keeps_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("line", "c.png", "--as", "good") == 3
    said = capsys.readouterr().err
    assert f"`knowngood reviews {folder} --list 20` lists what is kept" in said
    assert f"`score` does not: `knowngood watch line FOLDER --once --keep {folder}`" in said
    assert run("elsewhere/line", "a.png", "--as", "good") == 3
    assert "no judged images" in capsys.readouterr().err
    assert run("elsewhere/line", "a.png", "--as", "good", "--keep", folder) == 0
    assert run("third", "a.png", "--as", "good", "--keep", folder) == 3
    assert "holds images judged by line, other, none by third" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.png"], "say what a.png is: --as false-alarm|good|defect|unsure|none"),
        (["--as", "good"], "--as good goes with IMAGE"),
        (["a.png", "--as", "false"], "--as false: no such review; did you mean 'false-alarm'?"),
        (["a.png", "--as", "good", "--kind", "dent"], "--kind dent goes with --as defect"),
        (["--by", "ana"], "--by ana goes with --as"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("line", *words) == 2
    assert message in capsys.readouterr().err
