"""Protocols on stand-ins, and their counts on the real data: above all that nothing is chosen by a test image."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import protocols, runner
from benchmarks.picks import Pick, patient
from benchmarks.protocols import Cell, resolve
from knowngood.errors import DataError, SettingsError
from protocol_cells import PROTOCOLS, SIZE, cells_of, contents, parts_of, ten_classes, x_rays


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_dev_cell_holds_a_test_image(protocol: str) -> None:
    images, cells = cells_of(protocol, "test")
    tested = [resolve(cell, images).test for cell in cells]
    ids = {name for part in tested for name in part.ids}
    pixels = set.union(*map(contents, tested))
    assert len(pixels) == len(ids)
    for cell in cells_of(protocol, "dev")[1]:
        for part in parts_of(cell, images):
            assert not ids & set(part.ids)
            assert not pixels & contents(part)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_test_image_trains_or_calibrates_in_its_cell(protocol: str) -> None:
    images, cells = cells_of(protocol, "test")
    for cell in cells:
        train, test, *calibrate = parts_of(cell, images)
        for part in (train, *calibrate):
            assert not set(test.ids) & set(part.ids)
            assert not contents(test) & contents(part)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_dev_cells_take_training_images_only(protocol: str) -> None:
    images, cells = cells_of(protocol, "dev")
    assert images.splits is not None
    training = set(images.ids[images.splits == "train"])
    assert all(set(part.ids) <= training for cell in cells for part in parts_of(cell, images))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["test", "dev"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_parts_are_disjoint_labelled_and_in_file_order(protocol: str, form: str) -> None:
    images, cells = cells_of(protocol, form)
    position = {name: i for i, name in enumerate(images.ids)}
    for cell in cells:
        found = resolve(cell, images)
        ids = [set(part.ids) for part in parts_of(cell, images)]
        assert sum(map(len, ids)) == len(set.union(*ids))
        assert set(found.train.labels) == ({0, 1} if cell.labelled else {0})
        assert set(found.test.labels) == {0, 1}
        assert not found.test.conditions
        assert list(found.train.conditions) == list(cell.conditions)
        assert len(found.test_classes) == len(found.test)
        for part in parts_of(cell, images):
            assert part.splits is None
            assert np.all(np.diff([position[name] for name in part.ids]) > 0)


def test_one_vs_rest_tests_everything_and_dev_keeps_a_fifth() -> None:
    images = ten_classes()
    kind, split = images.conditions["class"], images.splits
    found = resolve(protocols.one_vs_rest("stand-in", ["4"])[0], images)
    assert list(found.train.ids) == list(images.ids[(kind == "4") & (split == "train")])
    assert list(found.test.ids) == list(images.ids[split == "test"])
    assert np.array_equal(found.test.labels, (kind[split == "test"] != "4").astype(float))
    assert list(found.test_classes) == list(kind[split == "test"])

    dev = resolve(protocols.one_vs_rest("stand-in", ["4"], form="dev")[0], images)
    mine, rest = (images.ids[(split == "train") & ((kind == "4") == wanted)] for wanted in (True, False))
    assert sorted([*dev.train.ids, *dev.test.ids[dev.test.labels == 0]]) == sorted(mine)
    assert list(dev.test.ids[dev.test.labels == 0]) == list(mine[4::5])
    assert list(dev.test.ids[dev.test.labels == 1]) == list(rest[4::5])


def test_leave_one_out_gives_the_class_in_training_only() -> None:
    images = ten_classes()
    kinds = dict(zip(images.ids, images.conditions["class"], strict=True))
    found = resolve(protocols.leave_one_out("stand-in", ["9"])[0], images)
    assert set(found.train.conditions["class"]) == set("012345678")
    assert [kinds[name] for name in found.train.ids] == found.train.conditions["class"].tolist()
    assert [kinds[name] == "9" for name in found.test.ids] == (found.test.labels == 1).tolist()


def test_leave_one_out_dev_never_sees_the_class_held_out() -> None:
    images = ten_classes()
    kinds = dict(zip(images.ids, images.conditions["class"], strict=True))
    cell = protocols.leave_one_out("stand-in", ["9"], form="dev")[0]
    assert (cell.anomalous, cell.normal) == ("0", "not 9, 0")
    found = resolve(cell, images)
    assert {kinds[name] for name in found.train.ids} == set("12345678")
    assert {kinds[name] for name in found.test.ids} == set("012345678")
    assert {kinds[name] for name in found.test.ids[found.test.labels == 1]} == {"0"}


@pytest.mark.parametrize("form", ["test", "dev"])
def test_lineage_counts_and_order(form: Any) -> None:
    images = ten_classes()
    train = images.split("train")
    mine, rest = (train.ids[(train.conditions["class"] == "3") == wanted] for wanted in (True, False))
    found = resolve(protocols.lineage("stand-in", "3", form=form, size=SIZE)[0], images)
    later = SIZE * (form == "dev")
    assert found.calibrate is not None
    assert list(found.train.ids) == list(mine[:SIZE])
    assert list(found.test.ids[found.test.labels == 0]) == list(mine[SIZE + later : 2 * SIZE + later])
    assert list(found.test.ids[found.test.labels == 1]) == list(rest[later : SIZE + later])
    assert list(found.calibrate.ids) == list(mine[2 * SIZE + later :])


def test_a_data_set_too_small_for_a_protocol_is_refused() -> None:
    with pytest.raises(DataError, match=r"needs 1,000 images of class 3; there are \d+$"):
        resolve(protocols.lineage("stand-in", "3")[0], ten_classes())


def test_a_size_takes_the_first_images_if_there_are_more() -> None:
    images = ten_classes()
    full = resolve(protocols.leave_one_out("stand-in", ["1"])[0], images)
    some = resolve(protocols.leave_one_out("stand-in", ["1"], train_size=50, test_size=7)[0], images)
    assert list(some.train.ids) == list(full.train.ids[:50])
    for label in (0, 1):
        assert list(some.test.ids[some.test.labels == label]) == list(full.test.ids[full.test.labels == label][:7])
    assert len(resolve(protocols.leave_one_out("stand-in", ["1"], train_size=10**6)[0], images).train) == len(
        full.train
    )


def test_x_ray_dev_form_keeps_patients_together() -> None:
    images = x_rays()
    found = resolve(protocols.pneumonia("chest-xray-224", form="dev")[0], images)
    learnt, judged = ({patient(name) for name in part.ids} for part in (found.train, found.test))
    assert not learnt & judged
    normal = [name for name in judged if name.startswith("IM")]
    assert len(normal) == 5
    assert len(learnt) == 20


@pytest.mark.parametrize(
    ("name", "who"),
    [
        ("train/PNEUMONIA/person12_virus_3.jpeg", "person12_virus"),
        ("train/NORMAL/IM-0115-0001.jpeg", "IM-0115"),
        ("test/NORMAL/IM-0011-0001-0002.jpeg", "IM-0011"),
        ("train/NORMAL/NORMAL2-IM-0516-0001.jpeg", "NORMAL2-IM-0516"),
        ("a/other.png", "other"),
    ],
)
def test_patient(name: str, who: str) -> None:
    assert patient(name) == who


def test_what_makes_no_test_is_refused() -> None:
    images = ten_classes()
    good, bad = Pick(("1",), 0, split="test"), Pick(("2",), 1, split="test")
    cell = partial(Cell, "made up", "test", "stand-in", 0, "1", "2")
    with pytest.raises(DataError, match="are in two parts"):
        resolve(cell(train=(good,), test=(good, bad)), images)
    with pytest.raises(DataError, match="are in two parts"):
        resolve(cell(train=(Pick(("1",), 0, split="train"),), test=(good, bad), calibrate=(good,)), images)
    with pytest.raises(DataError, match="needs good and anomalous"):
        resolve(cell(train=(good,), test=(bad,)), images)
    with pytest.raises(DataError, match="no image to train"):
        resolve(cell(train=(Pick(("x",), 0),), test=(good, bad)), images)
    with pytest.raises(DataError, match="no image to calibrate"):
        resolve(cell(train=(Pick(("3",), 0),), test=(good, bad), calibrate=(Pick(("x",), 0),)), images)
    with pytest.raises(DataError, match="no split 'val'"):
        resolve(cell(train=(Pick(("1",), 0, split="val"),), test=(good, bad)), images)
    with pytest.raises(DataError, match="no column 'class'"):
        resolve(cell(train=(good,), test=(bad,)), images.replace(conditions={}))
    with pytest.raises(SettingsError, match="did you mean 'test'"):
        protocols.one_vs_rest("mnist", form="tests")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="no class 'z'"):
        protocols.leave_one_out("mnist", ["z"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cells_are_plain_data(protocol: str) -> None:
    for cell in cells_of(protocol, "dev")[1]:
        assert json.loads(json.dumps(cell.to_record()))["train"][0]["label"] == 0


REAL = {  # data set, form: train, good and anomalous in the test, calibrate
    ("lineage", "mnist", "test"): (1000, 1000, 1000, 4742),
    ("lineage", "mnist", "dev"): (1000, 1000, 1000, 3742),
    ("lineage", "fashion-mnist", "test"): (1000, 1000, 1000, 4000),
    ("lineage", "fashion-mnist", "dev"): (1000, 1000, 1000, 3000),
    ("one-vs-rest", "mnist", "test"): (6742, 1135, 8865, 0),
    ("one-vs-rest", "kmnist", "test"): (499, 501, 4499, 0),
    ("leave-one-out", "mnist", "test"): (53258, 8865, 1135, 0),
    ("pneumonia", "pneumoniamnist", "test"): (1214, 234, 390, 0),
    ("pneumonia", "chest-xray-224", "test"): (1341, 234, 390, 0),
}


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("protocol", "dataset", "form"), REAL)
def test_counts_on_real_data(protocol: str, dataset: str, form: Any, data_root: Path) -> None:
    make: dict[str, Any] = {
        "lineage": protocols.lineage,
        "one-vs-rest": partial(protocols.one_vs_rest, normal=["1"]),
        "leave-one-out": partial(protocols.leave_one_out, held_out=["1"]),
        "pneumonia": protocols.pneumonia,
    }
    found = resolve(make[protocol](dataset, form=form)[0], runner.open_whole(dataset, download=False))
    counts = (
        len(found.train),
        int((found.test.labels == 0).sum()),
        int((found.test.labels == 1).sum()),
        0 if found.calibrate is None else len(found.calibrate),
    )
    assert counts == REAL[protocol, dataset, form]


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("dataset", ["pneumoniamnist", "chest-xray-224"])
def test_x_ray_dev_form_on_real_data(dataset: str, data_root: Path) -> None:
    images = runner.open_whole(dataset, download=False)
    dev = resolve(protocols.pneumonia(dataset, form="dev")[0], images)
    test = resolve(protocols.pneumonia(dataset)[0], images)
    assert set(dev.train.ids) | set(dev.test.ids[dev.test.labels == 0]) == set(test.train.ids)
    assert not set(test.test.ids) & {*dev.train.ids, *dev.test.ids}
    assert 0.15 < (dev.test.labels == 0).sum() / len(test.train) < 0.25
