"""HOG of the images of a fit, computed once: each fold of a calibration takes it from memory."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import PrivateAttr
from torch import Tensor

from knowngood.config import HOGOptions
from knowngood.data import ImageSet
from knowngood.detector.fit.cached import READERS
from knowngood.representations import HOG
from knowngood.representations.base import CHUNK, raise_first
from knowngood.representations.hog import SHAPE, VALUES
from knowngood.representations.pixels import Pixels


class CachedHOG(HOG):
    """`HOG` that is known for some images, by id. Others are refused: this is for the images of one fit.

    `read` gives √V · q (M, V) float32, `scale` centres it.
    """

    _known: np.ndarray = PrivateAttr()
    _row: dict[str, int] = PrivateAttr()

    @classmethod
    def of(cls, base: HOG, images: ImageSet) -> CachedHOG:
        """Read all images and compute their HOG.

        Raises:
            DataError: an image cannot be read or does not fit; names it.
        """
        uncentred = base.model_copy(update={"centre": (0.0,) * VALUES})
        known = np.empty((len(images), VALUES), np.float32)
        for start in range(0, len(images), CHUNK):
            index = np.arange(start, min(start + CHUNK, len(images)))
            native, errors = base.read(images, index, READERS)
            raise_first(images.ids, errors)
            known[index] = uncentred.scale(torch.from_numpy(native)).flatten(1).numpy()
        made = cls(pixels=base.pixels, centre=base.centre)
        made._known, made._row = known, {str(name): i for i, name in enumerate(images.ids)}
        return made

    @property
    def base(self) -> HOG:
        return HOG(pixels=self.pixels, centre=self.centre)

    @property
    def bytes_per_image(self) -> int:
        return 4 * VALUES

    def refitted(self, images: ImageSet, options: HOGOptions) -> HOG:
        """Fitted to some of the images; from memory, unless their pixels alone would be scaled in another way."""
        if Pixels.fit(images, options) != self.pixels:
            return HOG.fit(images, options)
        return self.model_copy(update={"centre": (0.0,) * VALUES}).centred(images)

    def read(
        self, images: ImageSet, index: np.ndarray | None = None, workers: int = 0
    ) -> tuple[np.ndarray, dict[int, str]]:
        ids = images.ids if index is None else images.ids[index]
        return self._known[[self._row[str(name)] for name in ids]], {}

    def scale(self, batch: Tensor) -> Tensor:
        return (batch - batch.new_tensor(self.centre)).unflatten(1, SHAPE)
