"""Train on known-good images; find what is anomalous, show where and why, and say how sure."""

import os
from typing import TYPE_CHECKING

# Before torch is imported: how often a thread of torch looks for work before it sleeps. By default it is so often that
# a small network trains many times slower where another program has one of the cores. Idle cores lose nothing.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from knowngood.config.version import __version__ as __version__
    from knowngood.data import ImageSet as ImageSet
    from knowngood.data import open_images as open_images
    from knowngood.detector.estimator import Detector as Detector
    from knowngood.evaluation.results_view import view as view

_LAZY = {
    "Detector": "knowngood.detector.estimator",
    "ImageSet": "knowngood.data",
    "open_images": "knowngood.data",
    "__version__": "knowngood.config.version",
    "view": "knowngood.evaluation.results_view",
}

__all__ = ["Detector", "ImageSet", "__version__", "open_images", "view"]


def __getattr__(name: str) -> object:
    # torch and scikit-learn take seconds to import; nothing here needs them until used.
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'knowngood' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
