"""The direction in which patches of defects leave those of good images, by logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from knowngood.detector.fit.discriminant import logistic
from knowngood.detector.fit.patch_label_trial import Trial
from knowngood.detector.fit.patch_trial import ignored_places

AN_IMAGE = 24  # patches of a good image that are learned against, half of them its oddest
MOST = 128  # patches of one labelled image


@dataclass
class Examples:
    """Bounded patches to learn from, (M, F), and the image each is of, by its number."""

    defect: Tensor
    defect_of: np.ndarray
    good: Tensor
    good_of: np.ndarray

    @classmethod
    def of(cls, trial: Trial, hits: Sequence[Tensor], rng: np.random.Generator) -> Examples:
        """All patches of defects, up to 128 an image; of good images the 12 oddest each and 12 others."""
        defect = [rng.permutation(np.flatnonzero(hit.flatten().numpy()))[:MOST] for hit in hits]
        counted = ~ignored_places(trial.pipeline)[trial.good.cell].flatten(1)
        good = []
        for scores, some in zip(trial.good.maps.flatten(1), counted, strict=True):
            at = torch.nonzero(some)[:, 0]
            at = at[scores[at].argsort(descending=True, stable=True)].numpy()
            odd, others = at[: AN_IMAGE // 2], at[AN_IMAGE // 2 :]
            good.append(np.concatenate([odd, rng.permutation(others)[: AN_IMAGE // 2]]))
        found = []
        for shown, index in ((trial.labelled, defect), (trial.good, good)):
            of = np.repeat(np.arange(len(index)), [len(at) for at in index])
            found += [shown.rows[torch.from_numpy(of), torch.from_numpy(np.concatenate(index))].double(), of]
        return cls(*found)

    def direction(self, ridge: float, folds: dict[str, np.ndarray] | None = None, without: int = -1) -> Tensor:
        """(F,) from all examples, or from those of images that are not in the fold `without`; 0 if there are none.

        Every labelled image has the same weight, and all defects have that of all good patches.
        """
        kept = slice(None), slice(None)
        if folds is not None:
            kept = folds["labelled"][self.defect_of] != without, folds["good"][self.good_of] != without
        defect, good, of = self.defect[kept[0]], self.good[kept[1]], self.defect_of[kept[0]]
        if not len(defect) or not len(good):
            return torch.zeros(self.defect.shape[1], dtype=torch.float64)
        _, at, counts = np.unique(of, return_inverse=True, return_counts=True)
        weight = torch.from_numpy(np.r_[0.5 / (len(counts) * counts[at]), np.full(len(good), 0.5 / len(good))])
        sign = torch.cat([torch.ones(len(defect)), -torch.ones(len(good))]).double()
        return logistic(torch.cat([defect, good]), sign, weight, ridge)[0]
