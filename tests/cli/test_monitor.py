"""`knowngood monitor` on tables of results: exit status, state, figure; and how tables become a stream."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from knowngood import Detector
from knowngood.cli import main
from knowngood.evaluation.score_stream import read_results
from knowngood.files import locked


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def results(path: Path, scores: np.ndarray, first: int = 0) -> Path:
    ids = [f"{i}.png" for i in range(first, first + len(scores))]
    pd.DataFrame({"id": ids, "anomaly_score": scores}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = np.random.default_rng(0).integers(0, 99, (60, 8, 8), np.uint8)
    detector = Detector("hog", "memory_bank", calibration={"method": "split", "fraction": 0.5})
    return detector.fit(pictures).save(tmp_path_factory.mktemp("monitor") / "model")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_exit_status_figure_and_evidence(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calibration = Detector.load(model).pipeline_.calibration
    assert calibration is not None
    scores = calibration.anomaly_score(calibration.scores, calibration.strata)
    quiet = results(tmp_path / "quiet.csv", np.random.default_rng(1).permutation(scores))
    assert run("monitor", model, quiet) == 0
    assert "quiet    evidence" in capsys.readouterr().out
    drifted = results(tmp_path / "drift.csv", np.full(40, scores.max() + 1.0))
    assert run("monitor", model, drifted, "--out", tmp_path / "drift.svg") == 5
    shown = capsys.readouterr().out
    assert "drift    scores are higher since about" in shown or "drift    more scores are extreme since about" in shown
    assert "<svg" in (tmp_path / "drift.svg").read_text()
    assert f"knowngood update {model} NEW_NORMAL_IMAGES\n" in shown
    assert run("monitor", model, drifted, "--out", tmp_path / "drift.txt") == 2
    assert "unknown format '.txt'" in capsys.readouterr().err


def test_rows_that_are_left_out_are_counted_beside_those_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.DataFrame({"anomaly_score": np.r_[np.arange(5.0), 9, 9, 9], "label": np.repeat([0, 1], [5, 3])})
    table.to_csv(tmp_path / "r.csv", index=False)
    assert run("monitor", tmp_path / "r.csv") == 0
    assert "items    8 rows: 5 new, 3 labelled anomalous, left out\n" in capsys.readouterr().out


@pytest.mark.slow
def test_an_id_counts_once_and_an_alarm_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, state = np.random.default_rng(2), tmp_path / "state.json"
    first = results(tmp_path / "a.csv", rng.normal(size=60))
    assert run("monitor", first, "--state", state) == 0
    capsys.readouterr()
    record = json.loads(state.read_text())
    assert run("monitor", first, "--state", state) == 0
    assert "items    60 rows: 0 new, 60 counted before; 60 counted in all" in capsys.readouterr().out
    assert json.loads(state.read_text()) == record
    assert run("monitor", results(tmp_path / "b.csv", rng.normal(9, 1, 40), first=60), "--state", state) == 5
    assert run("monitor", first, "--state", state) == 5
    assert f"then begin a new state: rm {state}" in capsys.readouterr().out
    assert run("monitor", first, "--state", state, "--threshold", "20") == 2
    assert "was begun with 100" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".json", ".parquet", ".csv"])
def test_a_table_of_another_version_is_refused_by_name(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    rng, own, data = np.random.default_rng(3), tmp_path / "own", tmp_path / "new.npz"
    shutil.copytree(model, own)
    np.savez(data, images=rng.integers(0, 99, (20, 8, 8), np.uint8))
    old = tmp_path / f"old{suffix}"
    assert run("score", own, data, "-o", old) == 0
    assert run("monitor", own, old) == 0
    assert "does not say which model" not in capsys.readouterr().err
    Detector.load(own).calibrate(rng.integers(0, 99, (40, 8, 8), np.uint8)).save(own)
    assert run("monitor", own, old, "--state", tmp_path / "state.json") == 3
    said = capsys.readouterr().err
    assert f"old{suffix}: " in said
    assert ("another calibration" if suffix == ".csv" else "version 1 of this model scored it, and version 2") in said
    assert not (tmp_path / "state.json").exists()
    if suffix == ".json":
        assert run("score", own, data, "-o", tmp_path / "new.json") == 0
        assert run("monitor", old, tmp_path / "new.json") == 3
        assert "were scored by two models" in capsys.readouterr().err
        both = [
            one | {"id": f"{k} {one['id']}"}
            for k, name in enumerate(("old", "new"))
            for one in json.loads((tmp_path / f"{name}.json").read_text())
        ]
        pd.DataFrame(both).to_csv(tmp_path / "both.csv", index=False)  # as `watch` appends to one file
        assert run("monitor", own, tmp_path / "both.csv") == 0
        shown = capsys.readouterr()
        assert "both.csv: 20 rows scored by other versions or models, left out" in shown.err
        assert "items    20 rows: 20 new" in shown.out


def test_what_cannot_be_known_of_a_table_is_said(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = results(tmp_path / "scores.csv", np.random.default_rng(1).normal(size=5))
    assert run("monitor", model, scores) == 0
    assert "scores.csv: it does not say which model scored it" in capsys.readouterr().err


def test_a_table_without_scores_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.DataFrame({"id": ["a"], "price": [1]}).to_csv(tmp_path / "other.csv", index=False)
    assert run("monitor", tmp_path / "other.csv") == 3
    assert "no column anomaly_score or p_value" in capsys.readouterr().err
    assert run("monitor", tmp_path / "gone.csv") == 3
    assert "gone.csv: no such file" in capsys.readouterr().err
    assert run("monitor", tmp_path / "ohter.csv") == 3
    assert f"ohter.csv: no such file; did you mean '{tmp_path / 'other.csv'}'?" in capsys.readouterr().err


def test_one_state_is_of_one_run_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream = results(tmp_path / "a.csv", np.arange(9.0))
    with locked(tmp_path / ".state.json.lock", "another run"):
        assert run("monitor", stream, "--state", tmp_path / "state.json") == 2
    assert "state.json is in use by process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "what"), [("null", "no knowngood-monitor"), ("[1]", "no knowngood-monitor"), ("{", "no JSON")]
)
def test_a_state_that_is_something_else_is_refused(
    text: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state.json").write_text(text)
    assert run("monitor", results(tmp_path / "a.csv", np.arange(9.0)), "--state", tmp_path / "state.json") == 3
    assert what in capsys.readouterr().err
    assert (tmp_path / "state.json").read_text() == text


def test_a_threshold_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("monitor", results(tmp_path / "a.csv", np.arange(9.0)), "--threshold", "0") == 2
    assert "threshold = 0.0; expected a number above 1" in capsys.readouterr().err


def test_ids_of_a_table_are_texts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,anomaly_score\n01,1\n1,2\n")
    table = read_results(tmp_path / "a.csv")
    assert table is not None
    assert table["id"].tolist() == ["01", "1"]


def test_names_that_mean_nothing_elsewhere_stay_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,condition,p_value\nNA,None,1\nnull,NA,NaN\nb,,.5\n")
    table = read_results(tmp_path / "a.csv")
    assert table is not None
    assert table["id"].tolist() == ["NA", "null", "b"]
    assert table["condition"].tolist()[:2] == ["None", "NA"]
    assert table["condition"].isna().tolist() == [False, False, True]
    assert table["p_value"].isna().tolist() == [False, True, False]


def test_items_of_one_id_and_two_scores_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monday, tuesday = (results(tmp_path / f"{day}.csv", np.arange(3.0) + day) for day in (0, 1))
    assert run("monitor", monday, tuesday) == 0
    said = capsys.readouterr()
    assert "items    6 rows: 3 new, 3 counted before" in said.out
    assert "3 items have the id of an earlier one, and another score: of an id the first counts" in said.err
    assert run("monitor", monday, monday) == 0
    assert "warning" not in capsys.readouterr().err
    for day in (monday, monday, tuesday):  # of runs night by night, likewise
        assert run("monitor", day, "--state", tmp_path / "state.json") == 0
        said = capsys.readouterr()
        assert ("3 items have the id of an earlier one, and another score" in said.err) == (day == tuesday)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["broken.json"], "broken.json, line 1"),
        (["fine.csv", "--state", "state.json"], "this is no knowngood-monitor state"),
        (["fine.csv", "--threshold", "1"], "expected a number above 1"),
    ],
)
def test_what_is_wrong_beside_the_model_is_said_before_it_is_loaded(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    results(tmp_path / "fine.csv", np.arange(9.0))
    (tmp_path / "broken.json").write_text('{"p_value": \n')
    (tmp_path / "state.json").write_text("[]")
    for name in ("load", "load_pipeline"):
        monkeypatch.setattr(f"knowngood.cli.monitor.{name}", lambda *_: pytest.fail("the model is loaded"))
    monkeypatch.chdir(tmp_path)
    assert run("monitor", model, *words) in (2, 3)
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_tables_alone_need_no_torch(tmp_path: Path) -> None:
    table = results(tmp_path / "a.csv", np.arange(9.0))
    code = (
        "import sys\nfrom knowngood.cli import main\n"
        f"try:\n    main(['monitor', {str(table)!r}])\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "False")
