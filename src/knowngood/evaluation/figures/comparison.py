"""Models side by side: codes in the plane, decoded codes, reconstructions and ROC curves, one column a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.latent import MANY, project, scatter
from knowngood.evaluation.figures.reconstruction import chosen_images, scores_in_words
from knowngood.evaluation.figures.subject import MOST_CODED, Subject, spread
from knowngood.evaluation.figures.tiles import draw_tiles
from knowngood.metrics import roc_auc, roc_curve

STEPS = 9  # positions along a dimension
CONDITIONS = 10  # at most
COLUMN = 3.6  # inches


def models(
    subject: Subject,
    *,
    projection: str = "auto",
    by: str | None = None,
    items: list[str] | None = None,
    reach: float = 2.0,
    most: int = 2,
    seed: int = 0,
) -> Figure:
    """One column a model: its codes in the plane, its manifold, reconstructions with E and A, and its ROC curve.

    The manifold is the plane of the two dimensions of highest KL; of a conditional model, one row a condition along the
    dimension of highest KL. Without labels of both kinds there is no ROC curve.

    Args:
        projection, by, seed: see `latent`.
        items, most: see `reconstructions`.
        reach: see `manifold`.
    """
    labels = subject.data().labels
    both = bool((labels == 0).any() and (labels == 1).any())
    heights = [3.2, 3.2, 2.0, 3.0][: 3 + both]
    figure = style.new_figure(COLUMN * len(subject.models) + 0.5, sum(heights) + 1.2)
    grid = figure.subplots(len(heights), len(subject.models), squeeze=False, height_ratios=heights)
    for column, (name, detector) in zip(grid.T, subject.models.items(), strict=True):
        alone = replace(subject, models={name: detector})
        _codes(column[0], alone, projection, by, seed)
        column[0].set_title(style.short(name, 24), fontsize=11, color=style.INK, fontweight="bold")
        _manifold(column[1], alone, reach)
        _reconstructions(column[2], alone, items, most)
        if both:
            _roc(column[3], alone)
    handles, names = figure.axes[0].get_legend_handles_labels()
    look = {"fontsize": 8.5, "frameon": False, "labelcolor": style.INK, "markerscale": 1.6}
    figure.legend(handles, names, loc="outside lower center", ncols=2 * len(subject.models), **look)  # type: ignore[arg-type]
    return figure


def _codes(axes: Axes, subject: Subject, projection: str, by: str | None, seed: int) -> None:
    images = subject.sample(MOST_CODED)
    points, (xlabel, ylabel) = project(subject.codes(images).mean, projection, seed=seed)
    scatter(axes, points, subject.groups(images, by), images.labels)
    xlabel += "\nlines: half of a group" if len(points) >= MANY else ""
    style.tidy(axes, xlabel=xlabel, ylabel=ylabel, grid="both", size=8.5)


def _manifold(axes: Axes, subject: Subject, reach: float) -> None:
    known = subject.conditions()
    some = spread(len(known.names or [""]), CONDITIONS)
    mean, deviation = (values[some] for values in subject.prior(known))
    first, second = [*np.argsort(-subject.mean_kl(), kind="stable"), 0][:2]
    along = np.linspace(-reach, reach, STEPS)
    columns = [style.signed(value) if i % 4 == 0 else "" for i, value in enumerate(along)]
    move = np.zeros((1 if known.names is None else len(some), STEPS, STEPS, mean.shape[1]))
    move[..., second] = 0 if known.names is not None else along[::-1, None]
    move[..., first] = along  # last, so that a model of one dimension has it
    z = mean[:, None, None] + deviation[:, None, None] * move
    if known.names is None:
        z, c, rows, ylabel = z[0], None, columns[::-1], f"z{second}"
    else:
        assert known.c is not None
        z, c, rows, ylabel = z[:, 0], known.c[some][:, None], [known.names[i] for i in some], known.what
    draw_tiles(axes, subject.decoded(z, c), rows=rows, columns=columns)
    axes.set_xlabel(f"z{first}, in prior standard deviations", fontsize=8.5, color=style.INK)
    axes.set_ylabel(style.plain(ylabel), fontsize=8.5, color=style.INK)


def _reconstructions(axes: Axes, subject: Subject, items: list[str] | None, most: int) -> None:
    images = chosen_images(subject, items, most)
    inputs, made = subject.reconstructed(images)
    kinds = {0.0: "normal", 1.0: "anomalous"}
    columns = [f"{kinds.get(float(images.labels[i]), '')}\n{scores_in_words(made, i)}" for i in range(len(inputs))]
    draw_tiles(axes, np.stack([inputs, made.images]).clip(0, 1), rows=["input", "decoded"], columns=columns)
    axes.tick_params(axis="x", labelsize=7)


def _roc(axes: Axes, subject: Subject) -> None:
    scores, labels = subject.table()["anomaly_score"].to_numpy(float), subject.data().labels
    labels = np.where(np.isnan(scores), np.nan, labels)
    curve = roc_curve(labels, scores)
    axes.plot([0, 100], [0, 100], color=style.MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    text = f"AUROC {roc_auc(labels, scores):.3f}"
    axes.plot(100 * curve.fpr, 100 * curve.tpr, color=style.NORMAL, linewidth=1.8, label=text)
    axes.set(xlim=(-2, 102), ylim=(-2, 102))
    style.tidy(axes, xlabel="normal images flagged (%)", ylabel="anomalous flagged (%)", grid="both", size=8.5)
    style.legend(axes, loc="lower right")
