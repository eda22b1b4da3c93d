"""One image explained: its expected appearance, its anomaly map, what deviates, and the nearest normal images."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from knowngood.calibration.map_scale import legend
from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.overlay import overlay
from knowngood.evaluation.figures.pixels import as_rgb, displayed, map_of_size, thinned

if TYPE_CHECKING:
    from knowngood.detector.explain import Explanation
    from knowngood.detector.explain.explanation import Nearest

NEAREST = 3  # normal images drawn
WIDE = 96  # characters of a line of text
HEADING, LINE, PICTURES = 0.45, 0.165, 3.6  # inches
LONGEST = 24  # characters of an id
MARGIN, SMALLEST = 2.0, 24  # of an enlarged area: its side over that of the region; pixels
POSED = (
    "Normal parts are turned and cropped to the pose that all parts are compared in. So is the picture on the left, "
    "where a part was found in it."
)
_TITLE: dict[str, Any] = {"fontsize": 9, "color": style.INK}


def explanation(one: Explanation, normals: Mapping[str, np.ndarray] | None = None) -> Figure:
    """Image | map over it | its most anomalous area | the same place in normal images | the nearest normal images.

    Args:
        normals: images (H, W, C) of normal images by id; those that are not there are named only.
    """
    lines = [line for text in one.sentences for line in textwrap.wrap(text, 2 * WIDE)]
    high = HEADING + LINE * len(lines)
    figure = style.new_figure(13.2, high + PICTURES)
    head, body = figure.subfigures(2, 1, squeeze=False, height_ratios=(high, PICTURES))[:, 0]
    name, first = style.short(one.id, 80), 1 - 0.85 * HEADING / high
    head.text(0.01, 1 - 0.1 / high, name, va="top", fontsize=12, fontweight="bold", color=style.INK)
    head.text(0.01, first, style.plain("\n".join(lines)), va="top", fontsize=8.2, color=style.INK, linespacing=1.3)
    beside = _neighbours(one, normals or {})
    ratios = (1, 1, 1, 1, 0.8) if beside or not one.nearest else (1, 1, 1, 1)  # the sentences name them, too
    five = body.subplots(1, len(ratios), width_ratios=ratios)
    _panel(five[0], "image", displayed(thinned(one.image)))
    _panel(five[1], "anomaly map", mapped(one), one.missing.get("map"))
    five[1].set_xlabel(style.plain(textwrap.fill(legend([one.scale]), 56)), fontsize=6.5, color=style.MUTED)
    expected = one.mean_image if one.reconstruction is None else one.reconstruction
    what = "the mean normal image" if one.reconstruction is None else "its reconstruction"
    here = displayed(one.model_input) if one.view_box is None else _part(one.model_input, one.view_box)
    there = expected if expected is None or one.view_box is None else _part(expected, one.view_box)
    _panel(five[2], "as the model sees it" if one.view_box is None else "that area, as the model sees it", here)
    title = what if one.view_box is None else f"the same place in {what}"
    _panel(five[3], title, None if there is None else as_rgb(there, (0.0, 1.0)), one.missing.get("mean_image"))
    if one.posed and one.mean_image is not None:
        five[3].set_xlabel(style.plain(textwrap.fill(POSED, 56)), fontsize=6.5, color=style.MUTED)
    if len(ratios) == 5:
        _draw_neighbours(five[4], one, beside)
    return figure


def _part(image: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """The part of a scaled image (h, w, C) in a box of shares, as a square with a margin, as (a, b, 3) in 0…1."""
    height, width = image.shape[:2]
    top, left, bottom, right = box
    half = max(MARGIN * max((bottom - top) * height, (right - left) * width), SMALLEST) / 2
    middle = (top + bottom) / 2 * height, (left + right) / 2 * width
    rows, columns = (
        slice(max(0, round(at - half)), min(side, round(at + half)))
        for at, side in zip(middle, (height, width), strict=True)
    )
    return as_rgb(image[rows, columns], (0.0, 1.0))


def mapped(one: Explanation) -> np.ndarray | None:
    """The map over the image, (h, w, 3) uint8; None without a map."""
    if one.map is None or one.scale is None:
        return None
    image = thinned(one.image)
    return overlay(image, map_of_size(one.map, image.shape[:2]), one.scale)


def _panel(axes: Axes, title: str, picture: np.ndarray | None, why: str | None = None) -> None:
    """A picture, or why there is none."""
    axes.set_title(title, **_TITLE)
    axes.set_anchor("N")  # side by side, whatever stands below
    if picture is not None:
        style.show(axes, picture, frame=True)
        return
    style.bare(axes, frame=True)
    axes.set_aspect("equal")
    _say_absent(axes, why)


def _say_absent(axes: Axes, why: str | None) -> None:
    text = textwrap.fill(f"not available: {why}" if why else "not available", 26)
    axes.text(0.5, 0.5, style.plain(text), ha="center", va="center", fontsize=8, color=style.MUTED)


def _neighbours(one: Explanation, normals: Mapping[str, np.ndarray]) -> list[tuple[Nearest, np.ndarray | None]]:
    """The nearest normal images, each with its picture; empty where there is no picture of any."""
    shown = [(near, normals.get(near.id)) for near in one.nearest[:NEAREST]]
    if one.misfit and one.lookalikes:  # without the images themselves, the means of such images
        pairs = ((one.nearest[0], one.mean_image), (one.lookalikes[0], one.lookalike_image))
        shown = [(near, normals.get(near.id, mean)) for near, mean in pairs]
    return shown if any(picture is not None for _, picture in shown) else []


def _draw_neighbours(axes: Axes, one: Explanation, shown: list[tuple[Nearest, np.ndarray | None]]) -> None:
    """One below the other; named where there is no picture of one of them."""
    axes.set_axis_off()
    axes.set_title("stated, and what it looks like" if one.misfit else "nearest normal images", **_TITLE)
    if not shown:
        _say_absent(axes, one.missing.get("nearest", "there are none"))
    for i, (near, picture) in enumerate(shown):
        low = 1 - (i + 1) / NEAREST
        if picture is not None:
            room = axes.inset_axes((0.1, low + 0.09, 0.8, 1 / NEAREST - 0.1))
            room.imshow(displayed(picture), interpolation="antialiased")
            room.set_axis_off()
        at = low + (0.045 if picture is not None else 0.5 / NEAREST)
        # Images of one folder differ at the end of their ids.
        name = near.id if len(near.id) <= LONGEST else "…" + near.id[1 - LONGEST :]
        caption = f"{name}  (distance {near.distance:.3g})"
        axes.text(0.5, at, style.plain(caption), ha="center", va="center", fontsize=7.5, color=style.MUTED)
