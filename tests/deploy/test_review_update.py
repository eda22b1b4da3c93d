"""Reviews become a new version: false alarms join the fit alone, a random sample calibrates, defects are known ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from judged_parts import SIDE, SPOT, pictures, png, save_run, stripes
from knowngood import Detector
from knowngood.cli import main
from knowngood.data import ImageSet
from knowngood.deploy.judged_store import JudgedStore, Judgement, Review
from knowngood.deploy.review_update import learn_reviews
from knowngood.deploy.reviewed_images import reviewed_images
from knowngood.detector.run_record import training_images
from knowngood.detector.versions import versions
from knowngood.errors import DataError, NotEnoughNormals

N, ALPHA = 30, 0.1  # 9 images have to calibrate
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::knowngood.errors.BatchWarning")]


def faint(n: int, seed: int) -> np.ndarray:
    """Pictures with a weak spot."""
    images = pictures(n, seed).astype(float)
    images[:, SPOT[0] : SPOT[2], SPOT[1] : SPOT[3]] -= 45
    return images.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("loop"), N)


def add(store: JudgedStore, images: np.ndarray, *reviews: Review, flagged: bool = True, **more: Any) -> list[int]:
    """Judged images, each with these reviews."""
    row = {"anomaly_score": 1.0, "p_value": 0.02, "is_anomalous": flagged, "condition": "all", "error": None}
    given: dict[str, Any] = {"source": "api", "model": "parts", "scored_by": "m1", "suffix": ".png", "conditions": {}}
    given |= more
    first = store.counts()["judged"]
    judged = [
        Judgement(key=f"{first + i}", row={**row, "id": f"{i}.png"}, picture=png(one), size=(SIDE, SIDE), **given)
        for i, one in enumerate(images)
    ]
    numbers = store.add(judged)
    for number in numbers:
        for review in reviews:
            store.review(number, review)
    return numbers


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JudgedStore]:
    with closing(JudgedStore(tmp_path / "judged")) as store:
        yield store


def flagged(detector: Detector, images: np.ndarray) -> float:
    return float((detector.predict(images) < 0).mean())


def test_false_alarms_join_the_fit_and_do_not_calibrate(run: Path, store: JudgedStore) -> None:
    detector = Detector.load(run)
    others = stripes(20, 8)
    assert flagged(detector, others) == 1
    add(store, stripes(10, 7), Review("good"))
    add(store, faint(5, 6), Review("defect", kind="stain", regions=(SPOT,)), flagged=False)
    add(store, pictures(3, 5), Review("unsure"))
    done = learn_reviews(detector, reviewed_images(store, "parts"), old=training_images(run))
    new = done.detector
    assert len(new.pipeline_.calibration) == N  # type: ignore[arg-type]
    assert new.pipeline_.calibrated_by == "cross"
    assert new.about_["data"]["normals"] == N + 10
    rows = {row.what: row for row in done.rows}
    alarms = rows["false alarms: good, flagged"]
    assert (alarms.images, alarms.before, alarms.after) == (10, 10, 0)
    assert alarms.held_out is not None
    assert sum(row.images for row in done.rows) == 15
    assert flagged(new, others) < 0.3
    assert flagged(new, pictures(100, 9)) <= ALPHA + 0.1
    assert flagged(new, faint(20, 4)) >= flagged(detector, faint(20, 4))
    assert new.about_["labels"]["given"] == 5
    assert [one["what"] for one in new.about_["history"]] == ["fit", "reviews"]
    assert flagged(detector, others) == 1  # the former one stays as it was


def test_an_image_that_is_held_out_is_judged_by_models_that_did_not_learn_from_it(
    run: Path, store: JudgedStore
) -> None:
    """One alone of its kind: what learned from it takes it for normal, what did not flags it."""
    add(store, stripes(1, 7), Review("good"))
    done = learn_reviews(Detector.load(run), reviewed_images(store, "parts"), old=training_images(run))
    (row,) = done.rows
    assert (row.images, row.before, row.held_out) == (1, 1, 1)
    assert done.detector.out_of_fold_.keys() == set(reviewed_images(store, "parts").images.ids)
    assert any("'Flagged if held out' counts" in sentence for sentence in done.sentences)


def test_without_the_training_images_only_a_random_sample_may_calibrate(run: Path, store: JudgedStore) -> None:
    detector = Detector.load(run)
    add(store, stripes(6, 7), Review("good"))
    add(store, pictures(20, 11), flagged=False)
    with pytest.raises(NotEnoughNormals, match=r"0 good images of it reviewed, alpha = 0\.1 needs 9") as refused:
        learn_reviews(detector, reviewed_images(store, "parts"))
    assert refused.value.missing == 9
    for number in store.sample(14, "parts", seed=0):
        store.review(number, Review("good"))
    reviewed = reviewed_images(store, "parts")
    done = learn_reviews(detector, reviewed)
    assert len(done.detector.pipeline_.calibration) == reviewed.sampled.sum() == 14  # type: ignore[arg-type]
    assert done.detector.about_["reviews"]["sampled"] == 14
    fitted_to = done.detector.pipeline_.fitted_to
    assert fitted_to is not None
    np.testing.assert_array_equal(np.isin(reviewed.images.digests(), fitted_to), ~reviewed.sampled)
    with pytest.raises(DataError, match="no good image that is new to the model"):
        learn_reviews(done.detector, reviewed)


def test_a_random_sample_joins_the_images_that_calibrate(run: Path, store: JudgedStore) -> None:
    add(store, pictures(12, 11), flagged=False)
    for number in store.sample(12, "parts", seed=0):
        store.review(number, Review("good"))
    done = learn_reviews(Detector.load(run), reviewed_images(store, "parts"), old=training_images(run))
    assert len(done.detector.pipeline_.calibration) == N + 12  # type: ignore[arg-type]
    assert [row.what for row in done.rows] == ["good, of the random sample"]


def test_a_draw_counts_once_all_of_it_is_reviewed(store: JudgedStore) -> None:
    chosen = add(store, pictures(3, 2), Review("good"))  # before the draw, as what was flagged is
    add(store, pictures(27, 1))
    draw = store.sample(12, "parts", seed=1)
    for number in draw[:11]:
        store.review(number, Review("good"))
        assert store.sampled("parts") == []
    store.review(draw[11], Review("unsure"))
    assert store.sampled("parts") == draw
    second = store.sample(99, "parts", seed=1)
    assert {*draw, *second} == set(range(1, 31))
    assert store.sampled("parts") == draw
    assert set(chosen) <= {*draw, *second}
    assert store.sample(5, "parts") == []


def test_the_sample_is_of_what_is_there_whole(tmp_path: Path) -> None:
    """Beyond `most` the oldest ones that nobody reviewed go: those that stay are there since they were reviewed."""
    with closing(JudgedStore(tmp_path, most=10)) as store:
        old = add(store, pictures(5, 1))
        store.review(old[1], Review("good"))
        late = add(store, pictures(9, 2))
        assert set(store.sample(99, "parts")) == set(late)


def test_a_judgement_that_comes_twice_hides_none_from_the_sample(store: JudgedStore) -> None:
    numbers = add(store, pictures(6, 1))
    given: dict[str, Any] = {"source": "api", "model": "parts", "scored_by": "m1", "suffix": ".png", "conditions": {}}
    row = {"id": "0.png", "anomaly_score": 1.0, "p_value": 0.02, "is_anomalous": True, "condition": "all"}
    again = Judgement(key="0", row={**row, "error": None}, picture=b"", size=(SIDE, SIDE), **given)
    assert store.add([again]) == numbers[:1]
    numbers += add(store, pictures(2, 2))
    assert sorted(store.sample(99, "parts")) == numbers


def test_a_picture_counts_once_by_its_latest_review(store: JudgedStore) -> None:
    image = pictures(1, 3)
    first = add(store, image, Review("good"))[0]
    add(store, image, Review("defect", regions=(SPOT,)))
    found = reviewed_images(store, "parts").images
    assert found.labels.tolist() == [1]
    assert found.mask(0)[SPOT[0] : SPOT[2], SPOT[1] : SPOT[3]].all()  # type: ignore[index]
    store.review(first, Review("good"))
    assert reviewed_images(store, "parts").images.labels.tolist() == [0]
    with closing(JudgedStore(store.folder / "empty")) as empty:
        add(empty, image)
        with pytest.raises(DataError, match="nothing that 'parts' judged was reviewed"):
            reviewed_images(empty, "line")


def test_good_images_of_unknown_conditions_are_left_out(store: JudgedStore) -> None:
    cameras = np.repeat(["A", "B"], 30)
    old = ImageSet.from_arrays(pictures(60, 0), np.zeros(60), {"camera": cameras})
    detector = Detector("hog", "memory_bank", alpha=ALPHA).fit(old)
    for seed, camera in enumerate(["A", "B", "C", None]):
        add(store, pictures(3, 20 + seed), Review("good"), conditions={"camera": camera} if camera else {})
    done = learn_reviews(detector, reviewed_images(store, "parts"), old=old)
    assert done.detector.about_["reviews"] | {"chosen": 6, "left_out": 6} == done.detector.about_["reviews"]
    assert done.detector.pipeline_.schema.columns[0].values == ("A", "B")
    assert len(done.detector.pipeline_.calibration) == 60  # type: ignore[arg-type]
    assert any("6 good images are left out" in sentence for sentence in done.sentences)
    assert "- 6 of these, chosen by their score, never calibrate" in done.detector.card_
    assert "from 6 reviewed images" in done.detector.card_


def test_a_model_calibrated_apart_needs_such_images_again(store: JudgedStore) -> None:
    old = ImageSet.from_arrays(pictures(40, 0))
    detector = Detector("hog", "memory_bank", alpha=ALPHA).fit(old).calibrate(pictures(20, 1))
    add(store, stripes(4, 2), Review("good"))
    reviewed = reviewed_images(store, "parts")
    with pytest.raises(NotEnoughNormals, match="calibrated on images that were given apart"):
        learn_reviews(detector, reviewed, old=old)
    done = learn_reviews(detector, reviewed, old=old, calibration_set=ImageSet.from_arrays(pictures(20, 1)))
    assert done.detector.pipeline_.calibrated_by == "set"
    assert len(done.detector.pipeline_.calibration) == 20  # type: ignore[arg-type]


def command(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def test_the_command_shows_what_would_come_of_it_writes_a_version_and_goes_back(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "parts"
    Detector.load(run).save(model / "model")
    (model / "command.json").write_text((run / "command.json").read_text())
    assert command("update", model, "--reviews") == 3
    assert "no judged images" in capsys.readouterr().err
    with closing(JudgedStore(tmp_path / "parts-judged")) as store:
        numbers = add(store, stripes(10, 7))
        with monkeypatch.context() as patched:
            patched.setattr("knowngood.cli.review_update.load", lambda *_: pytest.fail("the model is loaded"))
            assert command("update", model, "--reviews") == 3
        assert "nothing that 'parts' judged was reviewed" in capsys.readouterr().err
        for number in numbers:
            store.review(number, Review("good"))
    assert command("update", model, "--reviews", "--dry-run") == 0
    shown = capsys.readouterr()
    assert "false alarms: good, flagged  10" in shown.out
    assert "never calibrate" in shown.out
    assert "nothing was written" in shown.err
    assert [one.number for one in versions(model)] == [1]
    assert command("update", model, "--reviews", tmp_path / "parts-judged") == 0
    assert [one.what for one in versions(model)] == ["fit", "reviews"]
    capsys.readouterr()
    for more in ((), ("--dry-run",)):  # nobody reviewed anything since
        assert command("update", model, "--reviews", *more) == 0
        assert "has learned from all reviews" in capsys.readouterr().out
    assert command("update", model, "--reviews", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["version"], record["rows"]) == (2, [])
    assert len(versions(model)) == 2
    with closing(JudgedStore(tmp_path / "parts-judged")) as store:
        store.review(1, Review(None))  # what was learned from is taken back
    assert command("update", model, "--reviews") == 0
    assert re.search(r"good, not flagged +9 ", capsys.readouterr().out)
    assert command("update", model, "--reviews") == 0
    assert len(versions(model)) == 3
    assert command("rollback", model) == 0
    assert command("rollback", model) == 0
    assert [one.in_use for one in versions(model)] == [True, False, False]
    capsys.readouterr()
    assert command("update", model) == 2
    assert "--reviews" in capsys.readouterr().err


def test_conditions_of_reviews_are_read_as_those_of_the_fit(store: JudgedStore) -> None:
    gain = np.random.default_rng(0).uniform(0, 1, 60)
    old = ImageSet.from_arrays(pictures(60, 0), np.zeros(60), {"gain": gain, "lot": np.repeat([1, 2], 30)})
    roles = {"gain": ["model"], "lot": ["model"]}
    detector = Detector("hog", "memory_bank", alpha=ALPHA, conditioning={"roles": roles})
    detector.fit(old)
    texts = {"gain": "0.5", "lot": "2.0"}  # as `watch --as` has them
    add(store, pictures(3, 20), Review("good"), conditions=texts)
    done = learn_reviews(detector, reviewed_images(store, "parts"), old=old)
    assert done.detector.about_["reviews"]["chosen"] == 3
    assert [column.kind for column in done.detector.pipeline_.schema.columns] == ["continuous", "categorical"]
    assert done.detector.pipeline_.schema.columns[1].values == ("1", "2")


@pytest.mark.parametrize("at_hand", [True, False])
def test_added_groups_that_are_gone_are_said(store: JudgedStore, at_hand: bool) -> None:
    old = ImageSet.from_arrays(pictures(60, 0), np.zeros(60))
    detector = Detector("hog", "memory_bank", alpha=ALPHA).fit(old)
    detector.calibrate(ImageSet.from_arrays(pictures(40, 1)), as_group={"camera": "B"})
    add(store, pictures(12, 20), Review("good"))
    how: dict[str, Any] = {"old": old} if at_hand else {"calibration_set": ImageSet.from_arrays(pictures(60, 30))}
    done = learn_reviews(detector, reviewed_images(store, "parts"), **how)
    assert not done.detector.pipeline_.added
    assert sum("are gone" in sentence and "as_group={'camera': 'B'}" in sentence for sentence in done.sentences) == 1
