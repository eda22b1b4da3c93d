"""Scoring runs that end half-way: what was scored is kept, and going on gives the bytes of a run that did not stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knowngood import Detector
from knowngood.cli import main
from knowngood.cli.scored_rows import ScoredRows
from knowngood.files import locked
from knowngood.scores.adjustment import scored

IMAGES, AT_ONCE = 30, 8


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, and images of two cameras of which two cannot be read."""
    root, rng = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    pictures = rng.integers(0, 256, (60, 16, 16), dtype=np.uint8)
    camera = np.repeat(["a", "b"], 30)
    for name, seed in (("model", 0), ("other", 1)):
        chosen = {"representation": "hog", "model": "memory_bank", "random_state": seed, "alpha": 0.2}
        Detector(**chosen).fit(pictures, conditions={"camera": camera}).save(root / name)
    (root / "new").mkdir()
    for i, picture in enumerate(rng.integers(0, 256, (IMAGES, 16, 16), dtype=np.uint8)):
        Image.fromarray(picture).save(root / "new" / f"{i:02d}.png")
    (root / "new" / "05.png").write_bytes(b"")
    whole = (root / "new" / "20.png").read_bytes()
    (root / "new" / "20.png").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knowngood.detector.scoring.MOST_ROWS", AT_ONCE // 4)


def stop_after(monkeypatch: pytest.MonkeyPatch, batches: int, number: int = signal.SIGTERM) -> list[int]:
    """Send this process a signal while batch number `batches` is kept; gives the sizes of the batches kept."""
    add, sizes = ScoredRows.add, []

    def adding(rows: ScoredRows, decisions) -> None:
        sizes.append(len(decisions.p_values))
        if len(sizes) == batches:
            os.kill(os.getpid(), number)
        add(rows, decisions)

    monkeypatch.setattr(ScoredRows, "add", adding)
    return sizes


def score(place: Path, output: Path, *words: str, model: str = "model", data: str = "new") -> int:
    return run("score", place / model, place / data, "-o", output, "--as", "camera=a", *words)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
@pytest.mark.parametrize("words", [(), ("--fdr", "0.5")])
def test_a_run_that_goes_on_ends_with_the_same_bytes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, words: tuple[str, ...]
) -> None:
    whole, output = tmp_path / f"whole{suffix}", tmp_path / f"part{suffix}"
    assert score(place, whole, *words) == 0
    sizes = stop_after(monkeypatch, 2)
    assert score(place, output, *words) == 143
    assert not output.exists()
    assert score(place, output, *words, "--resume") == 0
    assert output.read_bytes() == whole.read_bytes()
    assert sum(sizes) == IMAGES  # each once
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([whole.name, output.name])


@pytest.mark.slow
def test_the_table_in_parts_is_that_of_detect(place: Path, tmp_path: Path) -> None:
    import pandas as pd

    from knowngood.data import open_images

    detector, images = Detector.load(place / "model", device="cpu"), open_images(place / "new")
    expected = detector.detect(images, conditions={"camera": np.full(len(images), "a")}, fdr=0.5)
    assert score(place, tmp_path / "a.parquet", "--fdr", "0.5") == 0
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.parquet"), expected, check_dtype=False)


