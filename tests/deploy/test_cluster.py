"""Scoring on a cluster: parts that are whole or absent, each item once, and the scores of one machine."""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from knowngood import Detector, open_images
from knowngood.cli import main
from knowngood.data.stores.address import Address
from knowngood.deploy.ray_data import Asked, ScoredPart, Scorer, part_size, score_parts
from knowngood.deploy.scored_parts import DONE, RUN, ScoredParts
from knowngood.detector.versions import in_use
from knowngood.errors import ArtifactError, SettingsError
from stores import pictures, png, ray_answers, write_files

N, SIZE = 37, 8


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def table(first: int, n: int = 3, error: str | None = None) -> pd.DataFrame:
    ids = [f"{first + i}.png" for i in range(n)]
    return pd.DataFrame({"id": ids, "anomaly_score": np.arange(n) / 2, "error": [error] * n})


@pytest.fixture(params=["folder", "store"])
def place(request, tmp_path) -> str:
    return str(tmp_path / "out") if request.param == "folder" else f"memory://{tmp_path.name}/out"


def test_parts_are_one_table_in_order_of_the_items(place):
    parts = ScoredParts.at(place)
    assert parts.begin({"model": "a"}, resume=False) == set()
    parts.write_aside(pd.DataFrame({"id": ["z"], "error": ["is a note"]}))
    parts.write_part(3, table(3, error="broken"))
    parts.write_part(0, table(0))
    parts.write_part(0, table(0))  # by another worker, again
    found = parts.table()
    assert found["id"].tolist() == [f"{i}.png" for i in range(6)] + ["z"]
    assert found["error"].isna().tolist() == [True] * 3 + [False] * 4
    assert parts.begin({"model": "a"}, resume=True) == {0, 3}


def test_a_folder_of_another_run_is_refused(place):
    parts = ScoredParts.at(place)
    parts.begin({"model": "a", "alpha": None}, resume=False)
    with pytest.raises(SettingsError, match=r"an unfinished run.*--resume"):
        parts.begin({"model": "a", "alpha": None}, resume=False)
    with pytest.raises(SettingsError, match="another model"):
        parts.begin({"model": "b", "alpha": None}, resume=True)
    parts.write_json(DONE, {})
    with pytest.raises(SettingsError, match="a finished run"):
        parts.begin({"model": "a", "alpha": None}, resume=False)


def test_a_folder_with_other_files_and_a_file_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(SettingsError, match=r"other files, such as a\.txt"):
        ScoredParts.at(tmp_path).begin({}, resume=False)
    with pytest.raises(SettingsError, match="is a file"):
        ScoredParts.at(tmp_path / "a.txt")


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / RUN).write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        ScoredParts.at(tmp_path).begin({}, resume=True)


def test_parts_hold_whole_batches():
    many = 10**6
    assert [part_size(batch, many) for batch in (2048, 3000, 100)] == [2048, 3000, 2100]


@pytest.mark.parametrize("items", [1, 92, 2000, 10_000, 50_000, 200_000])
def test_few_images_have_parts_enough_for_many_workers(items: int) -> None:
    size = part_size(92, items)
    assert size % 92 == 0
    assert size == 92 or items / size >= 64


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    Detector("hog", "memory_bank").fit(pictures(24)).save(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    files = {f"{i:02d}.png": png(one) for i, one in enumerate(pictures(N - 1, 4))}
    return write_files(tmp_path_factory.mktemp("data"), {**files, "broken.png": b"no image", "raw.dng": b"raw"})


def test_a_worker_scores_as_one_machine_does(model, data, tmp_path):
    images = open_images(data)
    version = in_use(model)
    files = {path.name: path.read_bytes() for path in version.iterdir()}
    parts = ScoredParts.at(tmp_path / "out")
    scorer = Scorer(files, images, parts, Asked(None, None, "0" * 16), SIZE)
    told = [scorer.score(first) for first in range(0, N, SIZE)]
    whole = Detector.load(model).detect(images)
    found = parts.table()
    assert found["id"].tolist() == whole["id"].tolist()[:N]
    np.testing.assert_array_equal(found["anomaly_score"], whole["anomaly_score"][:N])
    np.testing.assert_array_equal(found["p_value"], whole["p_value"][:N])
    assert sum(one.errors for one in told) == found["error"].notna().sum() == 1
    assert pd.isna(found["is_anomalous"][found["error"].notna()]).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cluster", "local"), "--output"),
        (("--cluster", "local", "--output", "x", "--fdr", "0.1", "--maps", "m"), "no --fdr and no --maps"),
    ],
)
def test_what_a_cluster_does_not_do_is_refused(model, data, words, said, capsys):
    assert run("score", model, data, *words) == 2
    assert said in capsys.readouterr().err


