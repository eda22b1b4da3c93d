"""What is said of an update by reviews agrees with its numbers."""

from __future__ import annotations

import numpy as np
import pytest

from knowngood import Detector
from knowngood.deploy.review_update import Row, sentences_of, unchanged


@pytest.mark.filterwarnings("ignore")
def test_one_image_is_one_and_none_is_not_mentioned() -> None:
    detector = Detector("table", "memory_bank", alpha=0.1).fit(np.random.default_rng(0).normal(size=(30, 3)))
    one = sentences_of(detector, detector, {"chosen": 1, "sampled": 1, "left_out": 1, "defects": 0})
    assert one[0].startswith("1 good image was reviewed by choice: it joins the fit and never calibrates")
    assert one[1:3] == [
        "1 good image of the random sample calibrates.",
        "1 good image is left out, with a condition that is unknown or new.",
    ]
    none = sentences_of(detector, detector, {"chosen": 0, "sampled": 0, "left_out": 0, "defects": 0})
    assert not any("good image" in sentence for sentence in none)


def test_marks_that_changed_nothing_are_said_with_what_to_do() -> None:
    alarms, missed, good = "false alarms: good, flagged", "missed: defects, not flagged", "good, not flagged"
    assert unchanged([Row(alarms, 2, 2, 0, 1), Row(missed, 3, 0, 3, 1), Row(good, 4, 0, 1, None)]) == []
    still, not_yet = unchanged([Row(alarms, 2, 2, 2, 2), Row(missed, 3, 0, 2, 1)])
    assert still.startswith("2 of 2 marked false alarms are flagged still")
    assert "`knowngood calibrate MODEL DATA`" in still
    assert not_yet.startswith("1 of 3 missed defects is not flagged yet")
    assert unchanged([Row(alarms, 1, 1, 1, None)])[0].startswith("1 of 1 marked false alarm is flagged still")
