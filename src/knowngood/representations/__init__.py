"""What a model sees of an item: pixels, HOG, features of a frozen backbone, or the columns of a table.

A representation is fitted once on training items; then it is frozen and saves as JSON and tensors. See `base`.
"""

from knowngood.representations.backbones import Backbone
from knowngood.representations.cached import cached_features
from knowngood.representations.features import Features
from knowngood.representations.hog import HOG
from knowngood.representations.pixels import Pixels
from knowngood.representations.prepared import prepare_all
from knowngood.representations.table import Table

__all__ = ["HOG", "Backbone", "Features", "Pixels", "Table", "cached_features", "prepare_all"]
