"""One image explained: its expected appearance, its anomaly map, what deviates, and the nearest normal images."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.triptych import as_rgb

if TYPE_CHECKING:
    from knowngood.detector.explain import Explanation

NEAREST = 3  # normal images drawn
WIDE = 96  # characters of a line of text
LONGEST = 24  # characters of an id
LARGEST = 512  # pixels of a panel's longer side
_TITLE: dict[str, Any] = {"fontsize": 9, "color": style.INK}


def explanation(one: Explanation, normals: Mapping[str, np.ndarray] | None = None) -> Figure:
    """Input | reconstruction or mean normal image | map over the image | what deviates | the nearest normal images.

    Args:
        normals: images (H, W, C) of normal images by id; those that are not there are named only.
    """
    figure = style.new_figure(13.2, 4.3)
    head, body = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.0, 3.0))[:, 0]
    name = style.short(one.id, 80)
    head.text(0.01, 0.97, name, va="top", fontsize=12, fontweight="bold", color=style.INK)
    lines = textwrap.wrap(" ".join(one.sentences), 2 * WIDE)
    head.text(0.01, 0.68, style.plain("\n".join(lines)), va="top", fontsize=8.2, color=style.INK, linespacing=1.35)
    five = body.subplots(1, 5, width_ratios=(1, 1, 1, 1.15, 0.8))
    image = displayed(one.image)
    expected = one.mean_image if one.reconstruction is None else one.reconstruction
    title = "mean normal image" if one.reconstruction is None else "reconstruction"
    _panel(five[0], "image", image)
    _panel(five[1], title, None if expected is None else as_rgb(expected, (0.0, 1.0)), one.missing.get("mean_image"))
    _panel(five[2], "anomaly map", None if one.map is None else image, one.missing.get("map"))
    if one.map is not None:
        draw_map(five[2], one)
    _bars(five[3], one)
    _neighbours(five[4], one, normals or {})
    return figure


def displayed(image: np.ndarray) -> np.ndarray:
    """An image (H, W, C) of any type as (h, w, 3) in 0…1, integers over their range; large ones are thinned out."""
    step = max(1, max(image.shape[:2]) // LARGEST)
    image = image[::step, ::step]
    if image.dtype == np.uint8:
        return as_rgb(image, (0.0, 255.0))
    values = image[np.isfinite(image)] if image.dtype.kind == "f" else image
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if image.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return as_rgb(image, (low, high if high > low else low + 1))


def draw_map(axes: Axes, one: Explanation) -> None:
    """The map over an image that is drawn already, from its median to its largest value, with its regions."""
    assert one.map is not None
    step = max(1, max(one.map.shape) // LARGEST)
    values = one.map[::step, ::step]
    height, width = one.image.shape[:2]
    low, high = float(np.nanmedian(values)), float(np.nanmax(values))
    extent = axes.images[0].get_extent()
    axes.imshow(values, cmap=style.HEAT, vmin=low, vmax=max(high, low + 1e-12), extent=extent, interpolation="bilinear")
    x, y = (extent[1] - extent[0]) / width, (extent[2] - extent[3]) / height
    for region in one.regions:
        top, left, bottom, right = region.box
        at = (extent[0] + left * x, extent[3] + top * y)
        box = Rectangle(at, (right - left) * x, (bottom - top) * y, fill=False, edgecolor=style.INK, linewidth=1.2)
        axes.add_patch(box)


def _panel(axes: Axes, title: str, picture: np.ndarray | None, why: str | None = None) -> None:
    """A picture, or why there is none."""
    axes.set_title(title, **_TITLE)
    if picture is not None:
        style.show(axes, picture, frame=True)
        return
    style.bare(axes, frame=True)
    axes.set_aspect("equal")
    _say_absent(axes, why)


def _say_absent(axes: Axes, why: str | None) -> None:
    text = textwrap.fill(f"not available: {why}" if why else "not available", 26)
    axes.text(0.5, 0.5, style.plain(text), ha="center", va="center", fontsize=8, color=style.MUTED)


def _bars(axes: Axes, one: Explanation) -> None:
    """Features by their deviation, or latent dimensions by what they carry."""
    if one.components:
        names = [re.sub("(?=feature)|(?=lighter)", "\n", part.name) for part in one.components]
        values = [part.deviation for part in one.components]
        what, title = "standard deviations from the expected value", "features at the peak of the map"
    else:
        names = [f"dimension {part.dimension}" for part in one.latents]
        values = [part.nats for part in one.latents]
        what, title = "nats from the prior", "latent dimensions"
    colours = [style.ANOMALOUS if value > 0 else style.NORMAL for value in values]
    axes.barh(range(len(values)), values, color=colours, height=0.62)
    axes.set_yticks(range(len(values)), names)
    axes.invert_yaxis()
    axes.axvline(0, color=style.MUTED, linewidth=0.8)
    style.tidy(axes, xlabel=what, ylabel="", grid="x", size=8)
    axes.set_title(title, **_TITLE)


def _neighbours(axes: Axes, one: Explanation, normals: Mapping[str, np.ndarray]) -> None:
    """The nearest normal images, one below the other; named where there is no picture of them."""
    axes.set_axis_off()
    axes.set_title("stated, and what it looks like" if one.misfit else "nearest normal images", **_TITLE)
    if not one.nearest:
        _say_absent(axes, one.missing.get("nearest", "there are none"))
        return
    shown = [(near, None) for near in one.nearest[:NEAREST]]
    if one.misfit and one.lookalikes:  # without the images themselves, the means of such images
        shown = [(one.nearest[0], one.mean_image), (one.lookalikes[0], one.lookalike_image)]
    for i, (near, mean) in enumerate(shown):
        low = 1 - (i + 1) / NEAREST
        picture = normals.get(near.id, mean)
        if picture is not None:
            room = axes.inset_axes((0.1, low + 0.09, 0.8, 1 / NEAREST - 0.1))
            room.imshow(displayed(picture), interpolation="antialiased")
            room.set_axis_off()
        at = low + (0.045 if picture is not None else 0.5 / NEAREST)
        # Images of one folder differ at the end of their ids.
        name = near.id if len(near.id) <= LONGEST else "…" + near.id[1 - LONGEST :]
        caption = f"{name}  ({near.distance:.3g})"
        axes.text(0.5, at, style.plain(caption), ha="center", va="center", fontsize=7.5, color=style.MUTED)
