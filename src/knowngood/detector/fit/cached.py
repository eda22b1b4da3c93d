"""Features of the images of a fit, computed once: a representation that reads them from memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from knowngood.data import ImageSet
from knowngood.representations import Features, cached_features
from knowngood.representations.features import Located

READERS = 4


class CachedFeatures:
    """`Features` whose grids are known for some images, by id; everything else is as of `base`.

    grids: (N, F, h, w). Images that are not among `ids` are refused: this is for the images of one fit.
    """

    def __init__(self, base: Features, ids: np.ndarray, grids: np.ndarray, transforms: list[Located]) -> None:
        self.base, self.grids, self.transforms = base, grids, transforms
        self.row = {str(name): i for i, name in enumerate(ids)}

    @classmethod
    def of(cls, base: Features, images: ImageSet, memory_gb: float) -> CachedFeatures:
        """Compute the grids of all images; beyond `memory_gb` they lie in a temporary file.

        Raises:
            DataError: an image cannot be read or does not fit; names it.
        """
        located: list[Any] = []
        grids = cached_features(images, base, memory_gb=memory_gb, workers=READERS, located=located)
        return cls(base, images.ids, grids, located)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    def read_and_locate(
        self, images: ImageSet, index: np.ndarray | None = None, workers: int = 0
    ) -> tuple[np.ndarray, dict[int, str], list[Located]]:
        """As `Features.read_and_locate`, from memory."""
        index = np.arange(len(images)) if index is None else index
        rows = [self.row[str(images.ids[i])] for i in index]
        return self.grids[rows], {}, [self.transforms[row] for row in rows]

    def of_items(self, images: ImageSet) -> np.ndarray:
        """(M, F, h, w) the grids of some of the images."""
        rows = [self.row[str(name)] for name in images.ids]
        return self.grids if rows == list(range(len(self.grids))) else self.grids[rows]
