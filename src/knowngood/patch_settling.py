"""How the maps of patches become scores: chosen on good images with synthetic defects, each image left out in turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from knowngood.config import FeatureGrid
from knowngood.images.synthetic import defective
from knowngood.metrics import average_precision, roc_auc
from knowngood.patches import FEWEST
from knowngood.scores import Score
from knowngood.scores.patches import POOLINGS, PatchScore, levels, pool

if TYPE_CHECKING:
    from knowngood.fitting import Plan
    from knowngood.pipeline import Pipeline

GOOD, BAD = 320, 120  # images looked at, at most
WORTH = 0.005  # by which a less simple choice has to be better
HIT = 0.5  # share of a place that a defect covers, at least
AT_ONCE = 16  # images
LARGEST = 6e4  # a whitened value that half precision holds


@dataclass(frozen=True)
class Sample:
    """Whitened patches of some images as if these had not been learned from, and what is known of the images."""

    white: list[Tensor]  # (B, P, F) each, half precision
    c: Tensor | None  # (N, W)
    stratum: Tensor  # (N,)
    cell: Tensor  # (N,)


def settle(pipeline: Pipeline, plan: Plan, inners: Sequence[Score], options: FeatureGrid, seed: int) -> None:
    """Choose the score of a patch, and how an image's score is pooled from its map; set score and state.

    The score of a patch is that of `inners` which best tells defects from good places, by the mean of AUROC and average
    precision over places. Levels (or none) and pooling are those that best tell images with a defect, by their AUROC.
    Of near equals the first is taken.

    All images that were learned from take part, up to 320, and 120 of them with a synthetic defect.
    """
    score = pipeline.score
    assert isinstance(score, PatchScore)
    ways = ["off", "on"] if options.levels == "auto" else [options.levels]
    if plan.left_out:  # the images that would say what is usual are those that calibrate
        ways = ["off"]
    pools = list(POOLINGS) if options.pooling == "auto" else [options.pooling]
    choices = list(product(ways, pools))
    inner, (way, pooling) = inners[0], choices[0]
    fixed = len(inners) == 1 and len(choices) == 1
    if not fixed or way == "on":
        drawn = np.random.default_rng(seed).permutation(len(plan.shares["fit"]) + len(plan.shares["select"]))
        good = _good(pipeline, plan, drawn[:GOOD])
        maps = {one: _maps(pipeline, one, good) for one in inners}
        if not fixed:
            bad, hit = _bad(pipeline, plan, np.sort(drawn[:BAD]), seed)  # tiles of an image together
            bad_maps = {one: _maps(pipeline, one, bad) for one in inners}
            inner = _best_inner(pipeline, maps, bad_maps, (good.cell, bad.cell), hit)
            way, pooling = _best_pooling(pipeline, maps[inner], bad_maps[inner], (good.cell, bad.cell), choices)
        if way == "on":
            level, spread = _levels(maps[inner], good.cell, _ignored(pipeline))
            pipeline.state |= {"level": level.float(), "spread": spread.float()}
    pipeline.score = PatchScore(inner, score.smoothing)
    pipeline.state["pooling"] = torch.tensor(POOLINGS.index(pooling))


# Images, each left out ------------------------------------------------------------------------------------------------


@torch.no_grad()
def _white(pipeline: Pipeline, features: Tensor, own: Tensor, c: Tensor | None) -> Tensor:
    """(B, P, F): features whitened, as the Gaussians would be without the images whose features are `own`."""
    patches = pipeline.model.patches
    assert patches is not None
    device = patches.mean.device
    cell = patches.cell(None if c is None else c.to(device), len(features))
    white, theirs = (patches.whiten(f.to(device), cell) for f in (features, own))
    return patches.left_out(white, theirs, cell).clamp(-LARGEST, LARGEST).cpu()


def _features(plan: Plan, at: np.ndarray) -> Tensor:
    """Features of the samples at positions (M,) among those of "fit" and "select"."""
    assert plan.features is not None
    first = len(plan.features["fit"])
    return torch.stack(
        [
            torch.from_numpy(np.array(plan.features["fit"][i] if i < first else plan.features["select"][i - first]))
            for i in at.tolist()
        ]
    )


def _facts(pipeline: Pipeline, plan: Plan, at: np.ndarray) -> tuple[Tensor | None, Tensor, Tensor]:
    """Conditions, strata and cells of samples at positions (M,) among those of "fit" and "select"."""
    patches = pipeline.model.patches
    assert patches is not None
    index = np.concatenate([plan.shares["fit"], plan.shares["select"]])[at]
    c = torch.from_numpy(plan.encoded.c[index]) if patches.keys.shape[1] else None
    cell = patches.cell(None if c is None else c.to(patches.keys.device), len(at)).cpu()
    return c, torch.from_numpy(plan.encoded.stratum[index]), cell


def _good(pipeline: Pipeline, plan: Plan, at: np.ndarray) -> Sample:
    c, stratum, cell = _facts(pipeline, plan, at)
    white = []
    for start in range(0, len(at), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        own = _features(plan, at[some])
        white.append(_white(pipeline, own, own, None if c is None else c[some]).half())
    return Sample(white, c, stratum, cell)


def _bad(pipeline: Pipeline, plan: Plan, at: np.ndarray, seed: int) -> tuple[Sample, Tensor]:
    """The images with a synthetic defect each, and the places (N, h, w) that these cover by half or more."""
    assert plan.features is not None
    index = np.concatenate([plan.shares["fit"], plan.shares["select"]])[at]
    originals = plan.samples[index]
    pixels = pipeline.representation.pixels  # type: ignore[union-attr]
    images, masks = defective(originals, seed, size=pixels.size)  # type: ignore[arg-type]
    images = images.replace(conditions=originals.conditions)
    as_masks = pixels.model_copy(update={"channels": 1, "grey": False, "dtype": "uint8"})  # cropped and padded too
    masks = [as_masks.prepare(mask[..., None].astype(np.uint8))[0] for mask in masks]
    c, stratum, cell = _facts(pipeline, plan, at)
    white, grid = [], plan.features["fit"].shape[2:]
    for start in range(0, len(at), AT_ONCE):
        some = np.arange(start, min(start + AT_ONCE, len(at)))
        changed, _ = pipeline.representation.read(images, some)  # type: ignore[arg-type]
        own, told = _features(plan, at[some]), None if c is None else c[some]
        white.append(_white(pipeline, torch.from_numpy(changed), own, told).half())
    hit = torch.stack([_covered(mask, (grid[0], grid[1])) for mask in masks])
    return Sample(white, c, stratum, cell), hit


@torch.no_grad()
def _maps(pipeline: Pipeline, inner: Score, sample: Sample) -> Tensor:
    """(N, h, w) float64: the inner score at every place, not smoothed."""
    score, found, start = PatchScore(inner, 0.0), [], 0
    for white in sample.white:
        some = slice(start, start + len(white))
        c = None if sample.c is None else sample.c[some].to(pipeline.device)
        stratum = sample.stratum[some].to(pipeline.device)
        white = white.to(pipeline.device).float()
        found.append(score.of_patches(pipeline.model, pipeline.state, white, c, stratum)[0].cpu())
        start += len(white)
    return torch.cat(found)


def _covered(mask: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """(h, w) places of a grid that a mask (H, W) covers by half or more."""
    return torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(mask)[None].float(), grid)[0] >= HIT


# Choices --------------------------------------------------------------------------------------------------------------


def _best_inner(
    pipeline: Pipeline,
    good: dict[Score, Tensor],
    bad: dict[Score, Tensor],
    cells: tuple[Tensor, Tensor],
    hit: Tensor,
) -> Score:
    best, chosen = -math.inf, next(iter(good))
    for inner in good:
        shown, ignored = _smoothed(pipeline, good[inner], cells[0])
        hidden, also = _smoothed(pipeline, bad[inner], cells[1])
        if not (hit & ~also).any():  # every defect is smaller than a place, or where nothing counts
            return chosen
        labels, values = _told(shown[~ignored], hidden[hit & ~also])
        worth = (roc_auc(labels, values) + average_precision(labels, values)) / 2
        if worth > best + WORTH:
            best, chosen = worth, inner
    return chosen


def _best_pooling(
    pipeline: Pipeline,
    good: Tensor,
    bad: Tensor,
    cells: tuple[Tensor, Tensor],
    choices: list[tuple[str, str]],
) -> tuple[str, str]:
    best, chosen = -math.inf, choices[0]
    shown = {"off": [_smoothed(pipeline, maps, cell) for maps, cell in zip((good, bad), cells, strict=True)]}
    if "on" in dict(choices):
        level, spread = _levels(good, cells[0], _ignored(pipeline))
        against = [(maps - level[cell]) / spread[cell] for maps, cell in zip((good, bad), cells, strict=True)]
        shown["on"] = [_smoothed(pipeline, maps, cell) for maps, cell in zip(against, cells, strict=True)]
    for way, pooling in choices:
        told = [pool(maps, pooling, ignored) for maps, ignored in shown[way]]  # type: ignore[arg-type]
        worth = roc_auc(*_told(*told))
        if worth > best + WORTH:
            best, chosen = worth, (way, pooling)
    return chosen


def _smoothed(pipeline: Pipeline, maps: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Maps as they are shown, and where they are ignored."""
    score, ignored = pipeline.score, _ignored(pipeline)[cell]
    assert isinstance(score, PatchScore)
    return score.smoothed(maps, ignored), ignored


def _ignored(pipeline: Pipeline) -> Tensor:
    """(K, h, w) places that do not count."""
    patches = pipeline.model.patches
    assert patches is not None
    return patches.ignored.cpu().reshape(-1, *patches.shape[1:])


def _levels(maps: Tensor, cell: Tensor, ignored: Tensor) -> tuple[Tensor, Tensor]:
    """(K, h, w) level and spread of each cell; one with too few images has those of all. `ignored` is (K, h, w)."""
    found = []
    for k in range(len(ignored)):
        mine = cell == k
        some = mine if int(mine.sum()) >= FEWEST else torch.ones_like(mine)
        found.append(levels(maps[some], ignored[cell[some]]))
    return torch.stack([f[0] for f in found]), torch.stack([f[1] for f in found])


def _told(good: Tensor, bad: Tensor) -> tuple[np.ndarray, np.ndarray]:
    labels = np.r_[np.zeros(good.numel()), np.ones(bad.numel())]
    return labels, torch.cat([good.reshape(-1), bad.reshape(-1)]).numpy()
