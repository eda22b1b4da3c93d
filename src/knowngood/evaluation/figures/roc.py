"""The ROC curve: share of anomalies found against share of normals falsely flagged, over all thresholds."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from knowngood.evaluation.figures import style
from knowngood.metrics import roc_auc, roc_curve


def roc(
    labels: np.ndarray,
    scores: np.ndarray,
    *,
    flagged: np.ndarray | None = None,
    interval: tuple[float, float] | None = None,
) -> Figure:
    """ROC curve of `scores` (N,), higher is more anomalous, against `labels` (N,): 0, 1, NaN unknown and left out.

    `flagged` (N,) bool marks the verdicts' own point on the plane; it lies off the curve when thresholds differ between
    conditions. `interval` is shown beside the area under the curve.

    Raises:
        DataError: the known labels are not of both kinds, or a labelled score is NaN.
    """
    figure = style.new_figure()
    draw_roc(figure.add_subplot(), labels, scores, flagged=flagged, interval=interval)
    return figure


def draw_roc(
    axes: Axes,
    labels: np.ndarray,
    scores: np.ndarray,
    *,
    flagged: np.ndarray | None = None,
    interval: tuple[float, float] | None = None,
) -> None:
    """`roc` into axes that exist already."""
    labels, scores = np.asarray(labels, float), np.asarray(scores, float)
    known = np.isfinite(labels)
    truth = labels[known] == 1
    false_alarms, found, _ = roc_curve(labels, scores)
    text = f"AUROC {roc_auc(labels, scores):.3f}"
    if interval is not None:
        text += f" ({interval[0]:.3f}–{interval[1]:.3f})"
    axes.plot([0, 100], [0, 100], color=style.MUTED, linewidth=0.9, linestyle=(0, (4, 3)), label="guessing")
    axes.fill_between(100 * false_alarms, 100 * found, color=style.NORMAL, alpha=0.10, linewidth=0)
    axes.plot(100 * false_alarms, 100 * found, color=style.NORMAL, linewidth=1.8, label=text)
    if flagged is not None:
        verdict = np.asarray(flagged, bool)[known]
        point = 100 * verdict[~truth].mean(), 100 * verdict[truth].mean()
        label = f"verdicts: {point[1]:.0f} % found, {point[0]:.1f} % false alarms"
        axes.plot(*point, "o", color=style.ANOMALOUS, markersize=6.5, label=label, zorder=5)
    axes.set_xlim(-2, 102)
    axes.set_ylim(-2, 102)
    style.tidy(axes, xlabel="normal images flagged (%)", ylabel="anomalous images flagged (%)", grid="both")
    style.legend(axes, loc="lower right")
