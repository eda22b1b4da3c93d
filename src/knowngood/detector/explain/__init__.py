"""Why an image is anomalous: where, by how much, and how it compares with the normal images fitted to."""

from knowngood.detector.explain.build import explain
from knowngood.detector.explain.explanation import Explanation, ImageFactor, Nearest
from knowngood.detector.explain.reference import reference_index
from knowngood.detector.reference_index import ReferenceIndex

__all__ = [
    "Explanation", "ImageFactor", "Nearest", "ReferenceIndex", "explain", "reference_index",
]  # fmt: skip
