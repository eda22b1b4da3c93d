"""The report's figures of the model itself: where codes lie, draws from the prior, reconstructions, dimensions."""

from __future__ import annotations

import numpy as np

from knowngood.evaluation import figures
from knowngood.evaluation.report.inputs import Inside, ReportInputs
from knowngood.evaluation.report.plots import OPEN_GROUPS, Plot, in_order, plot


def inside(inputs: ReportInputs) -> list[Plot]:
    """All of them; none if the model was not looked into."""
    found = inputs.inside
    if found is None:
        return []
    codes = [_codes(inputs, found)] if len(found.codes) > 2 else []
    drawn = [] if found.draws is None else [_draws(found, found.draws)]
    made = [] if found.reconstructed is None else [_reconstructions(inputs, found, found.reconstructed)]
    return [*codes, *drawn, *made, _dimensions(found)]


def _codes(inputs: ReportInputs, found: Inside) -> Plot:
    groups, labels = inputs.groups, inputs.labels[found.coded]
    points, axes = figures.project(found.codes)
    what, names, order = "class", None, np.arange(len(points))
    if groups is not None:  # in their order in the legend
        what, names = groups[0], groups[1][found.coded]
        order = in_order(names)
        names = names[order]
    known = labels[order] if inputs.labelled else None
    figure = figures.latent_scatter(points[order], names, known, axis_names=axes, group_name=what, narrow=True)
    caption = "Each point is an image, where the mean of its code lies. "
    if (labels == 1).any():
        caption += "Look whether the crosses lie apart: those among the others are told by their reconstruction alone."
    else:
        caption += "Look for images far from all others."
    if found.conditional:
        caption += " A model that is told the condition need not keep it in the code, so conditions may overlap."
    return plot(figure, "codes", "Codes of the images", f"Codes of {len(points):,} images in the plane", caption)


def _draws(found: Inside, drawn: np.ndarray) -> Plot:
    rows, draws = drawn.shape[:2]
    figure = figures.prior_samples(drawn, found.draw_names, what=found.draw_what, room=8)
    caption = "Made by the model alone, from random codes. "
    if found.conditional:
        caption += f"Look whether each row could be good images of its {found.draw_what}. A column shares one code: in "
        caption += f"it the {found.draw_what} alone differs."
    else:
        caption += "Look whether they could be good images: the more they could, the better the model knows them."
    alt = f"{rows} rows of {draws} images drawn from the prior"
    return plot(figure, "draws", "What the model takes for good", alt, caption, folded=rows > OPEN_GROUPS)


def _reconstructions(inputs: ReportInputs, found: Inside, made: figures.Reconstructed) -> Plot:
    assert found.shown is not None
    assert found.inputs is not None
    labels = inputs.labels[found.shown]
    figure = figures.reconstructions(found.inputs, {"model": made}, labels, across=True)
    caption = "Images from all over the data, not the extremes. Look whether good ones come back as they were"
    caption += ", and odd ones without what is odd about them." if (labels == 1).any() else "."
    alt = f"{len(labels)} images above their reconstructions, with E and A"
    return plot(figure, "reconstructions", "Reconstructions with E and A", alt, caption, folded=True)


def _dimensions(found: Inside) -> Plot:
    figure = figures.kl_bars(found.kl, relevance=found.relevance)
    caption = "What each dimension of the code tells of an image. Look how many are blue: grey ones are hardly used."
    if found.relevance is not None:
        caption += " Below, how relevant the method found each: 0 is left to the prior."
    alt = f"Mean KL in nats of {len(found.kl)} latent dimensions, largest first"
    return plot(figure, "dimensions", "What the latent dimensions carry", alt, caption, folded=True)
