"""What the nets see: images as pixels, edges or features, or rows of a table. Fitted once, saved as JSON, and back."""

from knowngood.representation.backbones import Backbone
from knowngood.representation.cached import cached_features
from knowngood.representation.edges import Edges
from knowngood.representation.features import Features
from knowngood.representation.pixels import Pixels
from knowngood.representation.prepared import prepare_all
from knowngood.representation.table import Table, TableSet

__all__ = ["Backbone", "Edges", "Features", "Pixels", "Table", "TableSet", "cached_features", "prepare_all"]
