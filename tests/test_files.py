"""Files that are whole or absent, and locks."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest

from knowngood import files
from knowngood.cli import outputs
from knowngood.cli.outputs import write_tables
from knowngood.errors import OutputError, SettingsError
from knowngood.files import LOCK, did_you_mean, locked, near, write_json, write_text


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("todya", "today"),
        ("TODAY", "today"),
        ("data/bottel/trian", "data/bottle/train"),
        ("dtaa/bottle/train", "data/bottle/train"),
        ("hidden", None),
        ("quite/another/name", None),
        ("today/a", None),
    ],
)
def test_what_lies_there_under_a_name_like_it_is_found(tmp_path, monkeypatch, typed, meant):
    for name in ("today", "data/bottle/train", "data/bottle/test", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert near(typed) == (None if meant is None else Path(meant))
    assert did_you_mean(typed) == ("" if meant is None else f"; did you mean '{Path(meant)}'?")


def test_what_does_not_fit_is_not_meant(tmp_path):
    (tmp_path / "parts").mkdir()
    assert near(tmp_path / "partss", Path.is_file) is None


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_file_before_and_nothing_else(tmp_path, monkeypatch, call):
    write_text(tmp_path / "a.txt", "before")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OutputError, match=r"a\.txt cannot be written: No space left on device; free some space"):
        write_text(tmp_path / "a.txt", "after")
    assert (tmp_path / "a.txt").read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_killed_write_leaves_no_file_and_the_next_process_removes_the_draft(tmp_path):
    kill = "import os; from knowngood import files; files.os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
    code = f"{kill}files.write_text({str(tmp_path / 'a.txt')!r}, 'text')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert not (tmp_path / "a.txt").exists()
    assert len(os.listdir(tmp_path)) == 1
    write_text(tmp_path / "b.txt", "text")
    assert os.listdir(tmp_path) == ["b.txt"]


def test_a_lock_is_refused_while_its_process_runs_and_taken_over_afterwards(tmp_path):
    lock = tmp_path / "run" / ".lock"
    with locked(lock, "the run"):
        held = json.loads(lock.read_text())
        with pytest.raises(SettingsError, match=f"the run is in use by process {os.getpid()}"), locked(lock, "the run"):
            pass
    assert not lock.parent.exists()
    lock.parent.mkdir()
    lock.write_text(json.dumps({**held, "started": "1"}))  # the pid is another process's now
    with locked(lock, "the run"):
        assert json.loads(lock.read_text())["started"] == held["started"]
    assert not lock.exists()


def test_of_two_that_find_a_lock_whose_process_has_ended_one_takes_it(tmp_path, monkeypatch):
    lock, holds = tmp_path / ".lock", files._holds
    with locked(lock, "the run"):
        other = json.loads(lock.read_text())
    lock.write_text(json.dumps({**other, "started": "1"}))

    def faster(holder):
        if holder["started"] == "1":  # now the other process takes it over
            lock.write_text(json.dumps(other))
        return holds(holder)

    monkeypatch.setattr(files, "_holds", faster)
    with pytest.raises(SettingsError, match=f"the run is in use by process {os.getpid()}"), locked(lock, "the run"):
        pass
    assert json.loads(lock.read_text()) == other
    assert list(tmp_path.iterdir()) == [lock]


def test_no_cell_of_a_csv_file_is_a_formula(tmp_path: Path) -> None:
    ids = ["=1+1", "+cmd", "-2+3", "@x", "\tx", "\rx", "plain", "-5", "+1.5e3"]
    table = pd.DataFrame({"id": ids, "score": [-1.0] * len(ids)})
    write_tables([table], tmp_path / "a.csv")
    write_tables([table], tmp_path / "a.json")
    read = pd.read_csv(tmp_path / "a.csv", dtype={"id": str}, lineterminator="\n")
    assert read["id"].tolist() == [f"'{name}" for name in ids[:6]] + ids[6:]
    assert (read["score"] == -1).all()
    assert [row["id"] for row in json.loads((tmp_path / "a.json").read_text())] == ids


@pytest.mark.skipif(os.name != "posix", reason="needs file names of any bytes")
def test_names_that_are_no_text_are_written_and_read_again(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write_json(tmp_path / "a.json", {"data": name})
    assert json.loads((tmp_path / "a.json").read_text()) == {"data": name}


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="needs /dev/stdout")
def test_a_pipe_is_written_to_by_its_name():
    code = (
        "from pathlib import Path; from knowngood.cli.outputs import writing; from knowngood.files import write_text\n"
        "with writing(Path('/dev/stdout')):\n    write_text('/dev/stdout', 'text')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"text"


@pytest.mark.parametrize("call", ["write_text", "link"])
def test_a_lock_that_cannot_be_written_is_named_by_what_it_locks(tmp_path, monkeypatch, call):
    def denied(first, *rest, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(first))

    if call == "link":
        monkeypatch.setattr(os, "link", denied)
        monkeypatch.setattr(Path, "open", denied)
    else:
        monkeypatch.setattr(Path, call, denied)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError) as refused, outputs.writing(Path("results.csv")):
        pass
    assert str(refused.value) == (
        "results.csv cannot be written: Permission denied; choose a folder that you may write to"
    )


def test_a_place_in_use_is_named_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = Path("results.csv")
    with outputs.writing(tmp_path / given), pytest.raises(SettingsError, match=r"^results\.csv is in use"):
        outputs.writing(given).__enter__()
    with pytest.raises(SettingsError, match=r"^results\.csv is given for two outputs"):
        outputs.writing(given, tmp_path / given).__enter__()


def test_the_top_of_all_folders_can_be_locked(monkeypatch):
    asked = []
    monkeypatch.setattr(outputs, "locked", lambda lock, place: asked.append((lock, place)) or nullcontext())
    top = Path(Path.cwd().anchor)
    with outputs.writing(folders=[top]):
        assert asked == [(top / f".{LOCK}", str(top))]
