from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

from knowngood.config.words import as_command
from knowngood.data import ImageSet
from knowngood.data.labels import parse_labels
from knowngood.data.select import parse_classes, select
from knowngood.errors import DataError


def of_classes(values):
    return ImageSet.from_arrays(np.zeros((len(values), 2, 2), np.uint8), conditions={"class": values})


def chosen(images):
    return dict(zip(images.ids.tolist(), images.labels.tolist(), strict=True))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"normal": "1"}, {"0": 1, "1": 0, "2": 1, "3": 1, "4": 1}),
        ({"normal": 1}, {"0": 1, "1": 0, "2": 1, "3": 1, "4": 1}),
        ({"normal": "0-2"}, {"0": 0, "1": 0, "2": 0, "3": 1, "4": 1}),
        ({"normal": "0, 2-3", "anomalous": "10"}, {"0": 0, "2": 0, "3": 0, "4": 1}),
        ({"anomalous": "10"}, {"0": 0, "1": 0, "2": 0, "3": 0, "4": 1}),
        ({"holdout": "3"}, {"0": 0, "1": 0, "2": 0, "3": 1, "4": 0}),
    ],
)
def test_classes_become_labels(options, expected):
    images = of_classes(["0", "1", "2", "3", "10"])
    found = select(images, **options)
    assert chosen(found) == expected
    assert found.conditions["class"].tolist() == images.conditions["class"][found.ids.astype(int)].tolist()


def test_nothing_asked_changes_nothing():
    images = of_classes(["a"])
    assert select(images) is images


def test_class_words_integers_and_unknown_classes():
    images = of_classes(np.array(["NORMAL", "PNEUMONIA", None], dtype=object))
    assert chosen(select(images, normal="NORMAL")) == {"0": 0, "1": 1}
    assert chosen(select(of_classes(np.array([5, 7])), normal=5)) == {"0": 0, "1": 1}
    assert chosen(select(of_classes(["T-shirt, top", "Bag"]), normal="T-shirt, top")) == {"0": 0, "1": 1}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"normal": "11"}, r"no class '11'.*known: 0, 1, 10"),
        ({"normal": "0-3"}, "no class '2'"),
        ({"normal": "1-0"}, "no class '1-0'"),
        ({"normal": "0,1", "anomalous": "1"}, "class 1 is given both"),
        ({"holdout": "1", "normal": "0"}, "either holdout"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, said):
    with pytest.raises(DataError, match=said):
        select(of_classes(["0", "1", "10"]), **options)


def test_a_set_without_classes_is_refused():
    images = ImageSet.from_arrays(np.zeros((1, 2, 2), np.uint8), conditions={"camera": ["A"]})
    with pytest.raises(DataError, match=r"no column 'class'.*camera"):
        select(images, normal="1")


def test_a_range_beyond_the_classes_is_refused_at_once():
    with pytest.raises(DataError, match="no class '3'"):
        parse_classes("0-999999999999", ["0", "1", "2"], "digits")
    with pytest.raises(DataError, match="no class '²-³'"):
        parse_classes("²-³", ["0"], "digits")


def test_a_class_in_the_place_of_a_label_names_the_option_that_chooses_classes() -> None:
    for caller, way_out in ((nullcontext, "anomalies=... says which are"), (as_command, "--normal CLASSES")):
        with caller(), pytest.raises(DataError, match=rf"label 'pneumonia' of 'a\.png' is not known.*{way_out}"):
            parse_labels(np.array(["pneumonia"]), np.array(["a.png"]))
