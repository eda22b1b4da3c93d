"""The report's figures, each as inline SVG with a title, a text alternative and a sentence on how to read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from knowngood.errors import DataError
from knowngood.evaluation.figures.false_alarms import calibration, false_alarm_rates
from knowngood.evaluation.figures.losses import loss_curves
from knowngood.evaluation.figures.separation import roc, score_histogram, scores_by_class
from knowngood.evaluation.figures.style import to_svg
from knowngood.evaluation.report.inputs import ReportInputs
from knowngood.evaluation.report.verdict import Verdict
from knowngood.evaluation.report.words import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Plot = dict[str, Any]
MOST_GROUPS = 100  # with a box each
OPEN_GROUPS = 16  # more are folded
_REM_AN_INCH = 7  # at most, so that text in figures is not larger than around them

MODEL = {  # name in `figures.FIGURES` → title, caption, folded
    "latent": (
        "Latent codes of the images",
        "Each point is the posterior mean of one image. Look for images far from all others. A model that is given the "
        "condition need not keep it in the code, so conditions may overlap.",
        False,
    ),
    "samples": (
        "Draws from the prior",
        "Decoded from random codes. The more they look like normal images, the better the model knows these. A column "
        "shares one code: in it the condition alone differs.",
        False,
    ),
    "reconstructions": (
        "Reconstructions with E and A",
        "Images from all over the data, not the extremes. Normal images should come back as they were, anomalous ones "
        "without their anomaly.",
        True,
    ),
    "kl": (
        "Information in the latent dimensions",
        "Mean KL of each dimension: what it says of an image. Grey dimensions are hardly used. Where relevances are "
        "shown, 0 means that the dimension follows the prior.",
        True,
    ),
}


def plot(figure: Figure, name: str, title: str, alt: str, caption: str, *, folded: bool = False) -> Plot:
    """A figure for the page; `name` is unique on it. Folded ones open on a click."""
    width = f"{_REM_AN_INCH * figure.get_figwidth():.1f}rem"
    texts = {"title": title, "alt": alt, "caption": caption, "width": width}
    # matplotlib escapes the names in a figure
    svg = Markup(to_svg(figure, name))  # nosec B704
    return {"svg": svg, "folded": folded, **texts}


def separation(inputs: ReportInputs) -> list[Plot]:
    """ROC curve, if labels of both kinds are known, and the histogram of scores."""
    plots, lines = [], inputs.thresholds()
    if inputs.both_labels:
        alt = "ROC curve: share of anomalous images flagged against share of normal images flagged"
        caption = "Each point is one threshold. The nearer to the upper left corner, the better the separation."
        plots.append(plot(roc(inputs, inputs.metrics.get("auroc_interval")), "roc", "ROC curve", alt, caption))
    if np.isfinite(inputs.scores).any():
        alt = f"Histogram of {len(inputs.table):,} anomaly scores by label" + (", with the threshold" if lines else "")
        which = "its condition's threshold" if len(lines) > 1 else "the threshold"
        caption = "All labels share their bins; each is drawn as a share of its own images."
        caption += f" An image right of {which} is flagged." if lines else ""
        plots.append(plot(score_histogram(inputs), "histogram", "Scores", alt, caption))
    return plots


def by_group(inputs: ReportInputs) -> list[Plot]:
    """Scores of each class, or of each condition where classes are not known."""
    groups = inputs.groups
    if groups is None or not np.isfinite(inputs.scores).any():
        return []
    what, names = groups
    count = len(set(names[np.isfinite(inputs.scores)]))
    if count > MOST_GROUPS:
        return []
    figure = scores_by_class(inputs, names, group_name=what)
    alt = f"Quartiles of the anomaly scores of each of {count} values of {what}"
    caption = f"Look for a {what} whose normal images come near the threshold: false alarms come from there."
    caption += " Anomalous ones left of it are missed." if (inputs.labels == 1).any() else ""
    return [plot(figure, "by-group", f"Scores by {what}", alt, caption, folded=count > OPEN_GROUPS)]


def false_alarms(inputs: ReportInputs, verdict: Verdict) -> list[Plot]:
    """Requested against realised false-alarm rate, overall and by condition, where normals are known."""
    p, (calibrated, tested) = inputs.p_values[inputs.labels == 0], verdict.groups
    if not np.isfinite(p).any():
        return []
    alt = f"Share of {len(p):,} normal images flagged against the requested false-alarm rate"
    caption = "For every rate that could be requested, the share of the normal images that would be flagged. Below the "
    caption += "diagonal there are fewer false alarms than requested, above it more."
    caption += " The grey band holds 95 % of calibrations." if calibrated and sum(tested) == len(p) else ""
    figure = calibration(inputs, verdict.groups)
    plots = [plot(figure, "calibration", "Requested and realised rate", alt, caption)]
    rows = [row for row in verdict.conditions if row.normals]
    if len(rows) > 1 and inputs.attainable:
        figure = false_alarm_rates(rows, alpha=inputs.alpha)
        alt = f"Realised false-alarm rate of {len(rows)} conditions against the requested {percent(inputs.alpha)}"
        caption = "A dot right of its grey bar: more false alarms than expected in that condition."
        if all(row.expected is None for row in rows):
            caption = "Share of the normal images of each condition that is flagged."
        plots.append(plot(figure, "rates", "False alarms by condition", alt, caption))
    return plots


def model(inputs: ReportInputs) -> list[Plot]:
    """Figures of the model itself, if it was drawn."""
    return [
        plot(inputs.model_figures[name], name, title, title, caption, folded=folded)
        for name, (title, caption, folded) in MODEL.items()
        if name in inputs.model_figures
    ]


def training(inputs: ReportInputs) -> list[Plot]:
    """Loss and terms, if there is a history."""
    try:
        figure = loss_curves(inputs.history, best_step=inputs.best_step)
    except DataError:
        return []
    caption = "Lower loss is better. A held-out line that rises while the training line falls means overfitting. "
    caption += "The very first steps may leave the frame."
    return [plot(figure, "loss", "Loss and its terms", "Loss and its terms over the training steps", caption)]
