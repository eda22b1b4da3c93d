"""What the nets see: images as pixels, or rows of a table. Fitted once, saved as JSON, able to go back."""

from knowngood.representation.pixels import Pixels
from knowngood.representation.prepared import prepare_all
from knowngood.representation.table import Table, TableSet

__all__ = ["Pixels", "Table", "TableSet", "prepare_all"]
