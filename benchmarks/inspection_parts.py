"""What the inspection benchmark fits to and tests on, as one value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.protocols import Form
from knowngood.data import ImageSet

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class InspectionSet:
    """One fit and one test.

    Attributes:
        name, form, seed: what was asked for; the test form does not depend on the seed.
        train: normal images (N, S, S, C), in memory. Its only condition, and that of `test`, is "product", if any.
        test: test images, labels 0 and 1.
        masks: for each image of `test` its defect, (S, S) bool, empty for a normal one; None is not used in pixel
            metrics: nobody marked it, or its mask is empty though it is anomalous.
        classes: (M,) text, what each image of `test` shows: its class, or "synthetic <kind>".
    """

    name: str
    form: Form
    seed: int
    train: ImageSet
    test: ImageSet
    masks: tuple[Mask | None, ...]
    classes: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """(M,) float64 of the test images."""
        return self.test.labels

    @property
    def in_pixel_metrics(self) -> np.ndarray:
        """(M,) bool: which test images have a mask."""
        return np.array([mask is not None for mask in self.masks])
