"""How well scores separate normal from anomalous images: curves, a histogram by label, boxes or violins by class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde

from knowngood.errors import DataError
from knowngood.evaluation.conditions import natural_order
from knowngood.evaluation.figures import style
from knowngood.evaluation.results import Results
from knowngood.metrics import average_precision, roc_auc, roc_curve
from knowngood.metrics.ranking import labelled

CROWDED = 0.35  # share of a label's images in one bin from which the axis is stretched
FEW = 30  # images of a class below which each is drawn


def roc(results: Results, interval: Sequence[float] | None = None) -> Figure:
    """ROC curve; images without a label or score do not count.

    The point of the verdicts is marked where there are any. It lies off the curve where thresholds differ between
    conditions.

    Args:
        interval: (low, high) of the AUROC, shown beside it.

    Raises:
        DataError: the known labels are not of both kinds.
    """
    labels, scores = results.labels, results.scores
    curve = roc_curve(labels, scores)
    figure = style.new_figure()
    axes = figure.add_subplot()
    area = roc_auc(labels, scores)
    text = f"AUROC {area:.3f}"
    if interval is not None:
        text += f" ({interval[0]:.3f}–{interval[1]:.3f})"
    axes.plot([0, 100], [0, 100], color=style.MUTED, linewidth=0.9, linestyle=(0, (4, 3)), label="chance")
    axes.fill_between(100 * curve.fpr, 100 * curve.tpr, color=style.NORMAL, alpha=0.10, linewidth=0)
    axes.plot(100 * curve.fpr, 100 * curve.tpr, color=style.NORMAL, linewidth=1.8, label=text)
    if results.attainable:
        point = [100 * results.flagged[labels == label].mean() for label in (0, 1)]
        label = f"verdicts: {point[1]:.0f} % detected, {point[0]:.1f} % false alarms"
        axes.plot(*point, "o", color=style.ANOMALOUS, markersize=6.5, label=label, zorder=5)
    axes.set_xlim(-2, 102)
    axes.set_ylim(-2, 102)
    style.tidy(axes, xlabel="normal images flagged (%)", ylabel="anomalous images flagged (%)", grid="both")
    style.legend(axes, loc="lower right" if area >= 0.5 else "upper left")  # on the side without the curve
    return figure


def curves(labels: np.ndarray, scores: Mapping[str, np.ndarray]) -> Figure:
    """ROC, and precision over recall, of several models with scores (N,); labels (N,), NaN where one does not count.

    Raises:
        DataError: the known labels are not of both kinds, or an image with a label has no score.
    """
    from sklearn.metrics import precision_recall_curve

    figure, known = style.new_figure(8.4, 3.6), labels[~np.isnan(labels)]
    left, right = figure.subplots(1, 2)
    for axes, chance in ((left, [0, 100]), (right, [100 * known.mean()] * 2)):
        axes.plot([0, 100], chance, color=style.MUTED, linewidth=0.9, linestyle=(0, (4, 3)), label="chance")
        axes.set(xlim=(-2, 102), ylim=(-2, 104))
    for i, (name, values) in enumerate(scores.items()):
        look = {"color": style.CYCLE[i % len(style.CYCLE)], "linestyle": style.DASHES[i % len(style.DASHES)]}
        curve, name = roc_curve(labels, values), style.short(name, 22)
        text = f"{name}: AUROC {roc_auc(labels, values):.3f}"
        left.plot(100 * curve.fpr, 100 * curve.tpr, linewidth=1.8, label=text, **look)
        precision, recall, _ = precision_recall_curve(*labelled(labels, values))
        precision[-1] = precision[-2]  # of no image at all; the area under the steps is the average precision
        text = f"{name}: AP {average_precision(labels, values):.3f}"
        right.step(100 * recall, 100 * precision, where="post", linewidth=1.8, label=text, **look)
    style.tidy(left, xlabel="normal images flagged (%)", ylabel="anomalous images flagged (%)", grid="both")
    style.tidy(right, xlabel="recall: anomalous images flagged (%)", ylabel="precision (%)", grid="both")
    for axes in (left, right):
        axes.legend(fontsize=8, framealpha=0.85, edgecolor="none", labelcolor=style.INK, handlelength=2.6)
    return figure


def score_histogram(results: Results, *, bins: int = 40) -> Figure:
    """Share of each label's images per bin of score; every label uses the same bins.

    With both labels the intersection Σ_bins min(share normal, share anomalous) is printed: 0 % where one threshold
    separates them without error, 100 % where the score does not separate them at all. Several thresholds are drawn as
    a band, infinite ones not at all. Scores that are not finite are excluded and counted in the axis label.

    Args:
        bins: number of bins, see `ScoreAxis`.

    Raises:
        DataError: no score is finite.
    """
    scores, labels, finite = results.scores, results.labels, _finite(results)
    figure = style.new_figure()
    axes = figure.add_subplot()
    lines = np.array(results.thresholds())
    axis = ScoreAxis.of(scores[finite], [member[finite] for member, *_ in _groups(results)], lines, bins)
    edges, beyond = axis.edges, axis.beyond
    drawn = []
    for member, name, colour in _groups(results):
        values = scores[finite & member]
        if len(values):
            weights = np.full(len(values), 1 / len(values))
            shares, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges, weights=weights)
            drawn.append(shares)
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.30, linewidth=0)
            axes.stairs(shares, edges, color=colour, linewidth=1.4, label=f"{style.plain(name)} (n = {len(values):,})")
    if (labels[finite] == 0).any() and (labels[finite] == 1).any():
        axes.plot([], [], " ", label=f"intersection {100 * np.minimum(drawn[0], drawn[1]).sum():.1f} %")
    _draw_thresholds(axes, lines)
    axis.apply(axes)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
    notes = [axis.note] if axis.note else []
    notes += [f"{beyond:,} beyond the right edge are in the last bin"] if beyond else []
    notes += [] if finite.all() else [f"{int((~finite).sum()):,} not finite, excluded"]
    ylabel = "share of the label's images (%)" if results.labelled else "share of images (%)"
    style.tidy(axes, xlabel="\n".join([_score_label(results), "; ".join(notes)]).strip(), ylabel=ylabel)
    style.legend_below(figure, columns=2)
    axes.set_ylim(0, min(axes.get_ylim()[1], 1.02))
    return figure


def scores_by_class(
    results: Results, groups: np.ndarray, *, group_name: str = "class", violins: bool = False
) -> Figure:
    """One row a class and label, in natural order, normal classes first.

    A box goes from the first to the third quartile with the median in it, its whiskers from 5 % to 95 %. A violin
    is a Gaussian kernel density with a dot at the median; all have the same height. Of a class of fewer than `FEW`
    images each is a dot too, so that none hides within a whisker.

    Args:
        groups: (N,) name of each image's class.
        group_name: what a class is.

    Raises:
        DataError: no score is finite.
    """
    finite = _finite(results)
    scores, lines = results.scores, np.array(results.thresholds())
    axis = ScoreAxis.of(scores[finite], [member[finite] for member, *_ in _groups(results)], lines)
    edges = axis.edges
    order = natural_order(groups)
    order = order[finite[order]]
    rows = [
        (group, scores[order[member[order] & (groups[order] == group)]], style.plain(name), colour)
        for member, name, colour in _groups(results)
        for group in dict.fromkeys(groups[order[member[order]]].tolist())
    ]
    figure = style.new_figure(5.2, 1.35 + len(rows) * (0.3 if len(rows) <= 24 else 0.19))
    axes = figure.add_subplot()
    axis.apply(axes, margin=0.02)
    in_legend: set[str] = set()
    far = few = False
    for position, (_, values, name, colour) in enumerate(rows):
        draw = partial(_draw_violin, most=edges[-1]) if violins else _draw_box
        draw(axes, values, position, colour, None if name in in_legend else name)
        in_legend.add(name)
        if len(values) < FEW:
            few, shown = True, values.clip(max=edges[-1])
            axes.plot(shown, np.full(len(values), position), "o", color=colour, markersize=3.4, mec="white", mew=0.5)
        if beyond := int((values > edges[-1]).sum()):
            far, beside = True, axes.get_yaxis_transform()
            axes.text(1.01, position, f"{beyond:,} ▸", transform=beside, va="center", fontsize=7, color=style.MUTED)
    _draw_thresholds(axes, lines)
    axes.set_yticks(range(len(rows)), [f"{style.short(group, 20)} (n = {len(v):,})" for group, v, *_ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    more = "; ▸ images beyond the edge" if far else ""
    shape = "violin: density, dark dot: median" if violins else "box: quartiles, whiskers 5 % to 95 %"
    shape += f"\nsmall dots: every image of classes of fewer than {FEW}" if few else ""
    xlabel = f"{_score_label(results)}\n{shape}{more}" + (f"\n{axis.note}" if axis.note else "")
    style.tidy(axes, xlabel=xlabel, ylabel=style.plain(group_name), grid="x")
    axes.tick_params(axis="y", length=0, labelsize=8.5 if len(rows) <= 24 else 7.5)
    style.legend_below(figure)
    return figure


@dataclass(frozen=True)
class ScoreAxis:
    """Bins that all labels share, and the axis on which they are equally wide.

    A few far scores must not squeeze the rest into one bar. So a linear axis ends a little above the 99 % quantile, and
    its last bin holds what lies beyond. Where more than `CROWDED` of a label's images would still share a bin, the bins
    are those of asinh((score − middle) / unit) with median and interquartile range of the label of least spread: linear
    in the bulk, logarithmic far from it.
    """

    edges: np.ndarray  # (bins + 1,)
    beyond: int  # scores above the last edge
    middle: float = 0.0
    unit: float | None = None  # None: linear

    @classmethod
    def of(cls, scores: np.ndarray, members: Sequence[np.ndarray], thresholds: np.ndarray, bins: int = 40) -> ScoreAxis:
        """The axis of finite scores (N,) and thresholds (K,), with the members (N,) of each label."""
        low, middle, upper, high = np.quantile(scores, [0, 0.5, 0.99, 1])
        top = max(high if high <= upper + (upper - low) else upper + 0.25 * (upper - low), middle, *thresholds)
        if top <= low:
            half = max(0.5, 1e-6 * abs(low))  # of an item far outside, beyond rounding
            low, top = low - half, low + half
        linear = cls(np.linspace(low, top, bins + 1), int((scores > top).sum()))
        groups = [scores[member] for member in members if member.sum() >= bins]
        crowds = [np.histogram(group.clip(low, top), linear.edges)[0].max() / len(group) for group in groups]
        if bins < 8 or np.ptp(scores) <= 1e-9 * max(1.0, abs(high)) or max(crowds, default=0) <= CROWDED:
            return linear
        middle, unit = min(map(_bulk, groups), key=lambda bulk: bulk[1])
        unit = max(unit, 1e-4 * (high - low))
        ends = np.array([low, max([high, *thresholds])])
        first, last = np.arcsinh((ends - middle) / unit)
        edges = middle + unit * np.sinh(np.linspace(first, last, bins + 1))
        edges[[0, -1]] = ends  # to the bit
        return cls(edges, 0, middle, unit)

    @property
    def note(self) -> str:
        """What a reader must know of the axis."""
        return "" if self.unit is None else "axis: linear in the bulk, logarithmic far from it"

    def apply(self, axes: Axes, margin: float = 0.0) -> None:
        """Scale, limits and ticks of the axes, with a margin at both ends as a share of the length."""
        place, back = self._functions()
        ends = place(self.edges[[0, -1]])
        if self.unit is not None:
            axes.set_xscale("function", functions=(place, back))
            ticks = back(np.linspace(ends[0], ends[1], 7))
            steps = np.diff(ticks, append=2 * ticks[-1] - ticks[-2])
            digits = [1 - int(np.floor(np.log10(step))) for step in steps]
            ticks = np.unique([round(float(tick), digit) for tick, digit in zip(ticks, digits, strict=True)])
            axes.set_xticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
        axes.set_xlim(*back(ends + margin * np.ptp(ends) * np.array([-1, 1])))

    def _functions(self) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
        """Scores to places along the axis, and back."""
        middle, unit = self.middle, self.unit
        if unit is None:
            return np.asarray, np.asarray
        return (
            lambda scores: np.arcsinh((np.asarray(scores, float) - middle) / unit),
            lambda places: middle + unit * np.sinh(places),
        )


def _bulk(scores: np.ndarray) -> tuple[float, float]:
    """Median and interquartile range."""
    first, median, third = np.quantile(scores, [0.25, 0.5, 0.75])
    return float(median), float(third - first)


def _finite(results: Results) -> np.ndarray:
    finite = np.isfinite(results.scores)
    if not finite.any():
        raise DataError(f"none of the {len(finite)} scores is finite, so there is nothing to draw")
    return finite


def _groups(results: Results) -> list[tuple[np.ndarray, str, str]]:
    """(members, name, colour) of normal, anomalous and unlabelled images."""
    labels = results.labels
    return [
        (labels == 0, results.normal_name, style.NORMAL),
        (labels == 1, results.anomalous_name, style.ANOMALOUS),
        (np.isnan(labels), "not labelled", style.UNKNOWN),
    ]


def _score_label(results: Results) -> str:
    return f"anomaly score ({results.score_unit or 'higher is more anomalous'})"


def _draw_thresholds(axes: Axes, lines: np.ndarray) -> None:
    """One threshold as a line, several as a band."""
    if len(lines) == 1:
        look = {"color": style.INK, "linewidth": 1.3, "linestyle": (0, (4, 2))}
        axes.axvline(lines[0], label=f"threshold {style.signed(lines[0])}", **look)
    elif len(lines):
        label = f"{len(lines)} thresholds, {style.signed(lines[0])} to {style.signed(lines[-1])}"
        axes.axvspan(lines[0], lines[-1], color=style.INK, alpha=0.10, linewidth=0, label=label)


def _draw_box(axes: Axes, values: np.ndarray, position: int, colour: str, label: str | None) -> None:
    low, first, median, third, high = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
    axes.plot([low, high], [position] * 2, color=colour, linewidth=1.2, solid_capstyle="butt")
    axes.barh(position, third - first, left=first, height=0.62, color=colour, alpha=0.45, linewidth=0, label=label)
    half = [position - 0.31, position + 0.31]
    axes.plot([median, median], half, color=style.INK, linewidth=1.8, solid_capstyle="butt")


def _draw_violin(axes: Axes, values: np.ndarray, position: int, colour: str, label: str | None, most: float) -> None:
    """The density of the values up to `most`, so that a few far ones do not flatten it; marks where all are equal."""
    inside = values[values <= most]
    if len(inside) > 2 and np.ptp(inside) > 1e-9 * max(1.0, abs(inside).max()):
        at = np.linspace(inside.min(), inside.max(), 160)
        half = (density := gaussian_kde(inside)(at)) * 0.42 / density.max()
        axes.fill_between(at, position - half, position + half, color=colour, alpha=0.5, linewidth=0, label=label)
    else:
        axes.plot(inside, np.full(len(inside), position), "|", color=colour, markersize=9, label=label)
    axes.plot([np.median(values)], [position], "o", color=style.INK, markersize=3.2)
