"""The report's figures, each as inline SVG with a title, a text alternative and a sentence on how to read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from knowngood.errors import DataError
from knowngood.evaluation import figures
from knowngood.evaluation.figures.style import to_svg
from knowngood.evaluation.report.conditions import INFERRED, natural, stratum_of
from knowngood.evaluation.report.expected import expected_band
from knowngood.evaluation.report.inputs import ReportInputs
from knowngood.evaluation.report.verdict import Verdict
from knowngood.evaluation.report.words import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Plot = dict[str, Any]
MOST_GROUPS = 100  # with a box each
OPEN_GROUPS = 16  # more are folded away
_REM_AN_INCH = 7  # at most, so that text in figures is not larger than around them


def plot(figure: Figure, name: str, title: str, alt: str, caption: str, *, folded: bool = False) -> Plot:
    """A figure for the page; `name` is its own on it. Folded ones open on a click."""
    width = f"{_REM_AN_INCH * figure.get_figwidth():.1f}rem"
    texts = {"title": title, "alt": alt, "caption": caption, "width": width}
    return {"svg": Markup(to_svg(figure, name)), "folded": folded, **texts}


def separation(inputs: ReportInputs, verdict: Verdict) -> list[Plot]:
    """ROC curve, if labels of both kinds are known, and the histogram of scores."""
    labels, scores, plots = inputs.labels, inputs.scores, []
    if (labels == 0).any() and (labels == 1).any():
        flagged = inputs.flagged if verdict.attainable else None
        figure = figures.roc(labels, scores, flagged=flagged, interval=inputs.metrics.get("auroc_interval"))
        alt = "ROC curve: share of anomalous images flagged against share of normal images flagged"
        caption = (
            "Each point is one threshold. The nearer the curve to the upper left corner, the better the score tells "
        )
        plots.append(plot(figure, "roc", "ROC curve", alt, f"{caption}the two apart."))
    if np.isfinite(scores).any():
        lines = thresholds(inputs)
        names = (inputs.normal_name, inputs.anomalous_name)
        figure = figures.score_histogram(scores, labels, thresholds=lines, names=names, unit=inputs.score_unit)
        alt = f"Histogram of {len(scores):,} anomaly scores by label" + (", with the threshold" if lines else "")
        caption = "All labels share their bins; each is drawn as a share of its own images."
        if lines:
            caption += " An image right of the threshold is flagged."
            caption = caption.replace("the threshold", "its condition's threshold") if len(lines) > 1 else caption
        plots.append(plot(figure, "histogram", "Scores", alt, caption))
    return plots


def by_group(inputs: ReportInputs) -> list[Plot]:
    """Scores of each class, or of each condition where classes are not known."""
    found = inputs.groups
    if found is None or not np.isfinite(inputs.scores).any():
        return []
    what, names = found
    order = in_order(names)
    order = order[np.isfinite(inputs.scores[order])]
    count = len(set(names[order]))
    if count > MOST_GROUPS:
        return []
    figure = figures.scores_by_class(
        inputs.scores[order],
        names[order],
        inputs.labels[order] if inputs.labelled else None,
        thresholds=thresholds(inputs),
        names=(inputs.normal_name, inputs.anomalous_name),
        unit=inputs.score_unit,
        group_name=what,
    )
    alt = f"Quartiles of the anomaly scores of each of {count} values of {what}"
    caption = f"Look for a {what} whose normal images come near the threshold: false alarms come from there."
    if (inputs.labels == 1).any():
        caption += " Anomalous ones left of it are missed."
    return [plot(figure, "by-group", f"Scores by {what}", alt, caption, folded=count > OPEN_GROUPS)]


def thresholds(inputs: ReportInputs) -> list[float]:
    """Thresholds in the units of the table's scores: one, or one a stratum; none where they contradict the verdicts."""
    given = inputs.calibration
    if given.get("threshold") is not None:
        limit = np.full(len(inputs.table), float(given["threshold"]))
    else:
        known = {str(s["name"]): s["threshold"] for s in given.get("strata", ()) if s.get("threshold") is not None}
        names = stratum_of(inputs, list(known))
        limit = np.array([known.get(name.removesuffix(INFERRED), np.nan) for name in names], float)
    agree = ((inputs.scores > limit) == inputs.flagged)[inputs.judged & ~np.isnan(limit)]
    return sorted(set(limit[np.isfinite(limit)].tolist())) if agree.all() else []


def promise(inputs: ReportInputs, verdict: Verdict) -> list[Plot]:
    """Requested against realised false-alarm rate, overall and by condition, where normals are known."""
    p = inputs.p_values[inputs.labels == 0]
    (calibrated, tested), whose = verdict.groups, "the images labelled normal"
    if len(p) == 0:
        p, whose = np.asarray(inputs.calibration.get("p_values", ()), float), "normal images held out from training"
        strata = inputs.calibration.get("strata", ())
        calibrated, tested = ([int(strata[0]["n"])], [len(p)]) if len(strata) == 1 else ([], [])
    if not np.isfinite(p).any():
        return []
    band = expected_band(calibrated, tested) if calibrated and sum(tested) == len(p) else None
    figure = figures.calibration(p, band=band, alpha=inputs.alpha)
    alt = f"Share of {len(p):,} normal images flagged against the requested false-alarm rate"
    caption = f"For every rate one could request, the share of {whose} that would be flagged. "
    caption += "Below the diagonal there are fewer false alarms than requested, above it more."
    caption += " The grey band is what chance explains." if band is not None else ""
    plots = [plot(figure, "calibration", "Requested and realised rate", alt, caption)]
    rows = [row for row in verdict.conditions if row.normals]
    if len(rows) > 1 and verdict.attainable:
        figure = figures.false_alarm_rates(
            [row.name for row in rows],
            [row.false_alarms for row in rows],
            [row.normals for row in rows],
            [row.expected for row in rows],
            alpha=inputs.alpha,
        )
        alt = f"Realised false-alarm rate of {len(rows)} conditions against the requested {percent(inputs.alpha)}"
        caption = "A dot right of its grey bar: more false alarms than chance explains in that condition."
        if all(row.expected is None for row in rows):
            caption = "How many normal images are flagged in each condition."
        plots.append(plot(figure, "rates", "By condition", alt, caption))
    return plots


def training(inputs: ReportInputs) -> list[Plot]:
    """Loss and terms, if there is a history."""
    try:
        figure = figures.loss_curves(inputs.history, best_step=inputs.best_step)
    except DataError:
        return []
    caption = "Lower loss is better. A held-out line that rises while the training line falls means overfitting. "
    caption += "The very first steps may leave the frame."
    return [plot(figure, "loss", "Loss and its terms", "Loss and its terms over the training steps", caption)]


def in_order(names: np.ndarray) -> np.ndarray:
    """Indices that put equal names together, names in natural order."""
    rank = {name: i for i, name in enumerate(sorted(set(names), key=natural))}
    return np.argsort([rank[name] for name in names], kind="stable")
