"""Reviewed images as data: the library reads what it writes, with labels, masks and conditions."""

from __future__ import annotations

import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from knowngood import Detector
from knowngood.cli import main
from knowngood.data.open import open_images
from knowngood.deploy.judged_store import FILE, JudgedStore, Judgement, Review
from knowngood.deploy.reviews import FORMATS, add_review, draw_sample, export, read_reviews
from knowngood.errors import DataError, OutputError

HEIGHT, WIDTH = 10, 12


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def add(store: JudgedStore, seed: int, name: str, *reviews: Review, flagged: bool | None = True) -> int:
    row = {"id": name, "anomaly_score": 1.0, "p_value": 1 / 3, "is_anomalous": flagged, "condition": "camera=A"}
    row["error"] = None if flagged is not None else "cut off"
    one: dict[str, Any] = {
        "source": "api",
        "model": "line",
        "scored_by": "m1",
        "suffix": ".png",
        "size": (HEIGHT, WIDTH),
    }
    conditions = {"camera": ("A", "=B")[seed % 2]}
    number = store.add([Judgement(key=str(seed), row=row, picture=picture(seed), conditions=conditions, **one)])[0]
    for review in reviews:
        store.review(number, review)
    return number


@pytest.fixture
def store(tmp_path: Path):
    with closing(JudgedStore(tmp_path / "judged")) as store:
        add(store, 0, "a.png", Review("good"))
        add(store, 1, "../../etc/b.png", Review("defect", "ana", "deep scratch", ((1, 2, 4, 6), (7, 0, 9, 3))))
        add(store, 2, "c.png", Review("defect", kind="mask"), flagged=False)  # a mask, and no folder of masks
        add(store, 3, "d.png", Review("unsure"))
        add(store, 4, "e.png", Review("defect"), Review(None))
        unread = add(store, 5, "f.png", Review("good"))
        add(store, 6, "g.png")
        with closing(sqlite3.connect(store.folder / FILE)) as base, base:  # no longer reviewed, but stores may hold it
            base.execute("update judged set flagged = null where number = ?", (unread,))
        yield store


def test_folders_and_manifest_are_read_again(store: JudgedStore, tmp_path: Path) -> None:
    assert export(store, tmp_path / "out") == {"good": 1, "defect": 2, "repeated": 0}
    expected = {
        "good/000001-a.png": (0, 0.0, "A"),
        "anomalous/deep_scratch/000002-b.png": (1, 1.0, "=B"),
        "anomalous/mask_/000003-c.png": (2, 1.0, "A"),
    }
    for source in ("out", "out/manifest.csv"):
        images = open_images(str(tmp_path / source))
        assert set(images.ids) == set(expected)
        for i, name in enumerate(images.ids):
            seed, label, camera = expected[str(name)]
            assert (tmp_path / "out" / str(name)).read_bytes() == picture(seed)  # as it came
            assert images.labels[i] == label
            if source != "out":
                assert images.conditions["camera"][i] == camera  # a formula, but not in the text
        mask = images.mask(list(images.ids).index("anomalous/deep_scratch/000002-b.png"))
        drawn = np.zeros((HEIGHT, WIDTH), bool)
        drawn[1:4, 2:6] = drawn[7:9, 0:3] = True
        np.testing.assert_array_equal(np.squeeze(mask), drawn)


def test_of_a_picture_judged_twice_the_last_review_counts(tmp_path: Path) -> None:
    with closing(JudgedStore(tmp_path / "judged")) as store:
        first = add(store, 0, "a.png", Review("good"))
        one = {**store.picture(first), **store.one(first)}
        about = {"source": "page", "model": "line", "scored_by": "m2", "suffix": ".png", "size": (HEIGHT, WIDTH)}
        again = Judgement(key="again", row=one["row"], picture=one["bytes"], conditions=one["conditions"], **about)
        elsewhere = Judgement(key="B", row=one["row"], picture=one["bytes"], conditions={"camera": "B"}, **about)
        second, third = store.add([again, elsewhere])
        store.review(second, Review("defect", kind="scratch"))
        store.review(third, Review("good"))
        assert export(store, tmp_path / "out") == {"good": 1, "defect": 1, "repeated": 1}
        store.review(first, Review("good"))  # said once more: now it is the last
        assert export(store, tmp_path / "out2") == {"good": 2, "defect": 0, "repeated": 1}


def test_coco(store: JudgedStore, tmp_path: Path) -> None:
    export(store, tmp_path / "out", "coco")
    found = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [one["file_name"] for one in found["images"]] == [
        "images/good/000001-a.png",
        "images/anomalous/000002-b.png",
        "images/anomalous/000003-c.png",
    ]
    kinds = {one["id"]: one["name"] for one in found["categories"]}
    boxes = [(one["image_id"], kinds[one["category_id"]], one["bbox"], one["area"]) for one in found["annotations"]]
    assert boxes == [
        (2, "deep_scratch", [2, 1, 4, 3], 12),
        (2, "deep_scratch", [0, 7, 3, 2], 6),
        (3, "mask_", [0, 0, WIDTH, HEIGHT], WIDTH * HEIGHT),  # it was not said where: somewhere in it
    ]
    for one in found["images"]:
        assert Image.open(tmp_path / "out" / one["file_name"]).size == (one["width"], one["height"])


