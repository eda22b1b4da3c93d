"""Figures of scores: the intersection of histograms, boxes and violins by class, curves of several models."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, roc_auc_score
from verdicts import verdicts

from figure_text import words
from knowngood.errors import DataError
from knowngood.evaluation.figures.separation import ScoreAxis, curves, score_histogram, scores_by_class

# Histogram ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "expected"), [(0.0, "100.0 %"), (0.5, "50.0 %"), (100.0, "0.0 %")])
def test_histogram_prints_the_intersection(shift, expected):
    scores = np.linspace(0, 1, 400, endpoint=False) + 1e-9
    figure = score_histogram(verdicts(np.r_[scores, scores + shift], np.repeat([0.0, 1.0], 400)), bins=30)
    assert f"intersection {expected}" in words(figure)


@pytest.mark.slow
def test_histogram_of_one_label_has_no_intersection():
    assert "intersection" not in words(score_histogram(verdicts(np.arange(9.0), np.zeros(9))))


# Box ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
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


@pytest.mark.slow
def test_far_scores_are_counted_beside_their_row_and_nan_excluded():
    scores = np.r_[np.linspace(0, 1, 500), 1e6, np.nan]
    figure = scores_by_class(verdicts(scores), np.full(502, "a"))
    assert figure.axes[0].get_xlim()[1] < 2
    assert "1 ▸" in words(figure)
    assert "a (n = 501)" in words(figure)
    with pytest.raises(DataError, match="none of the 1 scores"):
        scores_by_class(verdicts([np.nan]), np.array(["a"]))


@pytest.mark.slow
def test_a_violin_is_widest_where_scores_are_and_takes_equal_and_far_ones():
    scores = np.r_[np.random.default_rng(0).normal(3, 0.5, 300), 4.0, 4.0, 1e6]
    groups = np.array(["a"] * 300 + ["b"] * 2 + ["a"])
    figure = scores_by_class(verdicts(scores), groups, violins=True)
    (body,) = figure.axes[0].collections
    outline = body.get_paths()[0].vertices
    assert outline[np.abs(outline[:, 1]).argmax(), 0] == pytest.approx(3, abs=0.3)
    assert {"b (n = 2)", "a (n = 301)", "1 ▸"} <= set(words(figure).split("\n"))
    assert any(list(line.get_xdata()) == [4, 4] for line in figure.axes[0].lines)


# Curves -------------------------------------------------------------------------------------------------------------


def test_areas_under_the_curves_are_auroc_and_average_precision():
    labels = np.array([0, 1, 0, 1, np.nan, 1, 0, 0])
    scores = {"good": labels + 0.0, "fair": np.array([1, 2, 3, 3, np.nan, 4, 0, 2.0])}
    scores["good"][4] = 9
    figure = curves(labels, scores)
    left, right = figure.axes
    known = ~np.isnan(labels)
    for name, values in scores.items():
        auc = roc_auc_score(labels[known], values[known])
        ap = average_precision_score(labels[known], values[known])
        roc_line = next(line for line in left.lines if line.get_label() == f"{name}: AUROC {auc:.3f}")
        assert np.trapezoid(roc_line.get_ydata(), roc_line.get_xdata()) == pytest.approx(1e4 * auc)
        steps = next(line for line in right.lines if line.get_label() == f"{name}: AP {ap:.3f}")
        x, y = steps.get_xdata(), steps.get_ydata()
        assert (-np.diff(x) * y[:-1]).sum() == pytest.approx(1e4 * ap)
    assert right.lines[0].get_ydata()[0] == pytest.approx(100 * 3 / 7)
    with pytest.raises(DataError, match="0 anomalous"):
        curves(np.zeros(3), {"one": np.arange(3.0)})


@pytest.mark.slow
def test_no_image_hides_within_a_whisker_and_shares_end_at_100() -> None:
    scores = np.r_[np.zeros(40), 1.0, 10 * np.ones(9)]
    groups = np.repeat(["good", "dent"], [40, 10])
    figure = scores_by_class(verdicts(scores, np.repeat([0.0, 1.0], [40, 10])), groups)
    drawn = [line.get_xdata() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert len(drawn) == 1  # of the class of 10, not of that of 40
    assert sorted(drawn[0]) == [1.0, *[10.0] * 9]
    assert score_histogram(verdicts(np.r_[scores, scores])).axes[0].get_ylim()[1] <= 1.02


@pytest.mark.filterwarnings("error")
def test_scores_of_one_value_have_an_axis_however_large() -> None:
    axis = ScoreAxis.of(np.full(3, 1e30), [np.ones(3, bool)], np.zeros(0))
    axes = Figure().add_subplot()
    axis.apply(axes)
    low, high = axes.get_xlim()
    assert low < 1e30 < high
