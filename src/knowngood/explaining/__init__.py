"""Why an image is odd: where, against what, and how it compares with the good images that the model was fitted on."""

from knowngood.explaining.build import check_explains, explain, oddest
from knowngood.explaining.explanation import Component, Explanation, Latent, Nearest, Nuisance
from knowngood.explaining.known_good import KnownGood, learn

__all__ = [
    "Component",
    "Explanation",
    "KnownGood",
    "Latent",
    "Nearest",
    "Nuisance",
    "check_explains",
    "explain",
    "learn",
    "oddest",
]
