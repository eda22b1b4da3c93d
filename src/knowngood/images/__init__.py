"""Images: sets of them from arrays, files and named data sets; class selection; the audit; condition columns."""

from knowngood.images.audit import Audit, audit
from knowngood.images.conditions import Column, ConditionSchema, Encoded, Expanded
from knowngood.images.datasets import dataset_names, describe_datasets, open_dataset
from knowngood.images.factors import FactorPixels, open_factors
from knowngood.images.findings import Finding, Unreadable
from knowngood.images.imageset import ImageSet
from knowngood.images.opening import open_images
from knowngood.images.pixel_source import ArrayPixels, FilePixels, PixelSource
from knowngood.images.select import select

__all__ = [
    "ArrayPixels",
    "Audit",
    "Column",
    "ConditionSchema",
    "Encoded",
    "Expanded",
    "FactorPixels",
    "FilePixels",
    "Finding",
    "ImageSet",
    "PixelSource",
    "Unreadable",
    "audit",
    "dataset_names",
    "describe_datasets",
    "open_dataset",
    "open_factors",
    "open_images",
    "select",
]
