"""Images: sets of them from arrays, files and named data sets; class selection; the audit; condition columns."""

from knowngood.data.audit import Audit, audit
from knowngood.data.conditions import Column, ConditionSchema, Expanded
from knowngood.data.datasets.named import dataset_names, describe_datasets, open_dataset
from knowngood.data.findings import Finding, Unreadable
from knowngood.data.imageset import ImageSet
from knowngood.data.open import Reader, open_images
from knowngood.data.pixel_source import ArrayPixels, FilePixels, PixelSource
from knowngood.data.select import select
from knowngood.data.tableset import TableSet

__all__ = [
    "ArrayPixels", "Audit", "Column", "ConditionSchema", "Expanded", "FilePixels", "Finding", "ImageSet",
    "PixelSource", "Reader", "TableSet", "Unreadable", "audit", "dataset_names", "describe_datasets",
    "open_dataset", "open_images", "select",
]  # fmt: skip
