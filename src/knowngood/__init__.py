"""Train on known-good images; find what is odd, show where and why, and say how sure."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from knowngood.detector import Detector as Detector
    from knowngood.images import ImageSet as ImageSet
    from knowngood.images import open_images as open_images

_LAZY = {
    "Detector": "knowngood.detector",
    "ImageSet": "knowngood.images",
    "open_images": "knowngood.images",
}

__all__ = ["Detector", "ImageSet", "__version__", "open_images"]


def __getattr__(name: str) -> object:
    # torch and scikit-learn take seconds to import; nothing here needs them until used.
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'knowngood' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