def test_label_studio(store: JudgedStore, tmp_path: Path) -> None:
    export(store, tmp_path / "out", "label-studio")
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert [task["annotations"][0]["result"][0]["value"]["choices"] for task in tasks] == [
        ["good"],
        ["defect"],
        ["defect"],
    ]
    box = tasks[1]["annotations"][0]["result"][1]
    assert box["value"]["rectanglelabels"] == ["deep_scratch"]
    shares = [box["value"][name] for name in ("x", "y", "width", "height")]
    np.testing.assert_allclose(shares, [100 * 2 / WIDTH, 10, 100 * 4 / WIDTH, 30])
    assert (tmp_path / "out" / tasks[1]["data"]["image"].partition("?d=")[2]).is_file()


def test_a_condition_is_not_taken_for_the_picture(tmp_path: Path) -> None:
    kept = {"number": 1, "height": 4, "width": 4, "file": "a.png", "note": "", "boxes": [], "kind": None}
    FORMATS["label-studio"]([{**kept, "conditions": {"image": "left", "camera": "A"}}], tmp_path)
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    assert task["data"] == {"image": "/data/local-files/?d=a.png", "camera": "A", "note": ""}


def test_nothing_is_mixed_or_made_up(store: JudgedStore, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(OutputError, match="is not empty"):
        export(store, tmp_path / "full")
    with closing(JudgedStore(tmp_path / "none")) as empty, pytest.raises(DataError, match="nothing was reviewed"):
        export(empty, tmp_path / "out")


def command(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


@pytest.mark.slow
def test_the_command_counts_and_writes_what_calibrate_and_update_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(9).integers(0, 256, (40, HEIGHT, WIDTH), dtype=np.uint8)
    cameras = {"camera": np.repeat(["A", "=B"], 20)}
    Detector("hog", "memory_bank", alpha=0.2).fit(images, conditions=cameras).save(tmp_path / "line")
    with closing(JudgedStore(tmp_path / "line-judged")) as store:
        for seed in range(20):
            add(store, seed, f"{seed}.png", Review("good"))
        add(store, 20, "20.png", Review("defect", kind="dent"))
        add(store, 21, "21.png", Review("defect"), flagged=False)
    out = tmp_path / "out"
    assert command("reviews", tmp_path / "line-judged", "-o", out) == 0
    printed = capsys.readouterr().out.splitlines()
    counts = {line.rsplit(maxsplit=1)[0]: line.rsplit(maxsplit=1)[1] for line in printed}
    expected = {"judged": "22", "reviewed": "22", "false alarms": "20", "true defects": "1", "missed defects": "1"}
    assert expected.items() <= counts.items()
    assert f"written  {out}: 20 good, 2 with a defect" in printed
    assert command("calibrate", tmp_path / "line", out / "manifest.csv") == 0
    assert command("update", tmp_path / "line", out / "manifest.csv") == 0
    assert command("reviews", tmp_path / "line-judged", "--format", "coca") == 2
    assert "did you mean 'coco'" in capsys.readouterr().err.lower()
    assert command("reviews", tmp_path / "line") == 3
    capsys.readouterr()
    assert command("reviews", tmp_path / "line-judged", "--list", "1") == 0
    assert capsys.readouterr().out.split()[-5:] == ["21.png", "normal", "0.3333", "1", "defect"]


def test_reviews_from_python(store: JudgedStore) -> None:
    table = read_reviews(store.folder)
    assert table["number"].tolist() == [1, 2, 3, 4, 6]
    assert table["review"].tolist() == ["good", "defect", "defect", "unsure", "good"]
    assert table["regions"][1] == [[1, 2, 4, 6], [7, 0, 9, 3]]
    assert table["flagged"].tolist()[:4] == [True, True, False, True]
    assert len(read_reviews(store.folder, unreviewed=True)) == 7
    add_review(store.folder, 7, "defect", who="ben", kind="dent", regions=[(0, 0, 5, 6)], note="deep")
    last = read_reviews(store.folder).iloc[-1]
    assert (last["number"], last["who"], last["kind"], last["regions"], last["note"]) == (
        7,
        "ben",
        "dent",
        [[0, 0, 5, 6]],
        "deep",
    )
    add_review(store.folder, 7, None)
    assert len(read_reviews(store.folder)) == 5
    drawn = draw_sample(store.folder, 3, seed=0)
    table = read_reviews(store.folder, unreviewed=True)
    assert set(table["number"][table["sampled"]]) == set(drawn)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((1, "bad"), "verdict = 'bad'; expected good, defect, unsure"),
        ((99, "good"), "no judged image 99"),
        ((6, "defect"), r"f.png \(image 6\) could not be read"),
        ((1, "defect", {"regions": [(0, 0, HEIGHT + 1, 2)]}), "is not within the picture, 12 × 10 pixels"),
        ((1, "defect", {"regions": [(0, 0, 1, 1)] * 101}), "101 regions; expected at most 100"),
        ((1, "defect", {"kind": "k" * 61}), "kind = 'kkkk.* has 61 characters; expected at most 60"),
        ((1, "good", {"note": "n" * 2001}), "has 2,001 characters; expected at most 2,000"),
    ],
)
def test_a_wrong_review_is_refused(store: JudgedStore, given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        add_review(store.folder, *given[:2], **(given[2] if len(given) > 2 else {}))
    assert len(read_reviews(store.folder)) == 5
