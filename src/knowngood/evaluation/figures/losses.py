"""Loss and its terms over training, on training and held-out images, one small panel a quantity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from knowngood.errors import DataError
from knowngood.evaluation.figures import style

_NOT_TERMS = ("step", "epoch", "split", "images_per_s", "seconds", "lr", "gradient_norm")
_COLOURS = {"train": style.NORMAL, "held_out": style.ANOMALOUS}
# What a panel counts in, where it is not nats an image.
_UNITS = {
    "tc_skipped": "share of images",
    "factor_error": "squared error",
    "relevant": "sum of relevances",
    "mmd": "squared MMD",
}
_TITLES = {"loss/model": "loss", "kl": "KL", "tc": "total correlation", "tc_skipped": "left out of TC"}


def loss_curves(history: Sequence[Mapping[str, Any]], *, best_step: int | None = None, most: int = 6) -> Figure:
    """One panel for each loss and term over the training steps, one line a split; nats an image, unless it says so.

    The first 5 % of the steps may leave the frame where they would flatten the rest.

    Args:
        history: rows with `step`, `split` and any number of named values, such as `loss/model`, `reconstruction`, `kl`.
        best_step: the step whose weights were kept; marked.
        most: panels at most; losses come first.

    Raises:
        DataError: the history holds no finite value.
    """
    lines = _series(history)
    names = sorted(lines, key=lambda name: not name.startswith("loss"))[:most]
    if not names:
        raise DataError(f"loss_curves: no finite value in the {len(history)} rows of the history")
    columns = min(len(names), 3)
    rows = math.ceil(len(names) / columns)
    figure = style.new_figure(3.0 * columns + 0.2, 2.3 * rows + 0.3)
    for position, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, position + 1)
        for split, points in lines[name].items():
            look = {"color": _COLOURS.get(split, style.UNKNOWN), "marker": "o" if len(points) == 1 else None}
            axes.plot(*zip(*points, strict=True), linewidth=1.5, label=split.replace("_", " "), **look)
        if best_step is not None:
            look = {"color": style.MUTED, "linewidth": 1, "linestyle": (0, (2, 2))}
            axes.axvline(best_step, label=f"kept: step {best_step:,}", **look)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        title = style.plain(_TITLES.get(name) or name.replace("loss/", "loss of ").replace("_", " "))
        unit = _UNITS.get(name, "" if position % columns else "nats per image")
        style.tidy(axes, xlabel="step", ylabel=unit, title=title)
        _frame(axes, lines[name])
        if position == 0:
            style.legend(axes)
    return figure


def _frame(axes: Axes, lines: Mapping[str, list[tuple[float, float]]]) -> None:
    """Cut the very first steps off above and below where they would flatten everything after them."""
    points = np.array([point for line in lines.values() for point in line])
    later = points[points[:, 0] > points[:, 0].min() + 0.05 * np.ptp(points[:, 0]), 1]
    if len(later) > 1 and np.ptp(points[:, 1]) > 2 * np.ptp(later) > 0:
        margin = 0.08 * np.ptp(later)
        axes.set_ylim(later.min() - margin, later.max() + margin)


def _series(history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Name → split → finite (step, value) points, in the history's order."""
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in history:
        for name, value in row.items():
            if name.startswith(_NOT_TERMS) or isinstance(value, (str, bool)) or value is None:
                continue
            if math.isfinite(value):
                splits = lines.setdefault(name, {})
                splits.setdefault(str(row.get("split", "train")), []).append((row["step"], float(value)))
    return lines
