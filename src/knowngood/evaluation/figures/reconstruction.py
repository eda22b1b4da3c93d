"""The reconstructions of several models beside the same images, with both anomaly scores E and A."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from knowngood.data import ImageSet
from knowngood.errors import SettingsError
from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.pixels import as_rgb, reduced, value_range
from knowngood.evaluation.figures.subject import Reconstructed, Subject, spread
from knowngood.evaluation.figures.tiles import LARGEST, draw_tiles
from knowngood.training.film import Film


def reconstructions(subject: Subject, *, items: list[str] | None = None, most: int = 4, ids: bool = True) -> Figure:
    """Up to `most` normal and as many anomalous images, spread over the data, or those in `items`.

    One column an image, one row a model; under each reconstruction E and A, and the condition that it was decoded
    under: the image's own, or the one inferred.

    Args:
        ids: name each image.
    """
    images = chosen_images(subject, items, most)
    views = {name: subject.reconstructed(images, detector) for name, detector in subject.models.items()}
    first, (inputs, _) = next(iter(views.items()))
    for name, (other, _) in views.items():
        if other.shape != inputs.shape:
            raise SettingsError(
                f"model '{name}' takes images of {other.shape[1:]}, '{first}' of {inputs.shape[1:]}; "
                "compare models of the same image size"
            )
    models, labels = {name: view for name, (_, view) in views.items()}, images.labels
    order = np.argsort(np.where(np.isnan(labels), 2, labels), kind="stable")
    inputs, limits = reduced(inputs, LARGEST), value_range([inputs])
    pictures = {name: reduced(made.images, LARGEST) for name, made in models.items()}
    height, width = inputs.shape[1:3]
    tile, wide = 0.85, max(0.85 * width / height, 1.15)
    rows, columns = 1 + len(models), len(order)
    conditioned = sum(made.conditions is not None for made in models.values())
    figure = style.new_figure(0.8 + columns * wide, 0.95 + rows * (tile + 0.24) + 0.12 * conditioned)
    grid = figure.subplots(rows, columns, squeeze=False)
    for column, i in zip(grid.T, order, strict=True):
        name, colour = _LABELS.get(float(labels[i]), ("not labelled", style.UNKNOWN))
        style.show(column[0], as_rgb(inputs[i], limits), tile=max(height, width))
        text = f"{name}\n{style.short(images.ids[i], 14)}" if ids else name
        column[0].set_title(text, fontsize=8, color=colour)
        for axes, (name, made) in zip(column[1:], models.items(), strict=True):
            style.show(axes, as_rgb(pictures[name][i], limits), tile=max(height, width))
            axes.set_xlabel(scores_in_words(made, i), fontsize=7.5, color=colour, labelpad=2)
    look: dict[str, Any] = {"rotation": 0, "ha": "right", "va": "center", "labelpad": 6, "fontweight": "bold"}
    for axes, name in zip(grid[:, 0], ["input", *models], strict=True):
        axes.set_ylabel(style.short(name, 20), fontsize=9, color=style.INK, **look)
    note = "E = −ELBO (nats), A = ‖x − x̂‖₂ (pixels 0 to 1); higher is more anomalous"
    note += "\nas: the class or condition it was decoded under, inferred where it is hidden" if conditioned else ""
    figure.supxlabel(note, fontsize=7.5, color=style.MUTED)
    return figure


def chosen_images(subject: Subject, items: list[str] | None, most: int) -> ImageSet:
    """Up to `most` normal and as many anomalous images, spread over the data, or those in `items`."""
    if items is not None:
        return subject.chosen(items)
    images = subject.data()
    kinds = [np.flatnonzero(images.labels == value) for value in (0, 1)]
    if not any(map(len, kinds)):
        kinds = [np.arange(len(images))]
    return images[np.concatenate([rows[spread(len(rows), most)] for rows in kinds if len(rows)])]


def scores_in_words(made: Reconstructed, i: int) -> str:
    """E and A of image i, and the condition that it was decoded under, a line each."""
    text = f"E {_plain(float(made.e[i]), 1)}\nA {_plain(float(made.a[i]), 2)}"
    return text if made.conditions is None else f"{text}\nas {style.short(made.conditions[i], 14)}"


def film_frames(film: Film, history: Sequence[Mapping[str, Any]]) -> Iterator[Figure]:
    """One figure an evaluation, for a GIF: held-out images above, reconstructions below; `history`: of `training_`."""
    losses = {row["step"]: row["loss/model"] for row in history if row["split"] == "held_out"}
    count, height, width, _ = film.inputs.shape
    for step, made in zip(film.steps, film.frames, strict=True):
        figure = style.new_figure(1.2 + 0.62 * count * width / height, 1.75)
        axes = figure.add_subplot()
        draw_tiles(axes, np.stack([film.inputs, made]) / 255, rows=["input", "reconstruction"])
        loss = f": held-out loss {style.signed(losses[step])} nats" if step in losses else ""
        axes.set_xlabel(f"step {step:,}{loss}", fontsize=9, color=style.INK, loc="left")
        yield figure


def _plain(value: float, digits: int) -> str:
    """With so many decimals, large ones with none, and a true minus sign."""
    return f"{value:.{digits if abs(value) < 1000 else 0}f}".replace("-", "−")


_LABELS = {0.0: ("normal", style.NORMAL), 1.0: ("anomalous", style.ANOMALOUS)}
