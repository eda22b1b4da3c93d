"""Figures of scores: the intersection of histograms, boxes by class."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from verdicts import verdicts

from figure_text import words
from knowngood.errors import DataError
from knowngood.evaluation.figures.separation import score_histogram, scores_by_class

# Histogram ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "expected"), [(0.0, "100.0 %"), (0.5, "50.0 %"), (100.0, "0.0 %")])
def test_histogram_prints_the_intersection(shift, expected):
    scores = np.linspace(0, 1, 400, endpoint=False) + 1e-9
    figure = score_histogram(verdicts(np.r_[scores, scores + shift], np.repeat([0.0, 1.0], 400)), bins=30)
    assert f"intersection {expected}" in words(figure)


def test_histogram_of_one_label_has_no_intersection():
    assert "intersection" not in words(score_histogram(verdicts(np.arange(9.0), np.zeros(9))))


# Box ---------------------------------------------------------------------------------------------------------------


def test_box_goes_from_quartile_to_quartile():
    scores = np.r_[np.arange(101.0), np.arange(101.0) + 50]
    groups = np.repeat(["a", "b"], 101)
    scored = verdicts(scores, np.repeat([0.0, 1.0], 101), threshold=90.0, score_unit="nats")
    figure = scores_by_class(scored, groups)
    axes = figure.axes[0]
    boxes = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert boxes == [pytest.approx((25, 75)), pytest.approx((75, 125))]
    lines = [line.get_xdata() for line in axes.lines]
    assert any(list(x) == pytest.approx([5, 95]) for x in lines)  # whiskers
    assert any(list(x) == pytest.approx([50, 50]) for x in lines)  # median
    text = words(figure)
    for part in ("a (n = 101)", "b (n = 101)", "normal", "anomalous", "threshold 90", "(nats)", "whiskers 5 % to 95 %"):
        assert part in text


@pytest.mark.slow
def test_normal_classes_come_first_and_62_of_them_stay_apart():
    rng = np.random.default_rng(0)
    names = [f"k{i}" for i in range(62)]
    groups = np.repeat(names, 8)[::-1]
    labels = (groups == "k0").astype(float)
    figure = scores_by_class(verdicts(rng.normal(size=496), labels), groups)
    ticks = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert ticks == [f"{name} (n = 8)" for name in [*names[1:], "k0"]]
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in figure.axes[0].get_yticklabels()]
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(boxes))


def test_far_scores_are_counted_beside_their_row_and_nan_excluded():
    scores = np.r_[np.linspace(0, 1, 500), 1e6, np.nan]
    figure = scores_by_class(verdicts(scores), np.full(502, "a"))
    assert figure.axes[0].get_xlim()[1] < 2
    assert "1 ▸" in words(figure)
    assert "a (n = 501)" in words(figure)
    with pytest.raises(DataError, match="none of the 1 scores"):
        scores_by_class(verdicts([np.nan]), np.array(["a"]))
