"""Figures of scores and promises: how well they separate, whether false alarms keep to the rate, how training went."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from knowngood.data.select import sort_classes
from knowngood.errors import DataError
from knowngood.evaluation import figures
from knowngood.evaluation.drawing.subject import Subject


def histogram(subject: Subject, *, bins: int = 40) -> Figure:
    """Scores of all images by label, with the threshold of the fit."""
    scores = subject.table()["anomaly_score"].to_numpy(float)
    labels = subject.data().labels
    return figures.score_histogram(scores, labels, thresholds=_threshold(subject), unit=subject.unit, bins=bins)


def box(subject: Subject, *, by: str | None = None) -> Figure:
    """One box a class, or a value of the column `by`."""
    return _by_class(subject, by, "box")


def violin(subject: Subject, *, by: str | None = None) -> Figure:
    """One violin a class, or a value of the column `by`."""
    return _by_class(subject, by, "violin")


def roc(subject: Subject) -> Figure:
    """The curve of the first model, its 95 % interval, and the point of its verdicts."""
    from knowngood.metrics import bootstrap_interval

    table, labels = subject.table(), subject.data().labels
    scores = table["anomaly_score"].to_numpy(float)
    labels = np.where(np.isnan(scores), np.nan, labels)
    _both(labels)
    known = ~np.isnan(labels)
    flagged = None if math.isinf(subject.detector.offset_) else table["is_anomalous"].to_numpy(bool)
    interval = bootstrap_interval(labels[known], scores[known])
    return figures.roc(labels, scores, flagged=flagged, interval=(float(interval[0]), float(interval[1])))


def curves(subject: Subject, *, by: str | None = None, most: int = 6) -> Figure:
    """All models on the same images; with `by` one row a value of that column among the anomalous images."""
    images = subject.data()
    scores = {n: subject.table(detector)["anomaly_score"].to_numpy(float) for n, detector in subject.models.items()}
    unread = np.any([np.isnan(values) for values in scores.values()], axis=0)
    labels = np.where(unread, np.nan, images.labels)
    _both(labels)
    kinds = None if by is None else subject.groups(images, by)
    return figures.ranking_grid(labels, scores, kinds, most=most)


def calibration(subject: Subject) -> Figure:
    """P-values of the images labelled good, with the band that chance explains."""
    from knowngood.evaluation.report.expected import expected_band

    found, verdict = _judged(subject)
    calibrated, tested = verdict.groups
    p = found.table["p_value"].to_numpy(float)[: len(found.images)][found.images.labels == 0]
    band = expected_band(calibrated, tested) if calibrated and sum(tested) == len(p) else None
    return figures.calibration(p, band=band, alpha=found.alpha)


def rates(subject: Subject, *, most: int = 20) -> Figure:
    """Flagged share of the images labelled good in each condition."""
    found, verdict = _judged(subject)
    rows = [row for row in verdict.conditions if row.normals]
    return figures.false_alarm_rates(
        [row.name for row in rows],
        [row.false_alarms for row in rows],
        [row.normals for row in rows],
        [row.expected for row in rows],
        alpha=found.alpha,
        most=most,
    )


def loss(subject: Subject, *, most: int = 6) -> Figure:
    """Panels of the log that was kept with the model."""
    history = subject.detector.training_.get("history", [])
    if not history:
        raise DataError("the model was saved without the log of its training (training.json)")
    return figures.loss_curves(history, best_step=subject.detector.about_["training"]["best_step"], most=most)


def _by_class(subject: Subject, by: str | None, kind) -> Figure:
    images = subject.data()
    groups = subject.groups(images, by)
    name = by or ("class" if groups is not None else "")
    groups = np.full(len(images), "all") if groups is None else groups
    rank = {value: i for i, value in enumerate(sort_classes(set(groups.tolist())))}
    order = np.argsort([rank[value] for value in groups.tolist()], kind="stable")
    scores = subject.table()["anomaly_score"].to_numpy(float)[order]
    labels = None if np.isnan(images.labels).all() else images.labels[order]
    return figures.scores_by_class(
        scores, groups[order], labels, kind=kind, thresholds=_threshold(subject), unit=subject.unit, group_name=name
    )


def _threshold(subject: Subject) -> list[float]:
    return [-subject.detector.offset_]


def _both(labels: np.ndarray) -> None:
    good, bad = int((labels == 0).sum()), int((labels == 1).sum())
    if not good or not bad:
        raise DataError(
            f"{good} images labelled good and {bad} labelled anomalous; this figure needs both. "
            "Choose them with --normal, --anomalous or --holdout, in Python images.select."
        )


def _judged(subject: Subject):
    from knowngood.evaluation.evaluate import evaluate, report_inputs
    from knowngood.evaluation.report.verdict import judge

    found = evaluate(subject.detector, subject.shown(subject.data()), unknown=subject.unknown)
    return found, judge(report_inputs(subject.detector, found, title="", command="", pictures=False))
