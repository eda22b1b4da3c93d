"""How well scores rank anomalous above normal images: the ROC curve over all thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from knowngood.evaluation.figures import style
from knowngood.metrics import roc_auc, roc_curve


def roc(
    labels: np.ndarray,
    scores: np.ndarray,
    *,
    flagged: np.ndarray | None = None,
    interval: Sequence[float] | None = None,
) -> Figure:
    """ROC curve of one model.

    Args:
        labels: (N,) 0 normal, 1 anomalous, NaN unknown, excluded.
        scores: (N,) anomaly scores, higher is more anomalous.
        flagged: (N,) bool verdicts; their point is marked. It lies off the curve where thresholds differ between
            conditions.
        interval: (low, high) of the AUROC, shown beside it.

    Raises:
        DataError: the known labels are not of both kinds, or a labelled score is NaN.
    """
    labels, scores = np.asarray(labels, float), np.asarray(scores, float)
    curve = roc_curve(labels, scores)
    figure = style.new_figure()
    axes = figure.add_subplot()
    text = f"AUROC {roc_auc(labels, scores):.3f}"
    if interval is not None:
        text += f" ({interval[0]:.3f}–{interval[1]:.3f})"
    axes.plot([0, 100], [0, 100], color=style.MUTED, linewidth=0.9, linestyle=(0, (4, 3)), label="chance")
    axes.fill_between(100 * curve.fpr, 100 * curve.tpr, color=style.NORMAL, alpha=0.10, linewidth=0)
    axes.plot(100 * curve.fpr, 100 * curve.tpr, color=style.NORMAL, linewidth=1.8, label=text)
    if flagged is not None:
        flagged = np.asarray(flagged, bool)
        point = 100 * flagged[labels == 0].mean(), 100 * flagged[labels == 1].mean()
        label = f"verdicts: {point[1]:.0f} % detected, {point[0]:.1f} % false alarms"
        axes.plot(*point, "o", color=style.ANOMALOUS, markersize=6.5, label=label, zorder=5)
    axes.set_xlim(-2, 102)
    axes.set_ylim(-2, 102)
    style.tidy(axes, xlabel="normal images flagged (%)", ylabel="anomalous images flagged (%)", grid="both")
    style.legend(axes, loc="lower right")
    return figure
