"""The options of a VAE that its data and its objective decide."""

from __future__ import annotations

import math

from knowngood.config import LikelihoodOptions, NetOptions, VAEOptions, parse
from knowngood.models.objectives.base import Objective

SMALLEST_SIDE = 8  # of images that convolutions take


def resolve(options: VAEOptions, objective: Objective, shape: tuple[int, ...]) -> VAEOptions:
    """The options without "auto" and None, for items of this shape.

    - net: conv for images (C, H, W) whose shorter side is at least 8, else mlp.
    - likelihood: Gaussian with a learned scalar σ.
    - latent_dim: 32 for images, half the columns of a table, between 1 and 16.
    - prior: that of the objective.
    """
    image = len(shape) == 3
    convolves = image and min(shape[1:]) >= SMALLEST_SIDE
    found = {
        "net": parse(NetOptions, "conv" if convolves else "mlp") if options.net == "auto" else options.net,
        "likelihood": parse(LikelihoodOptions, "gaussian") if options.likelihood == "auto" else options.likelihood,
        "latent_dim": options.latent_dim or (32 if image else max(1, min(16, math.ceil(shape[0] / 2)))),
        "prior": objective.prior if options.prior == "auto" else options.prior,
    }
    return options.model_copy(update=found)
