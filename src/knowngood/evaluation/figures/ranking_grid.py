"""Several models on the same images: ROC and precision–recall side by side, one row a kind of anomaly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from knowngood.errors import DataError
from knowngood.evaluation.figures import style
from knowngood.metrics import average_precision, roc_auc, roc_curve
from knowngood.metrics.ranking import labelled


def ranking_grid(
    labels: np.ndarray,
    scores: Mapping[str, np.ndarray],
    kinds: Sequence[str] | np.ndarray | None = None,
    *,
    most: int = 6,
) -> Figure:
    """ROC on the left, precision against recall on the right; models differ in colour and dash.

    Args:
        labels: (N,) 0 normal, 1 anomalous, NaN unknown and left out.
        scores: model → (N,) anomaly scores of the same images.
        kinds: (N,) what kind of anomaly each anomalous image is: one row a kind, against all normals. None: one row.
        most: rows at most, those with most images; the last row's label says how many are left out.

    Raises:
        DataError: no model, labels of one kind only, or a labelled score that is NaN.
    """
    labels = np.asarray(labels, float)
    if not scores:
        raise DataError("ranking_grid: no model's scores given")
    rows = [("", labels)]
    left_out = 0
    if kinds is not None:
        kinds = np.asarray(kinds).astype(str)
        found, counts = np.unique(kinds[labels == 1], return_counts=True)
        kept = set(found[np.argsort(-counts, kind="stable")[:most]].tolist())
        left_out = len(found) - len(kept)
        rows = [(name, np.where((labels == 1) & (kinds != name), np.nan, labels)) for name in found if name in kept]
    figure = style.new_figure(8.4, (3.4 if len(rows) == 1 else 2.9) * len(rows) + (0.2 if left_out else 0))
    grid = figure.subplots(len(rows), 2, squeeze=False)
    for (left, right), (name, truth) in zip(grid, rows, strict=True):
        title = f"{style.short(name)} (n = {int((truth == 1).sum()):,}) against normal" if name else ""
        _draw_row(left, right, truth, scores, title)
    if left_out:
        figure.supxlabel(f"{left_out} kinds with fewer images are not drawn", fontsize=8, color=style.MUTED)
    return figure


def _draw_row(left: Axes, right: Axes, labels: np.ndarray, scores: Mapping[str, np.ndarray], title: str) -> None:
    from sklearn.metrics import precision_recall_curve

    share = float((labels == 1).sum() / max(np.isfinite(labels).sum(), 1))
    guess = {"color": style.MUTED, "linewidth": 0.9, "label": "guessing", "linestyle": (0, (1, 2))}
    left.plot([0, 100], [0, 100], **guess)
    right.plot([0, 100], [100 * share] * 2, **guess)
    for i, (name, values) in enumerate(scores.items()):
        look = {
            "color": style.CYCLE[i % len(style.CYCLE)], "linewidth": 1.8,
            "linestyle": style.DASHES[i % len(style.DASHES)],
        }  # fmt: skip
        curve = roc_curve(labels, values)
        text = style.short(name, 22)
        left.plot(100 * curve.fpr, 100 * curve.tpr, label=f"{text}: AUROC {roc_auc(labels, values):.3f}", **look)
        precision, recall, _ = precision_recall_curve(*labelled(labels, values))
        words = f"{text}: AP {average_precision(labels, values):.3f}"
        # Only where recall rises: the area under these steps is the average precision.
        rises = np.flatnonzero(np.diff(recall))[::-1]
        x, y = np.r_[0, recall[rises]], precision[np.r_[rises[:1], rises]]
        right.step(100 * x, 100 * y, where="pre", label=words, **look)
    style.tidy(left, xlabel="normal images flagged (%)", ylabel="anomalous flagged (%)", title=title, grid="both")
    style.tidy(right, xlabel="recall: anomalous flagged (%)", ylabel="precision (%)", grid="both")
    for axes in (left, right):
        axes.set_xlim(-2, 102)
        axes.set_ylim(-2, 104)
        drawn = axes.legend(loc="best", fontsize=8, framealpha=0.85, labelcolor=style.INK, handlelength=2.6)
        drawn.get_frame().set(facecolor=style.PAPER, edgecolor="none")
