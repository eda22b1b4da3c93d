"""What each model makes of the same images, with how odd it finds them: normal rows above, anomalous rows below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from knowngood.errors import DataError
from knowngood.figures import style
from knowngood.figures.tiles import show
from knowngood.figures.triptychs import as_rgb, value_range


class Reconstructed(NamedTuple):
    """One model's view of N images."""

    images: np.ndarray  # (N, H, W, C), scaled like the inputs
    e: np.ndarray  # (N,) E(x) = −ELBO in nats
    a: np.ndarray  # (N,) A(x) = ‖x − x̂‖₂


def reconstructions(
    inputs: np.ndarray, models: Mapping[str, Reconstructed], labels: np.ndarray, *, ids: Sequence[str] | None = None
) -> Figure:
    """One row an image, one column a model, E and A under each reconstruction.

    Args:
        inputs: (N, H, W, C), scaled so that the data range is 0…1.
        models: name → what that model makes of them.
        labels: (N,) 0 normal, 1 anomalous, NaN unknown; rows are ordered so.
        ids: of the images, written at the left.

    Raises:
        DataError: no image or no model.
    """
    if not len(inputs) or not models:
        raise DataError(f"reconstructions: {len(inputs)} images and {len(models)} models given; at least 1 of each")
    labels = np.asarray(labels, float)
    order = np.argsort(np.where(np.isnan(labels), 2, labels), kind="stable")
    limits = value_range([inputs])
    height, width = inputs.shape[1:3]
    tile = 0.85
    figure = style.new_figure(
        1.2 + (1 + len(models)) * max(tile * width / height, 1.15), 0.7 + len(order) * (tile + 0.22)
    )
    grid = figure.subplots(len(order), 1 + len(models), squeeze=False)
    for row, i in zip(grid, order, strict=True):
        name, colour = _LABELS.get(float(labels[i]), ("not labelled", style.UNKNOWN))
        show(row[0], as_rgb(inputs[i], limits), tile=max(height, width))
        text = name if ids is None else f"{name}\n{style.short(ids[i], 18)}"
        row[0].set_ylabel(text, fontsize=8, color=colour, rotation=0, ha="right", va="center", labelpad=6)
        for axes, made in zip(row[1:], models.values(), strict=True):
            show(axes, as_rgb(made.images[i], limits), tile=max(height, width))
            axes.set_xlabel(
                f"E {made.e[i]:.1f}   A {made.a[i]:.2f}".replace("-", "−"), fontsize=7.5, color=colour, labelpad=2
            )
    for axes, name in zip(grid[0], ["input", *models], strict=True):
        axes.set_title(style.short(name, 20), fontsize=9, color=style.INK, fontweight="bold")
    note = "E = −ELBO (nats), A = ‖x − x̂‖₂ (pixels 0 to 1)"
    figure.supxlabel(f"{note}\nhigher is odder", fontsize=7.5, color=style.MUTED)
    return figure


_LABELS = {0.0: ("normal", style.NORMAL), 1.0: ("anomalous", style.ANOMALOUS)}
