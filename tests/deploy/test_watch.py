"""A watched folder: each picture once, when it is whole, whatever happens meanwhile."""

from __future__ import annotations

import csv
import io
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from knowngood import Detector
from knowngood.cli import main
from knowngood.deploy import watch
from knowngood.deploy.delivery import Delivery
from knowngood.deploy.outbox import Outbox
from knowngood.deploy.served_models import ServedModels, load_models
from knowngood.deploy.sinks import sink_of
from knowngood.deploy.watch import Judged, Watch
from knowngood.errors import DataError

SIDE = 12


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("watched")
    images = np.random.default_rng(0).integers(0, 256, (60, SIDE, SIDE), dtype=np.uint8)
    camera = {"camera": np.repeat(["A", "B"], 30)}
    Detector("hog", "memory_bank", alpha=0.2).fit(images, conditions=camera).save(root / "model")
    return root


@pytest.fixture(scope="module")
def models(place: Path) -> ServedModels:
    return load_models([str(place / "model")])


class Line:
    """A folder that is watched, by a clock that is set by hand; what was judged so far."""

    def __init__(self, root: Path, models: ServedModels, **options: Any) -> None:
        self.folder, self.now, self.found = root / "new", 0.0, list[Judged]()
        self.folder.mkdir(exist_ok=True)
        self.root, self.models = root, models
        self.options = {"conditions": {"camera": "A"}, **options}
        self.start()

    def start(self) -> None:
        self.sink = sink_of(str(self.root / "results.csv"))
        self.delivery = Delivery(Outbox(self.root / "state.sqlite"), [self.sink])
        self.watch = Watch(self.folder, self.models, self.delivery, clock=lambda: self.now, **self.options)

    def put(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def steps(self, *seconds: float) -> list[str]:
        """Scan at these times after the last scan; the names of what was judged."""
        judged = []
        for more in seconds:
            self.now += more
            judged += self.watch.step()
        self.found += judged
        return [one.row["id"] for one in judged]

    def rows(self) -> list[dict[str, str]]:
        """The output."""
        while self.delivery.deliver(self.sink):
            pass
        with (self.root / "results.csv").open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def line(tmp_path: Path, models: ServedModels) -> Line:
    return Line(tmp_path, models)


def test_rows_are_those_of_the_command_line(line: Line, place: Path, tmp_path: Path) -> None:
    for i in range(10):
        line.put(f"{i:02d}.png", picture(i))
    line.put("03.png", b"")
    assert line.steps(0, 0.2) == [f"{i:02d}.png" for i in range(10) if i != 3]
    assert line.steps(5) == ["03.png"]
    words = ["score", place / "model", line.folder, "-o", tmp_path / "cli.csv", "--as", "camera=A"]
    with pytest.raises(SystemExit):
        main([str(word) for word in words])
    with (tmp_path / "cli.csv").open(newline="") as file:
        expected = {row["id"]: row for row in csv.DictReader(file)}
    rows = {row["id"]: row for row in line.rows()}
    assert rows.keys() == expected.keys()
    for name, row in expected.items():
        assert {column: rows[name][column] for column in row} == row
    assert all(row["time"] and row["scored_by"] == line.models.named(None).mark for row in rows.values())


def test_a_file_is_judged_once_it_is_whole(line: Line) -> None:
    whole = picture(0)
    line.put("a/b/part.png", whole[:50])
    assert line.steps(0, 0.2, 0.2, 0.2) == []  # stable, and cut off
    line.put("a/b/part.png", whole[:90])
    assert line.steps(0.2, 0.2) == []
    line.put("a/b/part.png", whole)
    assert line.steps(0.2) == []  # it may still grow
    assert line.steps(0.2) == ["a/b/part.png"]
    assert line.steps(*[0.2] * 60) == []
    assert [row["error"] for row in line.rows()] == [""]


def test_what_cannot_be_read_is_set_aside_by_name(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    line.put("cut.png", picture(0)[:50])
    line.put("x.avif", b"anything")
    line.put("notes.txt", b"hello")
    line.put(".hidden.png", picture(1))
    with caplog.at_level("INFO", logger="knowngood.service"):
        assert line.steps(0, 0.2) == ["x.avif"]
        assert sorted(line.steps(*[0.2] * 30)) == ["cut.png"]
    assert [one.facts["id"] for one in caplog.records if one.getMessage() == "ignored"] == ["notes.txt"]  # type: ignore[attr-defined]
    rows = {row["id"]: row for row in line.rows()}
    assert "truncated" in rows["cut.png"]["error"]
    assert "not read" in rows["x.avif"]["error"]
    assert rows["cut.png"]["p_value"] == ""
    line.put("cut.png", picture(0))  # came again, whole
    assert line.steps(*[0.2] * 60) == ["cut.png"]


def test_new_content_is_judged_again_and_a_new_time_is_not(line: Line) -> None:
    line.put("same.png", picture(0))
    line.put("other.png", picture(1))
    assert len(line.steps(0, 0.2)) == 2
    os.utime(line.folder / "same.png", (1, 1))
    line.put("other.png", picture(2))
    os.utime(line.folder / "other.png", (2, 2))
    assert line.steps(*[0.2] * 60) == ["other.png"]
    assert len({row["key"] for row in line.rows()}) == 3


def test_a_restart_goes_on_where_it_was(line: Line) -> None:
    line.put("0.png", picture(0))
    assert line.steps(0, 0.2) == ["0.png"]
    line.delivery.outbox.close()  # before it was delivered
    line.put("1.png", picture(1))
    line.start()
    assert line.steps(0, 0.2, 0.2) == ["1.png"]
    assert [row["id"] for row in line.rows()] == ["0.png", "1.png"]
    line.delivery.outbox.close()
    line.start()
    assert line.steps(0, 0.2, *[0.2] * 30) == []
    assert len(line.rows()) == 2


def test_a_file_that_changes_while_it_is_judged_waits(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.put("0.png", picture(0))
    judged, changes = watch.judged, [picture(1)]

    def changed(*arguments: Any) -> Any:
        rows = judged(*arguments)
        if changes:
            line.put("0.png", changes.pop() + b"more")
        return rows

    monkeypatch.setattr(watch, "judged", changed)
    assert line.steps(0, 0.2) == []
    assert line.steps(0.2, 0.2) == ["0.png"]
    assert len(line.rows()) == 1


def test_the_time_from_file_to_result_is_counted(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = 1000.0
    monkeypatch.setattr(watch.time, "time", lambda: wall)
    line.steps(0)
    line.put("old.png", picture(0))
    os.utime(line.folder / "old.png", (500, 500))  # moved here: it came after the last scan
    line.put("new.png", picture(1))
    os.utime(line.folder / "new.png", (1000.1, 1000.1))
    wall = 1000.2
    line.steps(0.2)
    wall = 1000.4
    assert line.steps(0.2) == ["old.png", "new.png"]
    assert [round(one.seconds, 6) for one in line.found] == [0.4, 0.3]


def test_a_missing_condition_ends_it_and_nothing_is_lost(tmp_path: Path, models: ServedModels) -> None:
    line = Line(tmp_path, models, conditions={})
    line.put("0.png", picture(0))
    with pytest.raises(DataError, match="condition 'camera' is not given; known: A, B"):
        line.steps(0, 0.2)
    line.delivery.outbox.close()
    line.options["conditions"] = {"camera": "B"}
    line.start()
    assert line.steps(0, 0.2) == ["0.png"]


def test_links_in_a_circle_and_lost_folders_are_no_harm(line: Line) -> None:
    line.put("a/0.png", picture(0))
    (line.folder / "a" / "again").symlink_to(line.folder, target_is_directory=True)
    assert line.steps(0, 0.2) == ["a/0.png"]
    line.folder.rename(line.root / "gone")
    assert line.steps(0.2) == []
    (line.root / "gone").rename(line.folder)
    line.put("1.png", picture(1))
    assert line.steps(0.2, 0.2) == ["1.png"]


@pytest.mark.slow
def test_killed_again_and_again_every_picture_is_in_the_output_once(place: Path, tmp_path: Path) -> None:
    folder, output, base = tmp_path / "new", tmp_path / "results.csv", tmp_path / "results.db"
    folder.mkdir()
    command = [sys.executable, "-m", "knowngood", "watch", place / "model", folder, "--as", "camera=A", "--to", output]
    command += ["--to", f"sqlite:///{base}", "--interval", "0.01"]
    names, rng, runs = [f"{i:03d}.png" for i in range(60)], np.random.default_rng(0), 3
    for run in range(runs):
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert process.stdout is not None
        for name in names[run::runs]:
            (folder / name).write_bytes(picture(int(name[:3])))
        if run < runs - 1:
            for _ in range(int(rng.integers(1, 20))):
                process.stdout.readline()
            process.kill()
        else:
            (folder / "last.png").write_bytes(picture(999))
            assert any(line.startswith("last.png  ") for line in process.stdout)
            process.terminate()
        assert process.wait(60) == (0 if run == runs - 1 else -signal.SIGKILL)
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["id"] for row in rows) == [*names, "last.png"]
    with sqlite3.connect(base) as results:
        found = results.execute("select id, p_value from results order by id").fetchall()
    assert found == sorted((row["id"], float(row["p_value"])) for row in rows)


def test_once_judges_what_is_there_and_ends(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def once() -> list[str]:
        words = ["watch", place / "model", tmp_path / "new", "--once", "--interval", "0.01", "--as", "camera=A"]
        with suppress(SystemExit):
            main([str(word) for word in words])
        printed = capsys.readouterr()
        judged = [line.split()[0] for line in printed.out.splitlines()]
        assert (f"nothing new in {tmp_path / 'new'}" in printed.err) == (not judged)
        return judged

    (tmp_path / "new").mkdir()
    assert once() == []
    for i in range(3):
        (tmp_path / "new" / f"{i}.png").write_bytes(picture(i))
    assert sorted(once()) == ["0.png", "1.png", "2.png"]
    assert once() == []


def test_a_folder_that_is_gone_is_said_once(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    line.put("0.png", picture(0))
    assert line.steps(0, 0.2) == ["0.png"]
    line.folder.rename(line.root / "away")
    said = []
    for _ in range(2):
        assert line.steps(*[0.2] * 30) == []
        said.append([one.getMessage() for one in caplog.records].count("folder cannot be listed"))
        (line.root / "away").rename(line.folder)
        assert line.steps(0.2, 0.2) == []  # judged before
        line.folder.rename(line.root / "away")
    assert said == [1, 2]


def test_a_file_of_no_picture_is_ignored_aloud_once(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "knowngood.service")
    for k in range(3):
        line.put("rows.csv", b"x" * k)
        assert line.steps(*[0.2] * 30) == []
    assert [one.getMessage() for one in caplog.records].count("ignored") == 1


def test_a_link_to_itself_is_no_harm(line: Line) -> None:
    (line.folder / "loop").symlink_to(line.folder / "loop")
    line.put("0.png", picture(0))
    assert line.steps(0, 0.2) == ["0.png"]


def test_masks_and_what_was_drawn_are_ignored_aloud(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    shown = ["n95_mask.png", "part.png", "test/crack/1.png"]
    drawn = ["Ground Truth/crack/1.png", "maps/a/part.png", "part_GT.png"]
    for i, name in enumerate([*shown, *drawn]):
        line.put(name, picture(i))
    line.put("maps/maps.json", b"{}")
    with caplog.at_level("INFO", logger="knowngood.service"):
        assert sorted(line.steps(0, 0.2)) == shown
    found = {one.facts["id"]: one.facts["reason"] for one in caplog.records if one.getMessage() == "ignored"}  # type: ignore[attr-defined]
    assert sorted(found) == sorted([*drawn, "maps/maps.json"])
    assert found["part_GT.png"] == found["Ground Truth/crack/1.png"] == "is a mask by its name and place"
    assert found["maps/a/part.png"].startswith("lies beside maps.json")
    line.delivery.close()
    line.start()
    assert line.steps(0, 0.2) == []


def test_a_wrong_sink_is_refused_before_a_model_is_loaded(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Detector, "load", lambda *_, **__: pytest.fail("the model is loaded"))
    for to in (["x.xlsx"], ["a.csv", "--to", "a.csv"]):
        with pytest.raises(SystemExit) as left:
            main(["watch", str(place / "model"), str(tmp_path), "--to", *to])
        assert left.value.code == 2
        assert f"--to {to[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "condition 'camera' is not given"),
        (("--as", "camera=C"), "condition 'camera' has no value 'C'"),
        (("--as", "camera=A", "--alpha", "0.001"), "needs 999 calibration"),
    ],
)
def test_what_no_picture_can_be_judged_with_is_refused_before_one_comes(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["watch", str(place / "model"), str(tmp_path), "--once", "--to", str(tmp_path / "new" / "r.csv"), *words])
    assert left.value.code == 3
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_version_that_cannot_judge_such_pictures_is_not_taken_into_use(
    tmp_path: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(place / "model", tmp_path / "model")
    line = Line(tmp_path, load_models([str(tmp_path / "model")]))
    line.put("0.png", picture(0))
    line.steps(0, 0.2)
    before = line.models.named(None).mark
    images = np.random.default_rng(1).integers(0, 256, (60, SIDE, SIDE), dtype=np.uint8)
    other = Detector("hog", "memory_bank", alpha=0.2).fit(images, conditions={"gain": np.repeat(["1", "2"], 30)})
    with caplog.at_level("ERROR"):
        shutil.rmtree(tmp_path / "model")
        other.save(tmp_path / "model")
        line.put("1.png", picture(1))
        assert line.steps(*[0.2] * 60) == ["1.png"]
    assert line.models.named(None).mark == before
    assert [one.message for one in caplog.records] == ["model not exchanged"]
    assert "'camera'" in str(caplog.records[0].__dict__)
    shutil.rmtree(tmp_path / "model")
    Detector("hog", "memory_bank", alpha=0.2).fit(images, conditions={"camera": np.repeat(["A", "B"], 30)}).save(
        tmp_path / "model"
    )
    line.steps(*[0.2] * 300)
    assert line.models.named(None).mark != before


def watched(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    """Exit status, what was judged, and what was said, of `watch --once`."""
    with pytest.raises(SystemExit) as ended:
        main(["watch", *map(str, words), "--as", "camera=A", "--once"])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.mark.slow
def test_the_state_is_beside_the_model_and_a_restart_goes_on_with_it(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folders = tmp_path / "parts", (tmp_path / "new", tmp_path / "other" / "new")
    shutil.copytree(place / "model", model)
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(picture(1))
        assert watched(capsys, model, folder)[1].startswith("a.png  ")
        assert [one.name for one in folder.iterdir()] == ["a.png"]
    assert len(list((tmp_path / "parts-watched").glob("new-*.sqlite"))) == 2
    (folders[0] / "b.png").write_bytes(picture(2))
    assert [line.split()[0] for line in watched(capsys, model, folders[0])[1].splitlines()] == ["b.png"]
    assert "nothing new" in watched(capsys, model, folders[1])[2]


def test_a_state_among_the_pictures_is_gone_on_with(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = tmp_path / "parts", tmp_path / "new"
    shutil.copytree(place / "model", model)
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(1))
    former = folder / ".knowngood-watch.sqlite"
    assert watched(capsys, model, folder, "--state", former)[1].startswith("a.png  ")
    status, out, err = watched(capsys, model, folder)
    assert (status, out) == (0, "")
    assert f"what was judged is in {former}" in err
    assert not (tmp_path / "parts-watched").exists()


def test_beside_a_model_that_cannot_be_written_to_the_state_is_asked_for_elsewhere(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models, folder, may = tmp_path / "models", tmp_path / "new", os.access
    folder.mkdir()
    shutil.copytree(place / "model", models / "parts")
    (folder / "a.png").write_bytes(picture(1))

    def readable(path: Any, mode: int, **how: Any) -> bool:
        return not (models in (Path(path), *Path(path).parents) and mode & os.W_OK) and may(path, mode, **how)

    monkeypatch.setattr(os, "access", readable)
    status, _, said = watched(capsys, models / "parts", folder)
    assert status == 4
    assert "cannot be written: Permission denied" in said
    assert "--state FILE" in said
    assert ".lock" not in said
    status, out, _ = watched(capsys, models / "parts", folder, "--state", tmp_path / "state.sqlite")
    assert (status, out.split()[0]) == (0, "a.png")
