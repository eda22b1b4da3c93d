"""How well scores rank anomalous above normal images: ROC and precision–recall curves over all thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from knowngood.errors import DataError
from knowngood.evaluation.figures import style
from knowngood.metrics import average_precision, roc_auc, roc_curve
from knowngood.metrics.ranking import labelled


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


def ranking_grid(
    labels: np.ndarray,
    scores: Mapping[str, np.ndarray],
    kinds: Sequence[str] | np.ndarray | None = None,
    *,
    most: int = 6,
) -> Figure:
    """Several models on the same images: ROC on the left, precision against recall on the right.

    Args:
        labels: (N,) 0 normal, 1 anomalous, NaN unknown, excluded.
        scores: model → (N,) anomaly scores.
        kinds: (N,) what kind of anomaly each anomalous image is: one row a kind, against all normals. None: one row.
        most: rows at most, those with most images; a note counts the kinds that are not drawn.

    Raises:
        DataError: no model, labels of one kind only, or a labelled score that is NaN.
    """
    labels = np.asarray(labels, float)
    if not scores:
        raise DataError("ranking_grid: no model's scores given")
    rows, hidden = [("", labels)], 0
    if kinds is not None:
        kinds = np.asarray(kinds).astype(str)
        names, counts = np.unique(kinds[labels == 1], return_counts=True)
        kept = np.sort(np.argsort(-counts, kind="stable")[:most])
        hidden = len(names) - len(kept)
        rows = [(name, np.where((labels == 1) & (kinds != name), np.nan, labels)) for name in names[kept].tolist()]
    figure = style.new_figure(8.4, (3.4 if len(rows) == 1 else 2.9) * len(rows) + (0.2 if hidden else 0))
    for (left, right), (name, truth) in zip(figure.subplots(len(rows), 2, squeeze=False), rows, strict=True):
        title = f"{style.short(name)} (n = {int((truth == 1).sum()):,}) against normal" if name else ""
        _draw_row(left, right, truth, scores, title)
    if hidden:
        figure.supxlabel(f"{hidden} kinds with fewer images are not drawn", fontsize=8, color=style.MUTED)
    return figure


def _draw_row(left: Axes, right: Axes, labels: np.ndarray, scores: Mapping[str, np.ndarray], title: str) -> None:
    from sklearn.metrics import precision_recall_curve

    share = float((labels == 1).sum() / max(np.isfinite(labels).sum(), 1))
    chance = {"color": style.MUTED, "linewidth": 0.9, "label": "chance", "linestyle": (0, (1, 2))}
    left.plot([0, 100], [0, 100], **chance)
    right.plot([0, 100], [100 * share] * 2, **chance)
    for i, (name, values) in enumerate(scores.items()):
        look = {"color": style.CYCLE[i % len(style.CYCLE)], "linestyle": style.DASHES[i % len(style.DASHES)]}
        curve, name = roc_curve(labels, values), style.short(name, 22)
        text = f"{name}: AUROC {roc_auc(labels, values):.3f}"
        left.plot(100 * curve.fpr, 100 * curve.tpr, linewidth=1.8, label=text, **look)
        precision, recall, _ = precision_recall_curve(*labelled(labels, values))
        # Only where recall rises: the area under these steps is the average precision.
        rises = np.flatnonzero(np.diff(recall))[::-1]
        x, y = np.r_[0, recall[rises]], precision[np.r_[rises[:1], rises]]
        text = f"{name}: AP {average_precision(labels, values):.3f}"
        right.step(100 * x, 100 * y, where="pre", linewidth=1.8, label=text, **look)
    style.tidy(
        left, xlabel="normal images flagged (%)", ylabel="anomalous images flagged (%)", title=title, grid="both"
    )
    style.tidy(right, xlabel="recall: anomalous flagged (%)", ylabel="precision (%)", grid="both")
    for axes in (left, right):
        axes.set_xlim(-2, 102)
        axes.set_ylim(-2, 104)
        drawn = axes.legend(loc="best", fontsize=8, framealpha=0.85, labelcolor=style.INK, handlelength=2.6)
        drawn.get_frame().set(facecolor=style.PAPER, edgecolor="none")
