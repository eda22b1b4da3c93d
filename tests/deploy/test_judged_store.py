"""What is kept of judged images: each once, reviews on top of each other, the oldest ones that nobody reviewed go."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from knowngood.deploy.judged_store import FILE, Filter, JudgedStore, Judgement, Review
from knowngood.errors import ArtifactError, DataError, OutputError


def judgement(key: str, p: float = 0.5, **more: Any) -> Judgement:
    row = {"id": f"{key}.png", "anomaly_score": 1 - p, "p_value": p, "is_anomalous": p <= 0.1, "condition": "camera=A"}
    row |= {"error": None, **more.pop("row", {})}
    given: dict[str, Any] = {"source": "api", "model": "line", "scored_by": "m1", "conditions": {"camera": "A"}}
    given |= {"picture": key.encode(), "suffix": ".png", "size": (8, 9), **more}
    return Judgement(key=key, row=row, **given)


def keys(store: JudgedStore, order: str = "newest", **which: str) -> list[str]:
    return [item["key"] for item in store.page(Filter(**which), order)[1]]


@pytest.fixture
def store(tmp_path: Path):
    with closing(JudgedStore(tmp_path / "kept", most=5)) as store:
        yield store


def test_a_judgement_is_kept_whole_and_once(store: JudgedStore) -> None:
    one = judgement("a", 0.02, regions=((1, 2, 3, 4),), map=b"map", scale=(1.0, 2.0, 3.0, 4.0), why=("b", "c"))
    number = store.add([one])[0]
    assert store.add([one]) == [number]
    assert store.page(Filter())[0] == 1
    assert {path.stat().st_mode & 0o777 for path in store.folder.iterdir()} == {0o600}
    found = store.one(number)
    assert (found["id"], found["p"], found["score"], found["flagged"]) == ("a.png", 0.02, 0.98, 1)
    assert (found["verdict"], found["conditions"], found["regions"]) == ("anomalous", {"camera": "A"}, [[1, 2, 3, 4]])
    assert (found["why"], found["height"], found["width"], found["history"]) == (["b", "c"], 8, 9, [])
    assert found["row"] == one.row
    assert store.picture(number)["bytes"] == b"a"
    assert store.picture(number)["scale"] == [1.0, 2.0, 3.0, 4.0]


def test_verdicts_in_words(store: JudgedStore) -> None:
    wrong = "wrong for product: looks like B"
    rows = [
        {"verdict": wrong},
        {"error": "is cut off", "is_anomalous": None, "p_value": None, "anomaly_score": None},
        {},
    ]
    numbers = store.add([judgement(str(i), row=row) for i, row in enumerate(rows)])
    assert [store.one(number)["verdict"] for number in numbers] == [wrong, "not read", "normal"]


def test_reviews_are_added_and_the_latest_counts(store: JudgedStore) -> None:
    number = store.add([judgement("a", 0.01)])[0]
    store.review(number, Review("good", "ana", note="dust"))
    store.review(number, Review("defect", "ben", "scratch", ((0, 0, 4, 5),)))
    found = store.one(number)
    assert (found["review"], found["kind"], found["who"], found["drawn"]) == (
        "defect",
        "scratch",
        "ben",
        [[0, 0, 4, 5]],
    )
    assert [(one["verdict"], one["who"], one["note"]) for one in found["history"]] == [
        ("good", "ana", "dust"),
        ("defect", "ben", ""),
    ]
    assert {one["scored_by"] for one in found["history"]} == {"m1"}
    assert store.counts() | {"true defects": 1, "false alarms": 0, "reviewed": 1} == store.counts()
    store.review(number, Review(None))  # taken back: nobody has reviewed it, and the history says so
    assert store.one(number)["review"] is None
    assert len(store.one(number)["history"]) == 3
    assert store.counts()["reviewed"] == 0
    with pytest.raises(KeyError, match="no judged image 99"):
        store.review(99, Review("good"))


def test_several_are_reviewed_or_none(store: JudgedStore) -> None:
    unread = {"error": "is cut off", "is_anomalous": None, "p_value": None, "anomaly_score": None}
    first, second, torn = store.add([judgement("a"), judgement("b"), judgement("torn", row=unread)])
    with pytest.raises(DataError, match=rf"torn.png \(image {torn}\) could not be read: nothing can be learned"):
        store.review([first, torn], Review("good"))
    with pytest.raises(KeyError, match="no judged image 99"):
        store.review([first, 99], Review("good"))
    assert store.counts()["reviewed"] == 0
    store.review([first, second], Review("good", "ana"))
    assert [store.one(number)["who"] for number in (first, second)] == ["ana", "ana"]
    store.review([first, torn], Review(None))  # what is taken back need not have been read
    assert store.counts()["reviewed"] == 1


def test_the_oldest_that_nobody_reviewed_go_first(store: JudgedStore) -> None:
    first = store.add([judgement(key) for key in "abc"])[0]
    store.review(first, Review("good"))
    store.add([judgement(key) for key in "defg"])
    assert keys(store) == ["g", "f", "e", "d", "a"]
    with closing(sqlite3.connect(store.folder / FILE)) as base:
        assert base.execute("select count(*) from pictures").fetchone() == (5,)
    for item in store.page(Filter())[1]:
        store.review(item["number"], Review("unsure"))
    assert keys(store, "newest")[0] == "g"
    store.add([judgement("h"), judgement("i")])  # what people reviewed stays, and so does the last one
    assert keys(store) == ["i", "g", "f", "e", "d", "a"]


def test_of_more_than_fit_the_last_are_kept_and_of_a_failure_none(store: JudgedStore) -> None:
    assert store.add([judgement(key) for key in "abcdefgh"]) == [*range(1, 9)]
    assert keys(store) == ["h", "g", "f", "e", "d"]
    with pytest.raises(OutputError):
        store.add([judgement("i"), judgement("j", picture=object())])
    assert keys(store) == ["h", "g", "f", "e", "d"]


def test_filters_and_orders(store: JudgedStore) -> None:
    unread = {"error": "?", "is_anomalous": None, "p_value": None, "anomaly_score": None, "condition": None}
    both = {"condition": "camera=AB, lens=x (inferred)"}
    numbers = store.add(
        [
            judgement("a", 0.05),
            judgement("b", 0.9, row=both, source="watch"),
            judgement("c", 0.01),
            judgement("d", row=unread),
        ]
    )
    store.review(numbers[1], Review("defect", kind="dent"))
    assert keys(store, "anomalous") == ["c", "a", "b", "d"]
    assert keys(store, verdict="flagged") == ["c", "a"]
    assert keys(store, verdict="normal") == ["b"]
    assert keys(store, verdict="not read") == ["d"]
    assert keys(store, condition="camera=A") == ["c", "a"]
    assert keys(store, condition="lens=x") == ["b"]
    assert keys(store, review="defect") == keys(store, review="any") == keys(store, source="watch") == ["b"]
    assert keys(store, review="none") == ["d", "c", "a"]
    time = store.one(numbers[2])["time"]
    assert "c" in keys(store, since=time)
    assert "c" not in keys(store, until=time)
    assert store.values() == {"conditions": ["camera=A", "camera=AB", "lens=x"], "kinds": ["dent"]}
    total, items = store.page(Filter(), first=1, most=2)
    assert (total, [item["key"] for item in items]) == (4, ["c", "b"])
    assert [row["key"] for row in store.series(Filter(), numbers[0])] == ["b", "c"]


def test_a_store_that_another_process_is_making_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
        other.execute("create table started (n)")
        other.execute("begin immediate")  # for which SQLite does not wait to change to its write-ahead log
        waits: list[float] = []

        def other_ends(seconds: float) -> None:
            waits.append(seconds)
            other.execute("rollback")

        monkeypatch.setattr("knowngood.deploy.sqlite.time.sleep", other_ends)
        JudgedStore(tmp_path).close()
    assert len(waits) == 1


def _open(folder: Path, barrier: threading.Barrier) -> None:
    barrier.wait()
    JudgedStore(folder).close()


def test_a_new_store_is_opened_by_many_at_once(tmp_path: Path) -> None:
    for run in range(10):
        barrier = threading.Barrier(8)
        with ThreadPoolExecutor(8) as pool:
            opened = [pool.submit(_open, tmp_path / str(run), barrier) for _ in range(8)]
        assert [one.exception() for one in opened] == [None] * 8


def _fill(folder: Path, name: str) -> None:
    with closing(JudgedStore(folder)) as store:
        store.add(judgement(f"{name}{i}") for i in range(40))


@pytest.mark.slow
def test_several_processes_write_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_fill, args=(tmp_path, name)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    with closing(JudgedStore(tmp_path)) as store:
        total, items = store.page(Filter(), most=1000)
        assert total == 120
        assert {item["key"] for item in items} == {f"{name}{i}" for name in "abc" for i in range(40)}


def test_another_file_is_refused_and_a_full_disk_is_told(tmp_path: Path, store: JudgedStore) -> None:
    (tmp_path / FILE).write_text("no database at all, though it is as long as the header of one would be" * 20)
    with pytest.raises(ArtifactError, match="is no store of judged images"):
        JudgedStore(tmp_path)
    store.close()
    with pytest.raises(OutputError, match="cannot be written"):
        store.add([judgement("a")])


def test_reviews_that_a_version_does_not_know_are_counted(store: JudgedStore) -> None:
    first, second, third = store.add([judgement(key) for key in "abc"])
    for number, verdict in ((first, "good"), (second, "defect"), (third, "unsure")):
        store.review(number, Review(verdict))
    assert store.count_reviews("line") == 2
    known = store.last_review()
    assert store.count_reviews("line", after=known) == 0
    store.review(third, Review("unsure"))
    assert store.count_reviews("line", after=known) == 0  # it said nothing, and says nothing
    store.review(first, Review(None))
    store.review(second, Review("unsure"))
    assert store.count_reviews("line", after=known) == 2  # what was learned was taken back
    assert store.count_reviews("line", after=store.last_review()) == 0
    store.review(third, Review("good"))
    store.review(third, Review(None))
    assert store.count_reviews("line", after=known) == 2
    assert store.count_reviews("other", after=0) == 0


def test_values_with_commas_are_filtered_by_as_a_whole(store: JudgedStore) -> None:
    store.add([judgement("a", row={"condition": "camera=A, left, lens=x (inferred)"}), judgement("b")])
    assert store.values()["conditions"] == ["camera=A", "camera=A, left", "lens=x"]
    assert keys(store, condition="camera=A, left") == ["a"]