def test_a_cluster_that_is_not_there_leaves_nothing_behind(model, data, tmp_path, capsys, monkeypatch):
    def absent(*_, **__):
        raise SettingsError("--cluster there:1: no Ray cluster answers")
        yield

    words = ("score", model, data, "--cluster", "there:1", "--output", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("knowngood.deploy.ray_data.score_parts", absent)
        assert run(*words) == 2
    monkeypatch.setattr("knowngood.deploy.ray_data.score_parts", in_process)
    assert run(*words, "--alpha", "0.3") == 0, capsys.readouterr().err


class Dying(Scorer):
    """Its process is killed the first time it has written a part, before it tells of it."""

    def score(self, first: int) -> ScoredPart:
        found = super().score(first)
        assert isinstance(self.parts.place, Path)
        mark = self.parts.place.parent / "died"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return found


def in_process(model, images, parts, asked, *, size, there, last=None, **_):
    """As `score_parts`, without a cluster; interrupted before the part `last`."""
    files = {path.name: path.read_bytes() for path in in_use(model).iterdir()}
    scorer = Scorer(files, images, parts, asked, size)
    for first in range(0, len(images), size):
        if first == last:
            raise KeyboardInterrupt
        if first not in there:
            yield scorer.score(first)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_a_worker_that_is_killed_costs_no_row(
    model, data, tmp_path, capsys, monkeypatch
):
    """By the command, on a local cluster."""
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker cannot import tests
    monkeypatch.setattr("knowngood.deploy.ray_data.PART", 1)
    monkeypatch.setattr("knowngood.detector.scoring.MOST_ROWS", 4)
    words = ("score", model, data, "--cluster", "local", "--workers", "1", "--output", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("knowngood.deploy.ray_data.score_parts", partial(in_process, last=16))
        assert run(*words) == 130
    parts = ScoredParts.at(tmp_path / "out")
    assert parts.firsts() == {0}
    assert "--resume goes on" in capsys.readouterr().err
    assert run(*words) == 2
    monkeypatch.setattr("knowngood.deploy.ray_data.score_parts", partial(score_parts, scorer=Dying))
    code, said = run(*words, "--resume"), capsys.readouterr()
    ray_answers(said.err)
    assert code == 0, said.err
    assert (tmp_path / "died").exists()
    counts = json.loads((tmp_path / "out" / DONE).read_text())["this run"]
    assert (counts["scored"], counts["unreadable"], counts["set aside"]) == (N - 16 - 1, 1, 1)  # each is counted once
    assert "2 more could not be scored" in said.out
    whole, found = Detector.load(model).detect(open_images(data)), parts.table()
    assert len(found) == len(whole) == N + 1  # scored + set aside
    np.testing.assert_array_equal(found["anomaly_score"], whole["anomaly_score"])
    assert pd.read_parquet(tmp_path / "out")["id"].nunique() == N + 1


def test_a_part_of_a_store_is_written_in_one_request(tmp_path):
    parts = ScoredParts.at(f"memory://{tmp_path.name}/whole")
    parts.write_part(0, table(0))
    assert list(Address.of(f"memory://{tmp_path.name}/whole").find()) == ["part-000000000000.parquet"]
