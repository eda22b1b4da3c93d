"""What the nets see: images as pixels, edges or features, or rows of a table. Fitted once, saved as JSON, and back."""

from knowngood.representations.backbones import Backbone
from knowngood.representations.cached import cached_features
from knowngood.representations.features import Features
from knowngood.representations.hog import HOG
from knowngood.representations.pixels import Pixels
from knowngood.representations.prepared import prepare_all
from knowngood.representations.table import Table

__all__ = ["HOG", "Backbone", "Features", "Pixels", "Table", "cached_features", "prepare_all"]
