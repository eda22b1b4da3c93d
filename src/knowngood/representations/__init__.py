"""What a model sees of an item: pixels, HOG, features of a frozen backbone, or the columns of a table.

A representation is fitted once on training items; then it is frozen and saves as JSON and tensors. See `base`.
"""

from knowngood.representations.backbones import Backbone, check_backbone
from knowngood.representations.base import prepare_all
from knowngood.representations.features import Features, cached_features
from knowngood.representations.hog import HOG
from knowngood.representations.pixels import Pixels
from knowngood.representations.table import Table

__all__ = ["HOG", "Backbone", "Features", "Pixels", "Table", "cached_features", "check_backbone", "prepare_all"]
