"""Distances and whitened patches of images, measured once; and the locations that a penalty is learned from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from knowngood.data import ImageSet
from knowngood.detector.pipeline import Pipeline
from knowngood.errors import DataError
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.representations import Features
from knowngood.representations.alignment.warping import warp
from knowngood.scores import ScoreResult
from knowngood.scores.adjustment import bounded

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

AN_IMAGE, MOST_PATCHES = 24, 128  # patches learned from: of a normal image, and at most of a labelled one
TOP_SHARE, REACHED = 0.02, 0.99  # without a mask: share of locations, and quantile of normal images' largest distance
HALF = 0.5  # of what a mask covers of the location it covers most


class Measured(PatchGaussian):
    """A fitted model with its results for n images, so that scores can be pooled again without features.

    maps (n, h, w) distances; globally (n,) or None; white (n, P, F), bounded; c (n, W) or None; stratum (n,).
    """

    def __init__(self, fitted: PatchGaussian, *results: Any) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(fitted.__dict__)
        self.maps, self.globally, self.white, self.c, self.stratum = results

    @classmethod
    def of(cls, model: PatchGaussian, rows: Iterable[tuple[Any, ...]], *, leave_one_out: bool) -> Measured:
        """From feature grids, conditions and strata. `leave_one_out`: the model was fitted to these images.

        The covariance without an image is I − a·v·vᵀ up to a factor, v its whitened patch, so v keeps its direction.
        """
        results = []
        for grids, c, stratum in rows:
            x = grids.float()
            cell = model.cell(c, len(x))
            maps, white = model.distances(x, cell), model.whiten(x, cell)
            if leave_one_out:
                plain, maps = maps, model.leave_one_out(x, cell)
                white = white * (maps / plain.clamp_min(1e-12)).sqrt().flatten(1)[..., None].to(white)
            globally = None
            if model.coarse is not None:
                globally = model.global_distances(x, cell, leave_one_out=leave_one_out)
            results.append((maps, globally, bounded(white).half(), c, stratum))
        return cls(model, *(None if some[0] is None else torch.cat(some) for some in zip(*results, strict=True)))

    def distances(self, x: Tensor, cell: Tensor) -> Tensor:
        return self.maps

    def global_distances(self, x: Tensor, cell: Tensor, *, leave_one_out: bool = False) -> Tensor:
        return self.globally

    def take(self, at: Tensor) -> Measured:
        """Some of the images."""
        return Measured(self, *(None if some is None else some[at] for some in self.results))

    @classmethod
    def concat(cls, one: Measured, other: Measured) -> Measured:
        """The images of both, results of the same model."""
        pairs = zip(one.results, other.results, strict=True)
        return cls(one, *(None if a is None else torch.cat([a, b]) for a, b in pairs))

    @property
    def results(self) -> tuple[Any, ...]:
        return self.maps, self.globally, self.white, self.c, self.stratum

    def score(self, pipeline: Pipeline, added: Tensor | float = 0.0, *, want_map: bool = False) -> ScoreResult:
        """Their scores, with a penalty (n, h, w) added to the distances."""
        view = Measured(self, self.maps + added, *self.results[1:])
        return pipeline.score.score(view, pipeline.state, view.maps, view.c, view.stratum, want_map=want_map)

    def hidden(self) -> Tensor:
        """(n, h, w) locations that do not count."""
        return self.ignored_grid[self.cell(self.c, len(self.maps))]


def normal_locations(normal: Measured, rng: np.random.Generator) -> Bools:
    """(N, P) of each normal image the 12 locations with the largest distances, and 12 others drawn at random."""
    maps, counted = normal.maps.flatten(1).cpu().numpy(), (~normal.hidden()).flatten(1).cpu().numpy()
    chosen = np.zeros(maps.shape, dtype=bool)
    for one, distances, counts in zip(chosen, maps, counted, strict=True):
        at = np.flatnonzero(counts)
        at = at[np.argsort(-distances[at], kind="stable")]
        top = AN_IMAGE // 2
        one[at[:top]] = one[rng.permutation(at[top:])[: AN_IMAGE - top]] = True
    return chosen


def anomaly_locations(
    pipeline: Pipeline, normal: Measured, anomalous: Measured, masks: Sequence[Tensor | None]
) -> Bools:
    """(n, P) locations of the anomaly in labelled images.

    With a mask (h, w) those in it; without one the 2 % with the largest distances, as far as these exceed what 1 % of
    normal images reach anywhere.
    """

    def smoothed(images: Measured) -> Tensor:
        shown = images.score(pipeline, want_map=True).map
        assert shown is not None
        return shown.flatten(1).nan_to_num(-torch.inf)

    reached = float(smoothed(normal).amax(1).quantile(REACHED))
    hits = []
    for values, mask in zip(smoothed(anomalous), masks, strict=True):
        counted = values > -torch.inf
        if mask is None:
            least = values.topk(max(1, round(TOP_SHARE * int(counted.sum())))).values[-1]
            hits.append(((values >= least) & (values > reached)).cpu())
        else:
            hits.append(mask.flatten() & counted.cpu())
    return torch.stack(hits).numpy()


def drawn(chosen: Bools, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Image and location (M,) of the chosen locations (N, P), at most 128 of an image."""
    at = [np.sort(rng.permutation(np.flatnonzero(one))[:MOST_PATCHES]) for one in chosen]
    return np.repeat(np.arange(len(at)), [len(one) for one in at]), np.concatenate(at)


def mask_locations(images: ImageSet, representation: Features) -> list[Tensor | None]:
    """(h, w) bool of each image: what its mask covers at least half as much as the location it covers most.

    None without a mask, or with an empty one. Masks are moved as the images are aligned.

    Raises:
        DataError: a mask does not have the size of its image.
    """
    as_mask = representation.pixels.model_copy(update={"channels": 1, "grey": False, "dtype": "uint8"})
    locations: list[Tensor | None] = []
    for i in range(len(images)):
        mask = images.mask(i)
        if mask is None or not mask.any():
            locations.append(None)
            continue
        shape = tuple(images.shapes()[i, :2].tolist())
        if mask.shape != shape:
            raise DataError(f"{images.ids[i]}: its mask is {mask.shape}, the image is {shape}; expected one size")
        prepared = as_mask.prepare(mask[..., None].astype(np.uint8) * 255).transpose(1, 2, 0)
        prepared = warp(np.ascontiguousarray(prepared), representation.transforms(images, np.array([i]))[0])
        share = adaptive_avg_pool2d(torch.from_numpy(prepared[None, ..., 0]).float(), representation.grid)[0]
        locations.append((share >= HALF * share.max()) & (share > 0))
    return locations
