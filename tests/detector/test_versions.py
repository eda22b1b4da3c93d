"""Versions of a saved model: one is added by each save, there is always one in use, and none changes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from knowngood import Detector
from knowngood.detector.versions import in_use, model_at, rollback, save_version, versions
from knowngood.errors import ArtifactError


def files(text: str) -> dict[str, bytes]:
    about = {"history": [{"what": "fit", "at": text, "items": 1}]}
    return {"config.json": json.dumps({"about": about}).encode(), "weights.safetensors": text.encode()}


def content(folder: Path) -> str:
    return (in_use(folder) / "weights.safetensors").read_text()


def test_each_save_is_a_version_and_rollback_goes_to_any(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for text in ("a", "b", "c"):
        save_version(folder, files(text))
    assert content(folder) == "c"
    assert rollback(folder).number == 2
    assert content(folder) == "b"
    assert rollback(folder).number == 1
    with pytest.raises(ArtifactError, match=r"no version before the one in use; it has 1, 2, 3"):
        rollback(folder)
    assert rollback(folder, 3).number == 3
    with pytest.raises(ArtifactError, match="no version 7"):
        rollback(folder, 7)
    rollback(folder, 1)
    save_version(folder, files("d"))
    assert content(folder) == "d"
    assert [(one.number, one.at, one.in_use) for one in versions(folder)] == [
        *((1, "a", False), (2, "b", False), (3, "c", False), (4, "d", True)),
    ]


def test_the_folder_of_a_run_and_a_copied_version_are_models_too(tmp_path: Path) -> None:
    save_version(tmp_path / "run" / "model", files("a"))
    assert model_at(tmp_path / "run") == tmp_path / "run" / "model"
    assert content(tmp_path / "run") == "a"
    copied = (tmp_path / "run" / "model" / "versions" / "0001").rename(tmp_path / "copied")
    assert content(copied) == "a"
    assert versions(copied) == []
    with pytest.raises(ArtifactError, match="is a version, which never changes"):
        save_version(copied, files("b"))
    with pytest.raises(ArtifactError, match="copied version"):
        rollback(copied)


def test_without_current_json_the_newest_version_is_used_and_said(tmp_path: Path) -> None:
    for text in ("a", "b"):
        save_version(tmp_path, files(text))
    (tmp_path / "current.json").unlink()
    with pytest.warns(UserWarning, match="newest version, 2, is used; `knowngood rollback"):
        assert content(tmp_path) == "b"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"version": "2"}', '{"version": true}', '{"version": 9}', "[" * 9999]
)
def test_a_damaged_current_json_is_refused_with_the_way_out(tmp_path: Path, text: str) -> None:
    for content_ in ("a", "b"):
        save_version(tmp_path, files(content_))
    (tmp_path / "current.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"current\.json .*`knowngood rollback .* switches to the newest version"):
        in_use(tmp_path)
    rollback(tmp_path, 1)
    assert content(tmp_path) == "a"


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(ArtifactError, match="no saved model"):
        save_version(tmp_path, files("a"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


SAVE = """
import os, signal, sys
from pathlib import Path
from knowngood.detector.versions import save_version
calls, fatal = 0, 0
def counted(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
for name in ("rename", "replace", "fsync", "open"):
    setattr(os, name, counted(getattr(os, name)))
Path.write_bytes, Path.mkdir = counted(Path.write_bytes), counted(Path.mkdir)
for line in sys.stdin:  # a process for each request: which folder, and the call that is its last
    folder, fatal = line.split()[0], int(line.split()[1])
    pid = os.fork()
    if not pid:
        save_version(folder, {"config.json": b"{}", "weights.safetensors": b"new"})
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_call_there_is_the_old_model_or_the_new_one(tmp_path: Path) -> None:
    seen = set()
    words, pipe = [sys.executable, "-c", SAVE], subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:

        def saved(folder: Path, fatal: int) -> int:
            """The exit status of a process that saves, killed at this call; 0: not killed."""
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{folder} {fatal}\n")
            return int(process.stdout.readline())

        for fatal in range(1, 99):
            folder = tmp_path / str(fatal)
            save_version(folder, files("old"))
            status = saved(folder, fatal)
            seen.add(content(folder))
            assert content(folder) in ("old", "new")
            assert saved(folder, 0) == 0  # another process, as in life
            assert content(folder) == "new"
            left = [path.name for path in folder.rglob("*") if path.name.startswith(".")]
            assert left == []
            if status == 0:
                break
            assert status == -signal.SIGKILL
    assert seen == {"old", "new"}
    assert 8 < fatal < 98
    assert sorted(os.listdir(folder / "versions")) == ["0001", "0002", "0003"]


def test_a_folder_that_is_not_there_is_named_with_the_models_beside_it(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"frist: no such folder; give"):
        model_at(tmp_path / "frist")
    (tmp_path / "other").mkdir()
    (tmp_path / "first" / "model").mkdir(parents=True)
    first = re.escape(str(tmp_path / "first"))
    with pytest.raises(ArtifactError, match=rf"no such folder; did you mean '{first}'\? \(known: {first}\); give"):
        model_at(tmp_path / "frist")
    with pytest.raises(ArtifactError, match="no such folder; give"):
        model_at(tmp_path / "nowhere" / "first")


def test_a_model_is_suggested_by_the_path_that_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "parts" / "model").mkdir(parents=True)
    (tmp_path / "parts").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=r"did you mean 'runs/parts'\? \(known: runs/parts\)"):
        model_at("runs/partss")
    with pytest.raises(ArtifactError, match=r"no such folder; did you mean 'runs/parts'\?; give"):
        model_at("rnus/parts")
    with pytest.raises(ArtifactError, match=r"no such folder; did you mean 'runs'\?; give"):
        model_at("rums")


def test_a_folder_of_models_names_them(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / "runs" / f"{i:02}" / "model").mkdir(parents=True)
    runs = tmp_path / "runs"
    with pytest.raises(ArtifactError, match=re.escape(f"{runs} is no saved model, but holds some")) as refused:
        model_at(runs)
    assert f"{runs / '00'}, {runs / '01'}, " in str(refused.value)
    assert str(refused.value).endswith(f"{runs / '09'} and 2 more")


def test_what_writes_models_is_named_as_python_and_the_command_line_call_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    for name in ("digit", "a.txt"):
        with pytest.raises(ArtifactError, match=r"that `knowngood train` or `Detector\.save` wrote"):
            Detector.load(tmp_path / name)
