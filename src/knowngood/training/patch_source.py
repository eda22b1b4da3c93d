"""Patches as training data: whitened once, a batch is an index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from knowngood.models.objectives.base import Batch
from knowngood.models.patch_gaussian import Patches
from knowngood.training.source import Facts

MOST = 1 << 18  # patches held, half precision
AT_ONCE = 8  # images whitened together


class PatchSource:
    """Patches of N feature grids under the conditions of their images and their positions.

    All patches are training data, or about `most` of them drawn by the seed, as many of each image.

    Args:
        features: (N, F, h, w), in memory or mapped from a file.
        c: (N, W) conditions of the images, or None.
        stratum: (N,) of the images.
    """

    def __init__(
        self,
        features: np.ndarray,
        patches: Patches,
        c: np.ndarray | None = None,
        *,
        seed: int,
        most: int = MOST,
        stratum: np.ndarray | None = None,
        n_strata: int | None = None,
    ) -> None:
        n, places = len(features), int((~patches.ignored).sum(1).min())
        each = min(places, max(1, most // max(1, n)))
        draw = torch.Generator().manual_seed(seed)
        conditions = None if c is None else torch.as_tensor(c, dtype=torch.float32)
        self.rows = torch.empty(n * each, patches.shape[0], dtype=torch.float16)
        self.place = torch.empty(n * each, dtype=torch.int64)
        for start in range(0, n, AT_ONCE):
            some = slice(start, min(start + AT_ONCE, n))
            cell = patches.cell(None if conditions is None else conditions[some], some.stop - start)
            white = patches.whiten(torch.from_numpy(np.array(features[some])), cell)
            for i, image in enumerate(white, start):
                counted = (~patches.ignored[cell[i - start]]).nonzero()[:, 0]
                at = counted[torch.randperm(len(counted), generator=draw)[:each].sort().values]
                self.rows[i * each : (i + 1) * each] = image[at].half()
                self.place[i * each : (i + 1) * each] = at
        self.image_c, self.position, self.each = conditions, patches.position, each
        strata = None if stratum is None else np.repeat(stratum, each)
        self.facts = Facts(n * each, stratum=strata, n_strata=n_strata)

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> PatchSource:
        moved = object.__new__(PatchSource)
        moved.each, moved.facts = self.each, self.facts.to(device)
        moved.rows, moved.place, moved.position = (t.to(device) for t in (self.rows, self.place, self.position))
        moved.image_c = None if self.image_c is None else self.image_c.to(device)
        return moved

    def batch(self, index: Tensor) -> Batch:
        """The patches at positions `index` (B,) int64, on the data's device."""
        found = self.facts.batch(self.rows.index_select(0, index).float(), index)
        found.c = self.position[self.place[index]]
        if self.image_c is not None:
            found.c = torch.cat([self.image_c[index // self.each], found.c], 1)
        return found

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Batch]:
        device = self.rows.device
        return (self.batch(row.to(device, non_blocking=True)) for row in rows)
