"""Distributions of anomaly scores: a histogram by label on shared bins, a box of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from knowngood.errors import DataError
from knowngood.evaluation.figures import style

_HEADROOM = 1.28  # height of the axes over that of the bars: room for the legend
Names = tuple[str, str]


def score_histogram(
    scores: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    thresholds: Sequence[float] = (),
    names: Names = ("normal", "anomalous"),
    unit: str = "",
    bins: int = 40,
) -> Figure:
    """Share of each label's images per bin of score; every label uses the same bins.

    With both labels the intersection Σ_bins min(share normal, share anomalous) is printed: 0 % where one threshold
    separates them without error, 100 % where the score does not separate them at all.

    Args:
        scores: (N,) anomaly scores. Values that are not finite are excluded and counted in the axis label.
        labels: (N,) 0 normal, 1 anomalous, NaN unknown; None: all unknown.
        thresholds: score above which an image is flagged, one a condition. Several are drawn as a band; infinite ones
            are not drawn.
        names: of the labels 0 and 1.
        unit: of the score, for example "nats".
        bins: number of bins; the last one also holds the scores far beyond the rest.

    Raises:
        DataError: no score is finite.
    """
    scores, labels, finite = _checked("score_histogram", scores, labels)
    figure = style.new_figure()
    axes = figure.add_subplot()
    lines = np.unique([t for t in thresholds if np.isfinite(t)])
    edges, beyond = shared_edges(scores[finite], lines, bins)
    drawn = []
    for member, name, colour in _groups(labels, names):
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
    ylabel = "share of images (%)" if np.isnan(labels).all() else "share of the label's images (%)"
    style.tidy(axes, xlabel="\n".join([_score_label(unit), "; ".join(notes)]).strip(), ylabel=ylabel)
    style.legend(axes, loc="upper right")
    axes.set_ylim(0, axes.get_ylim()[1] * _HEADROOM)
    return figure


def scores_by_class(
    scores: np.ndarray,
    groups: Sequence[str] | np.ndarray,
    labels: np.ndarray | None = None,
    *,
    thresholds: Sequence[float] = (),
    names: Names = ("normal", "anomalous"),
    unit: str = "",
    group_name: str = "class",
) -> Figure:
    """One row a class and label, in the order in which they come, normal classes first.

    A box goes from the first to the third quartile with the median in it, its whiskers from 5 % to 95 %.

    Args:
        scores, labels, thresholds, names, unit: as for `score_histogram`.
        groups: (N,) name of each image's class.
        group_name: what a class is.

    Raises:
        DataError: no score is finite, or the arrays differ in length.
    """
    scores, labels, finite = _checked("scores_by_class", scores, labels)
    groups = np.asarray(groups).astype(str)
    if not len(scores) == len(groups) == len(labels):
        raise DataError(f"scores_by_class: {len(scores)} scores, {len(groups)} classes and {len(labels)} labels")
    scores, groups, labels = scores[finite], groups[finite], labels[finite]
    lines = np.unique([t for t in thresholds if np.isfinite(t)])
    edges, _ = shared_edges(scores, lines, 2)
    rows = [
        (group, scores[member & (groups == group)], style.plain(name), colour)
        for member, name, colour in _groups(labels, names)
        for group in dict.fromkeys(groups[member].tolist())
    ]
    figure = style.new_figure(5.2, 1.35 + len(rows) * (0.3 if len(rows) <= 24 else 0.19))
    axes = figure.add_subplot()
    margin = 0.02 * (edges[-1] - edges[0])
    axes.set_xlim(edges[0] - margin, edges[-1] + margin)
    in_legend: set[str] = set()
    for position, (_, values, name, colour) in enumerate(rows):
        label = None if name in in_legend else name
        in_legend.add(name)
        _draw_box(axes, values, position, colour, label)
        if beyond := int((values > edges[-1]).sum()):
            beside = axes.get_yaxis_transform()
            axes.text(1.01, position, f"{beyond:,} ▸", transform=beside, va="center", fontsize=7, color=style.MUTED)
    _draw_thresholds(axes, lines)
    axes.set_yticks(range(len(rows)), [f"{style.short(group, 20)} (n = {len(v):,})" for group, v, *_ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    more = "; ▸ images beyond the edge" if (scores > edges[-1]).any() else ""
    xlabel = f"{_score_label(unit)}\nbox: quartiles, whiskers 5 % to 95 %{more}"
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


def _checked(name: str, scores: np.ndarray, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels, and which scores are finite, (N,) each."""
    scores = np.asarray(scores, float)
    finite = np.isfinite(scores)
    if not finite.any():
        raise DataError(f"{name}: none of the {len(scores)} scores is finite")
    return scores, np.full(len(scores), np.nan) if labels is None else np.asarray(labels, float), finite


def _groups(labels: np.ndarray, names: Names) -> list[tuple[np.ndarray, str, str]]:
    """(members, name, colour) of normal, anomalous and unlabelled images."""
    return [
        (labels == 0, names[0], style.NORMAL),
        (labels == 1, names[1], style.ANOMALOUS),
        (~np.isin(labels, (0, 1)), "not labelled", style.UNKNOWN),
    ]


def _score_label(unit: str) -> str:
    return f"anomaly score ({unit})" if unit else "anomaly score (higher is more anomalous)"


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
