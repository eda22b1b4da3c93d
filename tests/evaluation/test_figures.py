from __future__ import annotations

import base64
import io
import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image
from stand_in import stand_in
from verdicts import verdicts

from knowngood.errors import DataError
from knowngood.evaluation.conditions import ConditionRow
from knowngood.evaluation.figures import losses, style
from knowngood.evaluation.figures.decoded import samples
from knowngood.evaluation.figures.false_alarms import calibration, false_alarm_rates
from knowngood.evaluation.figures.pixels import value_range
from knowngood.evaluation.figures.separation import roc, score_histogram, scores_by_class
from knowngood.evaluation.figures.triptych import (
    describe_difference,
    difference,
    difference_limit,
    panels,
    side_by_side,
    triptychs,
)
from knowngood.metrics import roc_auc


def texts(figure: Figure) -> str:
    """Everything a reader can read in the figure."""
    found = []
    for axes in figure.axes:
        found += [axes.get_title(loc="left"), axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        found += [str(text) for text in axes.get_legend_handles_labels()[1]]
    return "\n".join(found)


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.r_[np.zeros(80), np.ones(40), np.full(10, np.nan)]
    return labels, rng.normal(np.nan_to_num(labels), 1.0)


# ROC ----------------------------------------------------------------------------------------------------------------


def test_roc_states_the_area_of_the_known_labels_and_marks_the_verdicts(scored):
    labels, scores = scored
    flagged = scores > 1.0
    figure = roc(verdicts(scores, labels, threshold=1.0), interval=(0.5, 0.9))
    assert f"AUROC {roc_auc(labels, scores):.3f} (0.500–0.900)" in texts(figure)
    marker = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
    expected = 100 * flagged[labels == 0].mean(), 100 * flagged[labels == 1].mean()
    assert (marker.get_xdata()[0], marker.get_ydata()[0]) == pytest.approx(expected)
    assert "(%)" in figure.axes[0].get_xlabel()
    assert "(%)" in figure.axes[0].get_ylabel()


def test_roc_verdicts_of_a_single_threshold_lie_on_the_curve(scored):
    labels, scores = scored
    figure = roc(verdicts(scores, labels, threshold=0.7))
    lines = figure.axes[0].lines
    curve = next(line for line in lines if line.get_label().startswith("AUROC"))
    point = next(line for line in lines if line.get_marker() == "o").get_xydata()[0]
    assert np.abs(curve.get_xydata() - point).sum(1).min() < 1e-9


def test_roc_refuses_labels_of_one_kind():
    with pytest.raises(DataError, match="0 anomalous"):
        roc(verdicts([1.0, 2.0, 3.0], [0.0, 0.0, np.nan]))


def test_roc_marks_no_verdicts_where_the_rate_cannot_be_guaranteed(scored):
    few = {"strata": [{"name": "all", "n": 18}]}
    figure = roc(verdicts(scored[1], scored[0], calibration=few))
    assert "verdicts" not in texts(figure)


# Colours ------------------------------------------------------------------------------------------------------------


def lab(colour: str) -> np.ndarray:
    """CIELAB coordinates (D65) of a colour."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = np.cbrt(to_xyz @ linear / [0.9505, 1, 1.089])
    return np.array([116 * t[1] - 16, 500 * (t[0] - t[1]), 200 * (t[1] - t[2])])


def test_ten_groups_have_ten_colours_far_from_each_other_and_from_anomalies():
    colours = [*style.CYCLE, style.ANOMALOUS]
    assert len(style.CYCLE) == 10
    points = np.array([lab(colour) for colour in colours])
    apart = np.linalg.norm(points[:, None] - points, axis=-1)[np.triu_indices(11, 1)]
    assert apart.min() > 25
    assert np.linalg.norm(points - lab("#ffffff"), axis=1).min() > 25


# Histogram ----------------------------------------------------------------------------------------------------------


def test_histogram_groups_share_their_bins_and_each_sums_to_one(scored):
    labels, scores = scored
    names = {"normal_name": "good", "anomalous_name": "bad", "score_unit": "nats"}
    figure = score_histogram(verdicts(scores, labels, **names))
    steps = [patch.get_data() for patch in figure.axes[0].patches if hasattr(patch, "get_data")]
    assert len(steps) == 6  # fill and outline of three groups
    for values, edges, _ in steps:
        assert np.array_equal(edges, steps[0][1])
        assert values.sum() == pytest.approx(1)
    shown = texts(figure)
    for part in ("good (n = 80)", "bad (n = 40)", "not labelled (n = 10)", "(nats)"):
        assert part in shown


@pytest.mark.slow
def test_histogram_draws_one_threshold_as_a_line_several_as_a_band_infinite_not_at_all(scored):
    labels, scores = scored
    assert "threshold 1.5" in texts(score_histogram(verdicts(scores, labels, threshold=1.5)))
    assert "threshold" not in texts(score_histogram(verdicts(scores, labels, threshold=np.inf)))
    strata = [{"name": "all", "n": 99, "threshold": 50.0}, {"name": "other", "n": 99, "threshold": 60.0}]
    scored = verdicts(scores, labels, calibration={"strata": strata})
    scored.table["condition"] = np.where(np.arange(len(scores)) % 2, "all", "other")
    assert "2 thresholds, 50 to 60" in texts(score_histogram(scored))


def far_apart() -> tuple[np.ndarray, np.ndarray]:
    """900 normal scores within some 50 of −900, 600 anomalous ones up to tens of thousands above; their labels."""
    rng = np.random.default_rng(0)
    return np.r_[rng.normal(-900, 8, 900), rng.lognormal(7, 1.5, 600) - 900], np.repeat([0.0, 1.0], [900, 600])


def test_histogram_gives_the_bulk_its_bins_where_anomalies_lie_far_away():
    scores, labels = far_apart()
    figure = score_histogram(verdicts(scores, labels, threshold=-880.0))
    axes = figure.axes[0]
    drawn = [patch.get_data() for patch in axes.patches if hasattr(patch, "get_data")]
    assert max(values.max() for values, *_ in drawn) < 0.2
    _, edges, _ = drawn[0]
    assert (edges[0], edges[-1]) == (scores.min(), scores.max())
    assert ((edges > scores[labels == 0].min()) & (edges < scores[labels == 0].max())).sum() >= 8
    places = axes.transData.transform(np.c_[edges, np.zeros_like(edges)])[:, 0]
    assert np.diff(places) == pytest.approx(np.diff(places).mean())  # bins are equally wide on paper
    assert "logarithmic far from it" in texts(figure)
    ticks = axes.get_xticks()
    assert len(ticks) >= 4
    assert [float(text.get_text().replace("−", "-")) for text in axes.get_xticklabels()] == pytest.approx(ticks)
    boxes = scores_by_class(verdicts(scores, labels), np.where(labels == 1, "b", "a"))
    assert "logarithmic far from it" in texts(boxes)
    assert "▸" not in boxes.axes[0].get_xlabel()


def test_histogram_stays_linear_where_the_bulk_is_wide(scored):
    figure = score_histogram(verdicts(scored[1], scored[0], threshold=1.5))
    edges = next(patch.get_data() for patch in figure.axes[0].patches if hasattr(patch, "get_data"))[1]
    assert np.diff(edges) == pytest.approx(np.diff(edges)[0])
    assert figure.axes[0].get_xscale() == "linear"
    assert "logarithmic" not in texts(figure)


def test_histogram_of_one_score_for_all_images_is_drawn():
    assert "logarithmic" not in texts(score_histogram(verdicts(np.full(60, 3.0))))


def test_histogram_counts_far_scores_into_the_last_bin_and_says_so():
    scores = np.r_[np.linspace(0, 1, 999), 1e9]
    figure = score_histogram(verdicts(scores, threshold=1.2))
    values, edges, _ = next(p for p in figure.axes[0].patches if hasattr(p, "get_data")).get_data()
    assert edges[-1] < 2
    assert values.sum() == pytest.approx(1)
    assert "1 beyond the right edge" in texts(figure)


@pytest.mark.parametrize("scores", [np.full(5, 3.0), np.array([2.0])])
def test_histogram_of_equal_scores_has_a_width(scores):
    left, right = score_histogram(verdicts(scores)).axes[0].get_xlim()
    assert left < scores[0] < right


def test_histogram_excludes_scores_that_are_not_finite():
    assert "2 not finite, excluded" in texts(score_histogram(verdicts([1.0, np.nan, np.inf, 2.0])))
    with pytest.raises(DataError, match="none of the 2 scores"):
        score_histogram(verdicts([np.nan, np.inf]))


# Calibration --------------------------------------------------------------------------------------------------------


def test_calibration_curve_is_the_share_of_p_values_at_or_below_the_rate():
    figure = calibration(verdicts(np.ones(5), np.zeros(5), p=[0.1, 0.4, 0.4, np.nan, 1.0]), ([], []))
    curve = next(line for line in figure.axes[0].lines if "normal images" in line.get_label())
    x, y = curve.get_xydata().T
    for rate, share in [(9.9, 0), (10, 25), (39, 25), (40, 75), (99, 75), (100, 100)]:
        assert y[np.searchsorted(x, rate, side="right") - 1] == pytest.approx(share)
    assert "requested: 5 %" in texts(figure)


def row(name: str, alarms: int, normals: int, expected: tuple[int, int] | None = None) -> ConditionRow:
    counts = {"images": normals, "flagged": alarms, "normals": normals, "false_alarms": alarms}
    rest = {"anomalies": 0, "detected": 0, "calibrated": None, "own": None, "threshold": None, "inferred": False}
    return ConditionRow(name=name, expected=expected, **counts, **rest)


def test_rates_by_condition_draw_the_largest_conditions_only_and_say_so():
    figure = false_alarm_rates([row(f"class={i}", 0, i + 1, (0, 2)) for i in range(62)], alpha=0.05, most=20)
    ticks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert ticks == [f"class={i} (n = {i + 1})" for i in range(42, 62)]
    assert "20 conditions with most normals, of 62" in texts(figure)


def test_rates_by_condition_place_the_dot_at_the_realised_rate():
    figure = false_alarm_rates([row("a", 3, 30, (0, 4)), row("b", 0, 10), row("none", 0, 0)], alpha=0.1)
    dots = next(line for line in figure.axes[0].lines if line.get_label() == "realised").get_xydata()
    assert dots.tolist() == [[10.0, 1.0], [0.0, 0.0]]


# Loss curves --------------------------------------------------------------------------------------------------------


def test_loss_curves_have_one_panel_a_quantity_and_one_line_a_split():
    rows = [
        {"step": s, "epoch": 0, "split": split, "loss/model": 5 - s, "kl": s, "images_per_s": 1e4}
        for s in range(3)
        for split in ("train", "held_out")
    ]
    figure = losses.loss_curves([*rows, {"step": 3, "split": "train", "kl": float("nan")}], best_step=2)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "KL"]
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert lines["held out"] == [[0, 5], [1, 4], [2, 3]]
    assert "kept: step 2" in lines
    assert len(figure.axes[1].lines[0].get_xdata()) == 3


def test_loss_curves_are_framed_by_what_follows_the_first_steps():
    rows = [{"step": s, "split": "train", "loss/model": 1e6 if s == 1 else 100.0 / s} for s in range(1, 101)]
    low, high = losses.loss_curves(rows).axes[0].get_ylim()
    assert low < 1
    assert 100 / 7 < high < 30


def test_loss_curves_refuse_a_history_without_numbers():
    with pytest.raises(DataError, match="no finite value in the 1 rows"):
        losses.loss_curves([{"step": 1, "split": "train", "loss/model": float("nan")}])


# Triptychs ----------------------------------------------------------------------------------------------------------


def test_difference_is_signed_for_one_channel_and_a_magnitude_for_several():
    x, y = np.full((2, 2, 1), 0.25), np.full((2, 2, 1), 0.75)
    assert difference(x, y) == pytest.approx(np.full((2, 2), -0.5))
    assert difference(x[..., 0], y) == pytest.approx(np.full((2, 2), -0.5))
    colour = np.stack([np.zeros((2, 2)), np.full((2, 2), 0.3), np.full((2, 2), 0.4), np.zeros((2, 2))], -1)
    assert difference(colour, np.zeros_like(colour)) == pytest.approx(np.full((2, 2), 0.25))


def test_panels_show_equal_values_alike_and_no_difference_as_white():
    image = np.linspace(0, 1, 12).reshape(3, 4)
    left, middle, right = panels(image, image, limits=(0, 1), full=0.5)
    assert np.array_equal(left, middle)
    assert left[..., 0].min() == 0
    assert left[..., 0].max() == 255
    assert (right == 255).all()


def test_panels_colour_brighter_orange_and_darker_blue():
    *_, delta = panels(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]), limits=(0, 1), full=2.0)
    darker, brighter = delta[0].astype(int)
    assert darker[2] > darker[0]
    assert brighter[0] > brighter[2]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_any_channel_count_and_value_range_gives_a_picture(channels, dtype):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, (9, 5, channels)).astype(dtype)
    limits = value_range([image])
    assert limits == (0, image.max())
    picture = side_by_side(
        panels(image, np.zeros(image.shape), limits=limits, full=difference_limit([(image, image * 0.0)]))
    )
    assert picture.mode == "RGBA"
    left = np.asarray(picture)[:, : (picture.width - 8) // 3, :3]
    assert int(left.max()) - int(left.min()) > 60
    if channels in (1, 3):
        assert left.max() == 255


def test_value_range_knows_unit_signed_and_constant_images():
    assert value_range([np.array([[0.2, 1.005]])]) == (0, 1)
    assert value_range([np.array([[-1.0, 1.0]])]) == (-1, 1)
    assert value_range([np.array([[np.nan, 300.0]])]) == (0, 300)
    assert value_range([np.zeros((2, 2))]) == (0, 1)


def test_side_by_side_enlarges_tiny_images_by_whole_squares_and_reduces_large_ones():
    image = np.random.default_rng(0).random((8, 8))
    enlarged = side_by_side(panels(image, image, limits=(0, 1), full=1))
    assert enlarged.size == (3 * 96 + 2 * 4, 96)
    block = np.asarray(enlarged)[:12, :12]
    assert (block == block[0, 0]).all()
    assert np.asarray(enlarged)[0, 96, 3] == 0  # the gap is transparent
    wide = np.zeros((100, 400))
    assert side_by_side(panels(wide, wide, limits=(0, 1), full=1)).size == (3 * 160 + 8, 40)


def test_pixels_that_are_not_finite_are_drawn_as_nothing():
    image = np.array([[np.nan, 1.0]])
    left, _, delta = panels(image, np.zeros((1, 2)), limits=(0, 1), full=1)
    assert left[0, 0].tolist() == [0, 0, 0]
    assert (delta[0, 0] == 255).all()


def test_triptych_shapes_must_agree():
    with pytest.raises(DataError, match=r"\(4, 4, 1\).*\(4, 5, 1\)"):
        difference(np.zeros((4, 4)), np.zeros((4, 5)))
    with pytest.raises(DataError, match="not \\(4,\\)"):
        difference(np.zeros(4), np.zeros(4))
    with pytest.raises(DataError, match="no pair"):
        triptychs([], [])


def test_triptychs_state_the_scale_of_the_difference():
    image = np.zeros((8, 8))
    image[2:6, 2:6] = 0.8
    figure = triptychs([(image, np.zeros((8, 8)))], ["part $5"])
    assert len(figure.axes) == 3
    assert "±0.8" in describe_difference(image, difference_limit([(image, np.zeros((8, 8)))]))
    assert "part $5" in style.to_svg(figure, "t")


@pytest.mark.slow
def test_many_triptychs_stand_in_columns():
    pair = np.ones((4, 4)), np.zeros((4, 4))
    few, many = (triptychs([pair] * n, [str(i) for i in range(n)]) for n in (10, 20))
    assert few.get_figwidth() < few.get_figheight()
    width, height = many.get_size_inches()
    assert 0.5 < width / height < 2
    assert sum(len(axes.images) for axes in many.axes) == 60
    shown = [text.get_text() for axes in many.axes for text in axes.texts]
    assert {str(i) for i in range(20)} < set(shown)
    assert shown.count("difference") == many.get_figwidth() // few.get_figwidth()


def test_the_legend_of_a_roc_curve_lies_on_the_side_without_the_curve():
    labels = np.repeat([0.0, 1.0], 20)
    upper_left, lower_right = 2, 4
    for scores, place in ((labels, lower_right), (-labels, upper_left)):
        legend = roc(verdicts(scores, labels)).axes[0].get_legend()
        assert legend is not None
        assert legend._loc == place


# Style --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_svg_is_the_same_each_time_and_keeps_text_colours_and_ids_apart(scored):
    labels, scores = scored
    first, again = (style.to_svg(roc(verdicts(scores, labels)), "a") for _ in range(2))
    assert first == again
    assert "normal images flagged (%)</text>" in first
    assert "var(--ink)" in first
    assert "var(--normal)" in first
    other = style.to_svg(roc(verdicts(scores, labels)), "b")
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, other)]
    assert not ids[0] & ids[1]
    for svg, known in zip((first, other), ids, strict=True):
        used = set(re.findall(r'(?:url\(|xlink:href=")#([^")]+)', svg))
        assert used
        assert used <= known


def test_tiles_lie_in_an_svg_as_the_pixels_they_are():
    svg = style.to_svg(samples(stand_in(kl=np.ones(2), names=["a", "b"]), most=3), "s")
    data = re.findall(r'xlink:href="data:image/png;base64,([^"]+)"', svg)
    assert len(data) == 1
    with Image.open(io.BytesIO(base64.b64decode(data[0]))) as picture:
        assert picture.size == (3 * 8 + 2, 2 * 8 + 1)
    assert "pixelated" in svg


@pytest.mark.slow
def test_png_is_the_same_each_time(tmp_path, scored):
    first, again = (style.save(roc(verdicts(*scored[::-1])), tmp_path / f"{n}.png") for n in "ab")
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.slow
def test_svg_holds_no_address_no_style_sheet_and_no_fixed_size(scored):
    svg = style.to_svg(score_histogram(verdicts(*scored[::-1])), "h")
    assert "http" not in svg
    assert "<style" not in svg
    assert svg.startswith("<svg")
    head = svg[: svg.index(">")]
    assert "viewBox" in head
    assert " width=" not in head


@pytest.mark.slow
def test_svg_leaves_matplotlib_settings_alone_and_escapes_names():
    before = dict(matplotlib.rcParams)
    figure = false_alarm_rates([row("<b>$x_1$", 1, 9), row("日本", 1, 9)], alpha=0.1)
    svg = style.to_svg(figure, "x")
    assert dict(matplotlib.rcParams) == before
    assert "&lt;b&gt;$x_1$" in svg
    assert "日本" in svg


def test_palette_differs_in_lightness_too():
    def grey(colour: str) -> float:
        r, g, b = (int(to_hex(colour)[i : i + 2], 16) for i in (1, 3, 5))
        return 0.299 * r + 0.587 * g + 0.114 * b

    assert abs(grey(style.NORMAL) - grey(style.ANOMALOUS)) > 20


@pytest.mark.slow
def test_figures_need_no_pyplot():
    code = (
        "import sys; from knowngood.evaluation.figures.losses import loss_curves; "
        "from knowngood.evaluation.figures.style import to_svg; "
        "to_svg(loss_curves([{'step': 1, 'kl': 1.0}]), 'h'); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
