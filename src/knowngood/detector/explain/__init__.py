"""Why an image is odd: where, against what, and how it compares with the good images that the model was fitted on."""

from knowngood.detector.explain.build import check_explains, explain, oddest
from knowngood.detector.explain.explanation import Component, Explanation, Latent, Nearest, Nuisance
from knowngood.detector.explain.reference import KnownGood, learn

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
