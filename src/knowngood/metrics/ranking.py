"""How well a score ranks anomalous items above normal ones: thin over scikit-learn.

All take labels (N,) with 0 normal, 1 anomalous and NaN unknown (ignored), and the continuous anomaly score (N,), higher
more anomalous. Do not give them p-values: those tie at 1/(n+1), and ties count half.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knowngood.errors import DataError, SettingsError

Floats = NDArray[np.float64]


class RocCurve(NamedTuple):
    """The points of a ROC curve, from the highest threshold to the lowest."""

    fpr: Floats  # (K,) share of normal items flagged, from 0 to 1
    tpr: Floats  # (K,) share of anomalous items flagged, from 0 to 1
    thresholds: Floats  # (K,) falling; items with score ≥ threshold are flagged; the first is +inf


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """P(anomalous item scores above a normal one), ties half. Raises DataError unless both classes are there.

    Args:
        labels: (N,) 0 normal, 1 anomalous, NaN unknown and left out. scores: (N,) higher is more anomalous.

    Example:
        >>> roc_auc([0, 0, 1], [0.1, 0.4, 0.9])
        1.0
    """
    from sklearn.metrics import roc_auc_score

    labels, scores = labelled(labels, scores)
    return float(roc_auc_score(labels, scores))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Precision averaged over the recall steps, anomalous items being the positives. Chance is their share."""
    from sklearn.metrics import average_precision_score

    labels, scores = labelled(labels, scores)
    return float(average_precision_score(labels, scores))


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> RocCurve:
    """The ROC curve at every distinct score."""
    from sklearn import metrics

    labels, scores = labelled(labels, scores)
    return RocCurve(*metrics.roc_curve(labels, scores, drop_intermediate=False))


def fpr_at_tpr(labels: ArrayLike, scores: ArrayLike, tpr: float = 0.95) -> float:
    """Share of normal items flagged at the highest threshold that flags at least `tpr` of the anomalous ones.

    Raises:
        SettingsError: `tpr` is not above 0 and up to 1. DataError: as `roc_auc`.
    """
    if not 0 < tpr <= 1:
        raise SettingsError(f"tpr = {tpr!r}; expected a share above 0 and up to 1, such as .95")
    curve = roc_curve(labels, scores)
    return float(curve.fpr[np.argmax(curve.tpr >= tpr * (1 - 1e-12))])


def labelled(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """The items whose label is known, both classes present.

    Raises:
        DataError: shapes differ, a label is not 0, 1 or NaN, a score is NaN, or one class is missing.
    """
    y, s = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    if y.ndim != 1 or y.shape != s.shape:
        raise DataError(f"labels {y.shape} and scores {s.shape}: expected two of the same shape (n,)")
    known = ~np.isnan(y)
    y, s = y[known], s[known]
    if not np.isin(y, (0, 1)).all():
        raise DataError(f"label {y[~np.isin(y, (0, 1))][0]:g}; expected 0 (normal), 1 (anomalous) or NaN (unknown)")
    if np.isnan(s).any():
        raise DataError(f"{np.isnan(s).sum()} of {len(s)} labelled items have the score NaN and cannot be ranked")
    normal, anomalous = int((y == 0).sum()), int((y == 1).sum())
    if not normal or not anomalous:
        raise DataError(
            f"a ranking needs normal and anomalous items; {normal} normal and {anomalous} anomalous labels are given"
        )
    # scikit-learn refuses infinities; put them beyond everything finite, which keeps the ranking.
    return y, np.nan_to_num(s, posinf=np.finfo(np.float64).max, neginf=np.finfo(np.float64).min)
