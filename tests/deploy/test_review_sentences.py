"""What is said of an update by reviews agrees with its numbers."""

from __future__ import annotations

import numpy as np
import pytest

from knowngood import Detector
from knowngood.deploy.review_update import sentences_of


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
