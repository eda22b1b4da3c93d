"""Scores of each class as a row: a box of quartiles, or a violin of the whole distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from knowngood.errors import DataError
from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.score_histogram import shared_edges


def scores_by_class(
    scores: np.ndarray,
    groups: Sequence[str] | np.ndarray,
    labels: np.ndarray | None = None,
    *,
    kind: Literal["box", "violin"] = "box",
    thresholds: Sequence[float] = (),
    names: tuple[str, str] = ("normal", "anomalous"),
    unit: str = "",
    group_name: str = "class",
) -> Figure:
    """One row a class and label, in the order in which they come, normal classes first.

    A box goes from the first to the third quartile with the median in it, its whiskers from 5 % to 95 %. A violin is a
    Gaussian kernel density, all of the same height.

    Args:
        scores: (N,) anomaly scores; values that are not finite are left out.
        groups: (N,) name of each item's class.
        labels: (N,) 0 normal, 1 anomalous, NaN unknown; None: all unknown.
        thresholds: scores from which images are flagged; several are drawn as a band.
        names: what 0 and 1 are called.
        unit: of the score, for example "nats".
        group_name: what a class is.

    Raises:
        DataError: no score is finite, or the arrays differ in length.
    """
    scores = np.asarray(scores, float)
    groups = np.asarray(groups).astype(str)
    labels = np.full(len(scores), np.nan) if labels is None else np.asarray(labels, float)
    if not len(scores) == len(groups) == len(labels):
        raise DataError(f"scores_by_class: {len(scores)} scores, {len(groups)} classes and {len(labels)} labels")
    finite = np.isfinite(scores)
    if not finite.any():
        raise DataError(f"scores_by_class: none of the {len(scores)} scores is finite")
    scores, groups, labels = scores[finite], groups[finite], labels[finite]
    lines = np.unique([t for t in thresholds if np.isfinite(t)])
    edges, _ = shared_edges(scores, lines, 2)
    kinds = ((0.0, names[0], style.NORMAL), (1.0, names[1], style.ANOMALOUS), (None, "not labelled", style.UNKNOWN))
    rows = [
        (name, value, style.plain(word), colour)
        for value, word, colour in kinds
        for name in dict.fromkeys(groups[_of(labels, value)].tolist())
    ]
    figure = style.new_figure(5.2, 1.35 + len(rows) * (0.3 if len(rows) <= 24 else 0.19))
    axes = figure.add_subplot()
    margin = 0.02 * (edges[-1] - edges[0])
    axes.set_xlim(edges[0] - margin, edges[-1] + margin)
    seen: set[str] = set()
    for place, (name, value, word, colour) in enumerate(rows):
        values = scores[(groups == name) & _of(labels, value)]
        label = None if word in seen else word
        seen.add(word)
        (_draw_box if kind == "box" else _draw_violin)(axes, values, place, colour, label)
        beyond = int((values > edges[-1]).sum())
        if beyond:
            axes.text(
                1.01,
                place,
                f"{beyond:,} ▸",
                transform=axes.get_yaxis_transform(),
                va="center",
                fontsize=7,
                color=style.MUTED,
            )
    if len(lines) == 1:
        axes.axvline(
            lines[0], color=style.INK, linewidth=1.2, linestyle=(0, (4, 2)), label=f"threshold {style.signed(lines[0])}"
        )
    elif len(lines):
        label = f"{len(lines)} thresholds, {style.signed(lines[0])} to {style.signed(lines[-1])}"
        axes.axvspan(lines[0], lines[-1], color=style.INK, alpha=0.10, linewidth=0, label=label)
    counts = [int(((groups == name) & _of(labels, value)).sum()) for name, value, *_ in rows]
    axes.set_yticks(
        range(len(rows)), [f"{style.short(row[0], 20)} (n = {n:,})" for row, n in zip(rows, counts, strict=True)]
    )
    axes.set_ylim(len(rows) - 0.4, -0.6)
    what = "box: quartiles, whiskers 5 % to 95 %" if kind == "box" else "violin: density; dot: median"
    head = f"anomaly score ({unit})" if unit else "anomaly score (higher is more anomalous)"
    more = "; ▸ images beyond the edge" if (scores > edges[-1]).any() else ""
    style.tidy(axes, xlabel=f"{head}\n{what}{more}", ylabel=style.plain(group_name), grid="x")
    axes.tick_params(axis="y", length=0, labelsize=8.5 if len(rows) <= 24 else 7.5)
    style.legend_below(figure)
    return figure


def _of(labels: np.ndarray, value: float | None) -> np.ndarray:
    return ~np.isin(labels, (0, 1)) if value is None else labels == value


def _draw_box(axes: Axes, values: np.ndarray, place: int, colour: str, label: str | None) -> None:
    low, first, median, third, high = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
    axes.plot([low, high], [place, place], color=colour, linewidth=1.2, solid_capstyle="butt")
    axes.barh(place, third - first, left=first, height=0.62, color=colour, alpha=0.45, linewidth=0, label=label)
    axes.plot([median, median], [place - 0.31, place + 0.31], color=style.INK, linewidth=1.8, solid_capstyle="butt")


def _draw_violin(axes: Axes, values: np.ndarray, place: int, colour: str, label: str | None) -> None:
    from scipy.stats import gaussian_kde

    median = float(np.median(values))
    low, high = values.min(), values.max()
    if len(values) > 2 and high - low > 1e-9 * max(1.0, abs(median)):
        at = np.linspace(low, high, 160)
        density = gaussian_kde(values)(at)
        half = 0.42 * density / density.max()
        axes.fill_between(at, place - half, place + half, color=colour, alpha=0.5, linewidth=0, label=label)
    else:
        axes.plot(values, np.full(len(values), place), "|", color=colour, markersize=9, label=label)
    axes.plot([median], [place], "o", color=style.INK, markersize=3.2)
