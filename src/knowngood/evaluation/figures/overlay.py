"""An anomaly map as colour over its image, at the image's size, with the outlines of what is above the threshold."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from knowngood.calibration.map_scale import MapScale
from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.pixels import displayed, heat

THIN = 400  # pixels of the longer side for each pixel of an outline


def overlay(image: np.ndarray, values: np.ndarray, scale: MapScale) -> np.ndarray:
    """(H, W, 3) uint8: an image (H, W, C) of any type, its map (H, W) in colour over it.

    What is not above the threshold stays as it is. What is, has an outline: dark red within, white around.
    """
    from scipy import ndimage

    share = scale.share(values)
    colours, above, picture = heat(share), share > 0, displayed(image)
    alpha = colours[..., 3:]
    picture = alpha * colours[..., :3] + (1 - alpha) * picture
    if above.any():
        box, width = np.ones((3, 3), bool), max(1, round(max(above.shape) / THIN))
        around = np.asarray(ndimage.binary_dilation(above, box, width), bool) & ~above
        within = above & ~np.asarray(ndimage.binary_erosion(above, box, width, border_value=1), bool)
        picture[around], picture[within] = 1.0, to_rgb(style.OUTLINE)
    return np.round(255 * picture).astype(np.uint8)


def colour_bar(words: str) -> Figure:
    """The colours of maps from where they begin to where they are full, with what that means in words."""
    figure = style.new_figure(6.4, 0.95)
    axes = figure.subplots()
    axes.imshow(heat(np.linspace(1e-6, 1, 256)[None]), aspect="auto", extent=(0, 1, 0, 1))
    style.bare(axes, frame=True)
    axes.set_xlabel(textwrap.fill(words, 100), fontsize=8, color=style.INK)
    return figure
