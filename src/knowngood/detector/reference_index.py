"""The reference index: normal images fitted to, as far as explanations of others need them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knowngood.errors import ArtifactError

PREFIX = "reference."
ENOUGH = 8  # normal images from which on a mean, quantiles and standard deviations are reported


@dataclass(frozen=True, eq=False)
class ReferenceIndex:
    """N normal images that the model was fitted to; a seeded draw of 5,000 of them where there are more.

    Args:
        ids: N texts.
        codes: (N, K) float16, see `model_codes`.
        group: (N,) int32, by their conditions, see `groups_of`.
        image_factors: (M, 2) float32, brightness and contrast of the first M of them as the model sees them.
        mean_images: (G + 1, C, H, W) float16, scaled and reduced: the mean of these M images by group, of all last.
        held_out_distances: (A,) float32, distances of held-out normal images to the nearest of these of their group.
        appearance: (2, G + 1, K, H, W) float16, mean and standard deviation of the quantities of `appearance` at each
            pixel of these M images, likewise by group.
    """

    ids: tuple[str, ...]
    codes: np.ndarray
    group: np.ndarray
    image_factors: np.ndarray
    mean_images: np.ndarray
    held_out_distances: np.ndarray
    appearance: np.ndarray

    def nearest(self, code: np.ndarray, group: int, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and distances of the images with the codes nearest to a code (K,), nearest first.

        Images of the same group are compared; all images if it has none.
        """
        mine = np.flatnonzero(self.group == group)
        rows = mine if len(mine) else np.arange(len(self.ids))
        distance = np.sqrt(np.square(self.codes[rows].astype(np.float64) - code).sum(1))
        order = np.argsort(distance, kind="stable")[:most]
        return rows[order], distance[order]

    def mean_image(self, group: int) -> np.ndarray:
        """(C, H, W) float32 mean of the images of a group, or of all if it has none."""
        return self.mean_images[self._row(group)].astype(np.float32)

    def appearance_of(self, group: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Mean and standard deviation (K, H, W) at each pixel of the images of a group, or of all; how many these are.

        A group of fewer images than tell how much they vary stands for all.
        """
        measured, row = self.group[: len(self.image_factors)], self._row(group)
        if row >= 0 and (measured == group).sum() < ENOUGH:
            row = -1
        mean, spread = (values[row].astype(np.float32) for values in self.appearance)
        return mean, spread, int((measured == group).sum()) if row >= 0 else len(measured)

    def _row(self, group: int) -> int:
        """Where the images of a group have their means; −1 for those of all, if it has none."""
        measured = self.group[: len(self.image_factors)]
        own = 0 <= group < len(self.mean_images) - 1 and bool((measured == group).any())
        return group if own else -1

    def factors_of(self, group: int) -> np.ndarray:
        """(m, 2) brightness and contrast of the images of a group, or of all if it has none."""
        mine = self.group[: len(self.image_factors)] == group
        return self.image_factors[mine] if mine.any() else self.image_factors

    def to_tensors(self) -> dict[str, Tensor]:
        """The arrays, for safetensors; the ids are kept in the JSON."""
        names = ("codes", "group", "image_factors", "mean_images", "held_out_distances", "appearance")
        return {PREFIX + name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in names}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], ids: list[str]) -> ReferenceIndex:
        """What `to_tensors` gave; other tensors are passed over.

        Raises:
            ArtifactError: codes and ids differ in number.
        """
        arrays: dict[str, Any] = {k.removeprefix(PREFIX): v.numpy() for k, v in tensors.items() if k.startswith(PREFIX)}
        if "appearance" not in arrays:
            raise ArtifactError("reference index: no appearance of normal images in it; the model is damaged")
        if len(arrays["codes"]) != len(ids):
            raise ArtifactError(f"reference index: {len(ids)} ids and {len(arrays['codes'])} codes; model damaged")
        return cls(tuple(ids), **arrays)
