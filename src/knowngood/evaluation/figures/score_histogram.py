"""Anomaly scores by label on shared bins, with the threshold drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from knowngood.errors import DataError
from knowngood.evaluation.figures import style

_HEADROOM = 1.28  # height of the axes over that of the bars: room for the legend


def score_histogram(
    scores: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    thresholds: Sequence[float] = (),
    names: tuple[str, str] = ("normal", "anomalous"),
    unit: str = "",
    bins: int = 40,
) -> Figure:
    """Share of each label's images per bin of score; every label uses the same bins.

    With both labels the intersection Σ_bins min(share normal, share anomalous) is printed: 0 % where a threshold can
    tell them apart without error, 100 % where the score says nothing.

    Args:
        scores: (N,) anomaly scores. Values that are not finite are left out and counted in the axis label.
        labels: (N,) 0 normal, 1 anomalous, NaN unknown; None: all unknown.
        thresholds: score from which an image is flagged, one a condition. Different ones are drawn as a band; infinite
            ones (no verdict possible) not at all.
        names: what 0 and 1 are called.
        unit: of the score, for example "nats".
        bins: how many; the last also holds what lies far beyond the rest.

    Raises:
        DataError: no score is finite.
    """
    figure = style.new_figure()
    axes = figure.add_subplot()
    draw_score_histogram(axes, scores, labels, thresholds=thresholds, names=names, unit=unit, bins=bins)
    return figure


def draw_score_histogram(
    axes: Axes,
    scores: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    thresholds: Sequence[float] = (),
    names: tuple[str, str] = ("normal", "anomalous"),
    unit: str = "",
    bins: int = 40,
) -> None:
    """`score_histogram` into axes that exist already."""
    scores = np.asarray(scores, float)
    finite = np.isfinite(scores)
    if not finite.any():
        raise DataError(f"score_histogram: none of the {len(scores)} scores is finite")
    labels = np.full(len(scores), np.nan) if labels is None else np.asarray(labels, float)
    lines = np.unique([t for t in thresholds if np.isfinite(t)])
    edges, beyond = shared_edges(scores[finite], lines, bins)
    groups = (
        (labels == 0, names[0], style.NORMAL),
        (labels == 1, names[1], style.ANOMALOUS),
        (np.isnan(labels), "not labelled", style.UNKNOWN),
    )
    drawn: dict[str, np.ndarray] = {}
    for member, name, colour in groups:
        values = scores[finite & member]
        if len(values):
            weights = np.full(len(values), 1 / len(values))
            clipped = np.clip(values, edges[0], edges[-1])
            text = f"{style.plain(name)} (n = {len(values):,})"
            shares, _ = np.histogram(clipped, edges, weights=weights)
            drawn[name] = shares
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.30, linewidth=0)
            axes.stairs(shares, edges, color=colour, linewidth=1.4, label=text)
    if (labels[finite] == 0).any() and (labels[finite] == 1).any():
        shared = np.minimum(drawn[names[0]], drawn[names[1]]).sum()
        axes.plot([], [], " ", label=f"intersection {100 * shared:.1f} %")
    under_legend = 1 / _HEADROOM
    if len(lines) == 1:
        line = {"color": style.INK, "linewidth": 1.3, "linestyle": (0, (4, 2))}
        axes.axvline(lines[0], ymax=under_legend, label=f"threshold {style.signed(lines[0])}", **line)
    elif len(lines):
        label = f"{len(lines)} thresholds, {style.signed(lines[0])} to {style.signed(lines[-1])}"
        axes.axvspan(lines[0], lines[-1], ymax=under_legend, color=style.INK, alpha=0.10, linewidth=0, label=label)
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
    label = f"anomaly score ({unit})" if unit else "anomaly score (higher is more anomalous)"
    if beyond:
        label += f"; {beyond:,} beyond the right edge are in the last bin"
    if not finite.all():
        label += f"; {int((~finite).sum()):,} not finite left out"
    ylabel = "share of images (%)" if np.isnan(labels).all() else "share of the label's images (%)"
    style.tidy(axes, xlabel=label.replace("; ", "\n", 1), ylabel=ylabel)
    style.legend(axes, loc="upper right")
    axes.set_ylim(0, axes.get_ylim()[1] * _HEADROOM)


def shared_edges(scores: np.ndarray, thresholds: np.ndarray, bins: int) -> tuple[np.ndarray, int]:
    """Bin edges for all groups and how many scores lie beyond: a few far ones must not squeeze the rest into one bar.

    `scores` (N,) and `thresholds` (K,) are finite.
    """
    low, middle, upper, high = np.quantile(scores, [0, 0.5, 0.99, 1])
    top = max(high if high <= upper + (upper - low) else upper + 0.25 * (upper - low), middle, *thresholds)
    if top <= low:
        low, top = low - 0.5, low + 0.5
    return np.linspace(low, top, bins + 1), int((scores > top).sum())
