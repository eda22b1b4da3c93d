"""How well scores separate normal from anomalous images: curves, a histogram by label, boxes or violins by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

_HEADROOM = 1.28  # height of the axes over that of the bars: room for the legend


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
    text = f"AUROC {roc_auc(labels, scores):.3f}"
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
    style.legend(axes, loc="lower right")
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
        bins: number of bins; the last one also holds the scores far beyond the rest.

    Raises:
        DataError: no score is finite.
    """
    scores, labels, finite = results.scores, results.labels, _finite(results)
    figure = style.new_figure()
    axes = figure.add_subplot()
    lines = np.array(results.thresholds())
    edges, beyond = shared_edges(scores[finite], lines, bins)
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
    _draw_thresholds(axes, lines, top=1 / _HEADROOM)
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
    notes = [f"{beyond:,} beyond the right edge are in the last bin"] if beyond else []
    notes += [] if finite.all() else [f"{int((~finite).sum()):,} not finite, excluded"]
    ylabel = "share of the label's images (%)" if results.labelled else "share of images (%)"
    style.tidy(axes, xlabel="\n".join([_score_label(results), "; ".join(notes)]).strip(), ylabel=ylabel)
    style.legend(axes, loc="upper right")
    axes.set_ylim(0, axes.get_ylim()[1] * _HEADROOM)
    return figure


def scores_by_class(
    results: Results, groups: np.ndarray, *, group_name: str = "class", violins: bool = False
) -> Figure:
    """One row a class and label, in natural order, normal classes first.

    A box goes from the first to the third quartile with the median in it, its whiskers from 5 % to 95 %. A violin
    is a Gaussian kernel density with a dot at the median; all have the same height.

    Args:
        groups: (N,) name of each image's class.
        group_name: what a class is.

    Raises:
        DataError: no score is finite.
    """
    finite = _finite(results)
    scores, lines = results.scores, np.array(results.thresholds())
    edges, _ = shared_edges(scores[finite], lines, 2)
    order = natural_order(groups)
    order = order[finite[order]]
    rows = [
        (group, scores[order[member[order] & (groups[order] == group)]], style.plain(name), colour)
        for member, name, colour in _groups(results)
        for group in dict.fromkeys(groups[order[member[order]]].tolist())
    ]
    figure = style.new_figure(5.2, 1.35 + len(rows) * (0.3 if len(rows) <= 24 else 0.19))
    axes = figure.add_subplot()
    margin = 0.02 * (edges[-1] - edges[0])
    axes.set_xlim(edges[0] - margin, edges[-1] + margin)
    in_legend: set[str] = set()
    far = False
    for position, (_, values, name, colour) in enumerate(rows):
        draw = partial(_draw_violin, most=edges[-1]) if violins else _draw_box
        draw(axes, values, position, colour, None if name in in_legend else name)
        in_legend.add(name)
        if beyond := int((values > edges[-1]).sum()):
            far, beside = True, axes.get_yaxis_transform()
            axes.text(1.01, position, f"{beyond:,} ▸", transform=beside, va="center", fontsize=7, color=style.MUTED)
    _draw_thresholds(axes, lines)
    axes.set_yticks(range(len(rows)), [f"{style.short(group, 20)} (n = {len(v):,})" for group, v, *_ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    more = "; ▸ images beyond the edge" if far else ""
    shape = "violin: density, dot: median" if violins else "box: quartiles, whiskers 5 % to 95 %"
    xlabel = f"{_score_label(results)}\n{shape}{more}"
    style.tidy(axes, xlabel=xlabel, ylabel=style.plain(group_name), grid="x")
    axes.tick_params(axis="y", length=0, labelsize=8.5 if len(rows) <= 24 else 7.5)
    style.legend_below(figure)
    return figure


def shared_edges(scores: np.ndarray, thresholds: np.ndarray, bins: int) -> tuple[np.ndarray, int]:
    """Bin edges for all groups, and how many scores lie beyond: a few far ones must not squeeze the rest into one bar.

    `scores` (N,) and `thresholds` (K,) are finite.
    """
    low, middle, upper, high = np.quantile(scores, [0, 0.5, 0.99, 1])
    top = max(high if high <= upper + (upper - low) else upper + 0.25 * (upper - low), middle, *thresholds)
    if top <= low:
        low, top = low - 0.5, low + 0.5
    return np.linspace(low, top, bins + 1), int((scores > top).sum())


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


def _draw_thresholds(axes: Axes, lines: np.ndarray, *, top: float = 1.0) -> None:
    """One threshold as a line, several as a band, up to `top` of the axes' height."""
    if len(lines) == 1:
        look = {"color": style.INK, "linewidth": 1.3, "linestyle": (0, (4, 2))}
        axes.axvline(lines[0], ymax=top, label=f"threshold {style.signed(lines[0])}", **look)
    elif len(lines):
        label = f"{len(lines)} thresholds, {style.signed(lines[0])} to {style.signed(lines[-1])}"
        axes.axvspan(lines[0], lines[-1], ymax=top, color=style.INK, alpha=0.10, linewidth=0, label=label)


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
