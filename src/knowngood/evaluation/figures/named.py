"""Figures of scores and of training, as a report has them, of a `Subject`: each calls the function of arrays."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from knowngood.errors import DataError
from knowngood.evaluation.conditions import by_condition, sharing_groups
from knowngood.evaluation.evaluate import results
from knowngood.evaluation.figures import false_alarms, losses, separation, triptych
from knowngood.evaluation.figures.subject import Subject
from knowngood.evaluation.results import Results, check_both
from knowngood.metrics import auroc_interval


def triptychs(subject: Subject, *, items: list[str] | None = None, most: int = 6) -> Figure:
    """The `most` most anomalous images, or those in `items`; with anomaly maps where there is no reconstruction."""
    table, images = subject.table(), subject.data()
    if items is None:
        score = table["anomaly_score"].to_numpy(float)
        order = np.argsort(-score, kind="stable")  # NaN last
        images = images[order[~np.isnan(score[order])][:most]]
    else:
        images = subject.chosen(items)
    rows = table.set_index("id").loc[images.ids]
    pairs, scales = subject.pairs(images)
    values = zip(images.ids, rows["anomaly_score"], rows["p_value"], strict=True)
    captions = [f"{name}: score {score:.4g}, p = {p:.2g}" for name, score, p in values]
    return triptych.triptychs(pairs, captions, scales)


def histogram(subject: Subject, *, bins: int = 40) -> Figure:
    """Scores of all images by label, with the threshold of the fit."""
    return separation.score_histogram(_results(subject), bins=bins)


def box(subject: Subject, *, by: str | None = None, violins: bool = False) -> Figure:
    """One box, or violin, a class or value of the column `by`."""
    groups = subject.groups(subject.data(), by)
    name = by or ("class" if groups is not None else "")
    groups = np.full(len(subject.data()), "all") if groups is None else groups
    return separation.scores_by_class(_results(subject), groups, group_name=name, violins=violins)


violin = partial(box, violins=True)


def roc(subject: Subject) -> Figure:
    """The curve, its 95 % interval, and the point of the verdicts."""
    scored = _results(subject)
    check_both(scored.labels, subject.data().name)
    return separation.roc(scored, auroc_interval(scored.labels, scored.scores))


def curves(subject: Subject) -> Figure:
    """All models on the images that each of them could score."""
    scores = {name: subject.table(model)["anomaly_score"].to_numpy(float) for name, model in subject.models.items()}
    labels = np.where(np.isnan([*scores.values()]).any(0), np.nan, subject.data().labels)
    check_both(labels, subject.data().name)
    return separation.curves(labels, scores)


def calibration(subject: Subject) -> Figure:
    """P-values of the normal images, with the expected band."""
    scored = _results(subject)
    groups = sharing_groups(by_condition(scored), scored.calibration.get("pooled_n"))
    return false_alarms.calibration(scored, groups)


def rates(subject: Subject, *, most: int = 20) -> Figure:
    """Share of the normal images of each condition that is flagged."""
    scored = _results(subject)
    return false_alarms.false_alarm_rates(by_condition(scored), alpha=scored.alpha, most=most)


def loss(subject: Subject, *, most: int = 6) -> Figure:
    """Panels of the training log that was saved with the model."""
    history = subject.detector.training_.get("history", [])
    if not history:
        raise DataError("this model has no training log: either it trains no network, or training.json is missing")
    return losses.loss_curves(history, best_step=subject.detector.about_["training"]["best_step"], most=most)


def _results(subject: Subject) -> Results:
    return results(subject.detector, subject.table(), given=subject.visible(subject.data()).conditions)
