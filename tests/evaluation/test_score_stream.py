"""Tables of results as a stream: order, what is left out, scores or p-values, groups by condition."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from knowngood import Detector
from knowngood.calibration import DriftMonitor
from knowngood.cli.outputs import write_tables
from knowngood.data.conditions import ConditionSchema
from knowngood.errors import DataError
from knowngood.evaluation.score_stream import group_names, read_results, reference_of, score_stream


def test_items_are_in_the_order_of_their_times_and_what_counts_is_kept() -> None:
    one = pd.DataFrame({"id": ["c", "x"], "time": ["2026-01-03", "2026-01-04"], "anomaly_score": [3.0, np.nan]})
    two = pd.DataFrame({"id": ["a", "b"], "time": ["2026-01-01T08:00Z", "2026-01-02"], "anomaly_score": [1.0, 2.0]})
    two["label"] = [0, 1]
    stream = score_stream([one, two])
    assert stream.ids == ["a", "c"]
    assert stream.scores.tolist() == [1, 3]
    assert stream.left_out == {"without a score": 1, "labelled anomalous": 1}
    assert stream.measure == "anomaly_score"
    assert stream.groups == ["all", "all"]


def test_times_with_two_readings_leave_the_order_as_it_is() -> None:
    table = pd.DataFrame({"time": ["13.01.2026", "01.02.2026", "14.02.2026"], "anomaly_score": [1.0, 2.0, 3.0]})
    assert score_stream([table]).scores.tolist() == [1, 2, 3]
    assert score_stream([table.assign(time=[30, 4, 5])]).scores.tolist() == [2, 3, 1]


def test_p_values_are_used_where_an_item_has_no_score() -> None:
    table = pd.DataFrame({"p_value": [0.5, 0.1], "anomaly_score": [1.0, np.nan]})
    stream = score_stream([table])
    assert stream.measure == "p_value"
    assert stream.scores.tolist() == [-0.5, -0.1]
    assert stream.ids is None
    with pytest.raises(DataError, match=r"p_value = 2; expected above 0"):
        score_stream([table.assign(p_value=[0.5, 2.0])])
    with pytest.raises(DataError, match="some items have an anomaly_score only"):
        score_stream([table.assign(p_value=[np.nan, 0.5])])


def test_a_log_without_ids_is_known_by_its_times(tmp_path: Path) -> None:
    lines = [{"time": "t1", "p_value": 0.2}, {"event": "start"}, {"time": "t1", "p_value": 0.3}]
    log = tmp_path / "server.log"
    log.write_text("\n".join(map(json.dumps, lines)) + '\n{"time": "t2", "p_')
    table = read_results(log)
    assert table is not None
    assert score_stream([table]).ids == ["t1", "t1 #2"]
    log.write_text('{"p_value": 0.2}\nbroken\n')
    with pytest.raises(DataError, match=r"server.log, line 2: 'broken'"):
        read_results(log)
    (tmp_path / "prices.csv").write_text("id,price\na,1\n")
    assert read_results(tmp_path / "prices.csv") is None


def test_groups_are_mondrian_groups_of_the_schema() -> None:
    columns = {"camera": np.array(["A", "B"] * 4), "heat": np.linspace(0, 1, 8)}
    schema = ConditionSchema.fit(columns, 8, {"camera": ("model", "stratify"), "heat": ("model",)})
    assert group_names(["camera=B, heat=0.5", ""], schema) == ["camera=B", "all"]
    assert group_names(["anything"]) == ["anything"]


def test_items_of_an_added_group_are_compared_with_its_calibration_items() -> None:
    rng = np.random.default_rng(0)
    detector = Detector("table", "memory_bank", alpha=0.1, calibration={"method": "split"})
    detector.fit(rng.normal(size=(200, 3)))
    detector.calibrate(3 * rng.normal(size=(60, 3)), as_group={"camera": "B"})
    new = detector.detect(3 * rng.normal(size=(80, 3)), conditions={"camera": ["B"] * 80})
    stream = score_stream([new], detector.pipeline_.schema, ["camera=B"])
    assert set(stream.groups) == {"camera=B"}
    reference = reference_of(detector.pipeline_, stream.measure, -stream.scores)
    ranks = reference.ranks["camera=B"]
    assert len(ranks) == 60
    drift = DriftMonitor(100, reference.ranks)
    drift.update(stream.scores, stream.groups)
    assert drift.alarm is None


def test_an_id_is_one_in_every_format(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["-a.png", "=b.png", "'c.png", "007"], "p_value": [0.1, 0.2, 0.3, 0.4]})
    for suffix in (".csv", ".json", ".parquet"):
        write_tables([table], tmp_path / f"table{suffix}")
        found = read_results(tmp_path / f"table{suffix}")
        assert found is not None
        assert found["id"].tolist() == table["id"].tolist()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_results_that_windows_saved_again_are_read(tmp_path: Path, encoding: str) -> None:
    texts = {
        "commas.csv": "id,anomaly_score,camera\r\nä.png,1.5,007\r\n",
        "semicolons.csv": "id;anomaly_score;camera\r\nä.png;1,5;007\r\n",
        "points.csv": "id;anomaly_score;camera\r\nä.png;1.5;007\r\n",
        "tabs.csv": "id\tanomaly_score\tcamera\r\nä.png\t1,5\t007\r\n",
        "log.jsonl": '{"id": "ä.png", "anomaly_score": 1.5}\r\n{"event": "ended"}\r\n',
        "whole.json": '[{"id": "ä.png", "anomaly_score": 1.5}]',
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode(encoding))
        table = read_results(tmp_path / name)
        assert table is not None, name
        stream = score_stream([table])
        assert (stream.ids, stream.scores.tolist()) == (["ä.png"], [1.5]), name


def test_values_with_commas_stay_in_their_group() -> None:
    rng = np.random.default_rng(0)
    camera, gain = np.repeat(["A, left", "B"], 60), rng.uniform(0, 1, 120)
    roles = {"camera": ["stratify"], "gain": ["model"]}
    detector = Detector("table", "memory_bank", alpha=0.1, conditioning={"roles": roles})
    detector.fit(rng.normal(size=(120, 4)), conditions={"camera": camera, "gain": gain})
    given = {"camera": camera[55:65], "gain": gain[55:65]}
    table = detector.detect(rng.normal(size=(10, 4)), conditions=given)
    stream = score_stream([table], detector.pipeline_.schema)
    assert stream.groups == ["camera=A, left"] * 5 + ["camera=B"] * 5
    detector.calibrate(
        rng.normal(size=(40, 4)), conditions={"camera": ["A, left"] * 40, "gain": gain[:40]}, as_group={"line": "2"}
    )
    table = detector.detect(rng.normal(size=(10, 4)), conditions={**given, "line": ["2"] * 10})
    assert table["condition"].iloc[0] == f"camera=A, left, gain={gain[55]:.4g}, line=2"