@pytest.mark.slow
def test_ctrl_c_keeps_the_batch_in_hand(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_after(monkeypatch, 1, signal.SIGINT)
    assert score(place, tmp_path / "a.csv") == 130
    lines = (tmp_path / "a.csv.unfinished").read_text(encoding="utf-8").splitlines()
    assert [len(json.loads(line).get("conditions", ())) for line in lines] == [0, AT_ONCE]
    assert f"{AT_ONCE} of {IMAGES} images are scored; the same command with --resume" in capsys.readouterr().err


@pytest.mark.slow
def test_what_differs_is_named_and_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, fewer, changed = tmp_path / "a.csv", tmp_path / "fewer", tmp_path / "changed"
    stop_after(monkeypatch, 2)
    assert score(place, output) == 143
    kept = (tmp_path / "a.csv.unfinished").read_bytes()
    shutil.copytree(place / "new", fewer)
    (fewer / "29.png").unlink()
    shutil.copytree(place / "new", changed)
    (changed / "03.png").write_bytes((place / "new" / "04.png").read_bytes())
    for word, arguments in {
        "unfinished run: the same command with --resume": {},
        "another alpha (None; this one has 0.3)": {"words": ("--resume", "--alpha", "0.3")},
        "another fdr": {"words": ("--resume", "--fdr", "0.3")},
        "another unknown": {"words": ("--resume", "--unknown", "infer")},
        "another model": {"words": ("--resume",), "model": "other"},
        "another images (30; this one has 29)": {"words": ("--resume",), "data": str(fewer)},
        "another data": {"words": ("--resume",), "data": str(changed)},
    }.items():
        words = arguments.pop("words", ())
        assert score(place, output, *words, **arguments) == 2
        said = capsys.readouterr().err
        assert word in said
        assert "remove" in said
    assert (tmp_path / "a.csv.unfinished").read_bytes() == kept
    assert not output.exists()


@pytest.mark.slow
def test_a_line_that_was_cut_off_is_scored_again_and_a_changed_one_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, part = tmp_path / "a.csv", tmp_path / "a.csv.unfinished"
    assert score(place, tmp_path / "whole.csv") == 0
    stop_after(monkeypatch, 2)
    assert score(place, output) == 143
    kept = part.read_bytes()
    part.write_bytes(kept.replace(b'"first": 0', b'"first": 8'))
    assert score(place, output, "--resume") == 3
    assert "a.csv.unfinished is damaged; remove it" in capsys.readouterr().err
    part.write_bytes(kept[:-20])
    assert score(place, output, "--resume") == 0
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_run_without_a_scored_batch_leaves_nothing(place: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    for i in range(3):
        whole = (place / "new" / "20.png").read_bytes()
        (tmp_path / "bad" / f"{i}.png").write_bytes(whole)
    assert score(place, tmp_path / "a.csv", data=str(tmp_path / "bad")) == 3
    assert [one.name for one in tmp_path.iterdir()] == ["bad"]


@pytest.mark.slow
def test_what_only_one_pass_gives_is_not_resumed(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(place, tmp_path / "a.csv", "--resume", "--explain", str(tmp_path / "why")) == 2
    assert "leave --explain out" in capsys.readouterr().err
    assert run("score", place / "model", place / "new", "--resume") == 2
    assert "give the FILE" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_finished_table_is_not_replaced_by_going_on_with_another_run(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    output, fewer = tmp_path / f"a{suffix}", tmp_path / "fewer"
    assert score(place, output) == 0
    kept = output.read_bytes()
    shutil.copytree(place / "new", fewer)
    (fewer / "29.png").unlink()
    for word, arguments in {
        "another model": {"model": "other"},
        "it holds other images": {"data": str(fewer)},
    }.items():
        assert score(place, output, "--resume", **arguments) == 2
        said = capsys.readouterr().err
        assert word in said
        assert "leave --resume out to replace it" in said
        assert output.read_bytes() == kept
    assert score(place, output, "--resume") == 0
    assert output.read_bytes() == kept
    output.write_text("my notes")
    assert score(place, output, "--resume") == 2
    assert output.read_text() == "my notes"


@pytest.mark.slow
def test_two_runs_do_not_write_to_one_output(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path / ".a.csv.lock", "another run"):
        assert score(place, tmp_path / "a.csv") == 2
    assert f"a.csv is in use by process {os.getpid()}" in capsys.readouterr().err
    assert score(place, tmp_path / "a.csv") == 0
    assert [one.name for one in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.slow
@pytest.mark.parametrize("fits", [1, 0])
def test_out_of_memory_halves_the_rows_at_a_time_once(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fits: int
) -> None:
    import pandas as pd

    assert score(place, tmp_path / "whole.csv") == 0

    def hungry(model, fitted, adjustments, state, x, *others, **named):
        if len(x) > fits:
            raise MemoryError
        return scored(model, fitted, adjustments, state, x, *others, **named)

    monkeypatch.setattr("knowngood.detector.scoring.scored", hungry)
    assert score(place, tmp_path / "a.csv") == (0 if fits else 3)
    said = capsys.readouterr().err
    assert "out of memory with 2 rows scored at a time; going on with 1" in said
    if fits:  # the order of sums may change the last digits
        ours, whole = (pd.read_csv(tmp_path / name) for name in ("a.csv", "whole.csv"))
        pd.testing.assert_frame_equal(ours, whole, rtol=1e-4)
    else:
        assert "error: out of memory with 1 rows scored at a time, and with 2 before; free some memory" in said
