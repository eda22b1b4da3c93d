"""Images: sets of them from arrays, files and named data sets; class selection; the audit; condition columns."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from knowngood.data.audit import Audit
    from knowngood.data.conditions import Column, ConditionSchema, Expanded
    from knowngood.data.datasets.named import dataset_names, describe_datasets, open_dataset
    from knowngood.data.findings import Finding, Unreadable
    from knowngood.data.imageset import ImageSet
    from knowngood.data.open import Reader, open_images
    from knowngood.data.pixel_source import ArrayPixels, FilePixels, PixelSource
    from knowngood.data.tableset import TableSet

_LAZY = {
    "audit": ("Audit",),
    "conditions": ("Column", "ConditionSchema", "Expanded"),
    "datasets.named": ("dataset_names", "describe_datasets", "open_dataset"),
    "findings": ("Finding", "Unreadable"),
    "imageset": ("ImageSet",),
    "open": ("Reader", "open_images"),
    "pixel_source": ("ArrayPixels", "FilePixels", "PixelSource"),
    "tableset": ("TableSet",),
}
_MODULE = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "ArrayPixels", "Audit", "Column", "ConditionSchema", "Expanded", "FilePixels", "Finding", "ImageSet",
    "PixelSource", "Reader", "TableSet", "Unreadable", "dataset_names", "describe_datasets", "open_dataset",
    "open_images",
]  # fmt: skip


def __getattr__(name: str) -> object:
    # The readers of files serve `knowngood.runtime`, which has neither pydantic nor pandas.
    if name in _MODULE:
        return getattr(import_module(f"knowngood.data.{_MODULE[name]}"), name)
    raise AttributeError(f"module 'knowngood.data' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
