"""How the maps of patches become scores: chosen on good images with synthetic defects, each image left out in turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from knowngood.config import FeatureGrid
from knowngood.detector.fit.patch_trial import (
    BAD,
    GOOD,
    bad_sample,
    ignored_places,
    left_out_maps,
    left_out_whole,
    maps_of,
    smoothed,
)
from knowngood.metrics import average_precision, roc_auc
from knowngood.models.patch_gaussian import FEWEST
from knowngood.scores import Score
from knowngood.scores.levels import Levels
from knowngood.scores.patches import POOLINGS, LeftOut, PatchScore, pool

if TYPE_CHECKING:
    from knowngood.detector.fit.plan import Plan
    from knowngood.detector.pipeline import Pipeline

MOST = 1024  # images that say what is usual, unless they calibrate too
WORTH = 0.005  # by which a less simple choice has to be better


def settle(pipeline: Pipeline, plan: Plan, inners: Sequence[Score], options: FeatureGrid, seed: int) -> None:
    """Choose the score of a patch, and how an image's score is pooled from its map; set score and state.

    The score of a patch is that of `inners` which best tells defects from good places, by the mean of AUROC and average
    precision over places. Levels (or none) and pooling are those that best tell images with a defect, by their AUROC.
    Of near equals the first is taken.

    Choices are made on up to 320 of the images that were learned from, and 120 of them with a synthetic defect. Levels
    and what else is usual are taken from all that calibrate by being left out, else from up to 1,024.
    """
    score, patches = pipeline.score, pipeline.model.patches
    assert isinstance(score, PatchScore)
    assert patches is not None
    ways = ["on", "off"] if options.levels == "auto" else [options.levels]
    pools = list(POOLINGS) if options.pooling == "auto" else [options.pooling]
    choices = list(product(ways, pools))
    inner, (way, pooling) = inners[0], choices[0]
    drawn = np.random.default_rng(seed).permutation(len(plan.shares["fit"]) + len(plan.shares["select"]))
    if len(inners) > 1 or len(choices) > 1:
        inner, (way, pooling) = _chosen(pipeline, plan, inners, choices, drawn, seed)
    pipeline.score = PatchScore(inner, score.smoothing)
    pipeline.state["pooling"] = torch.tensor(POOLINGS.index(pooling))
    if way == "off" and patches.coarse is None:
        return
    at = np.sort(drawn if plan.left_out else drawn[:MOST])
    maps, cell = left_out_maps(pipeline, plan, inner, at)
    ignored = ignored_places(pipeline)
    if way == "on":
        pipeline.state |= Levels.fit(maps, cell, ignored).state()
    if patches.coarse is not None:
        whole = left_out_whole(pipeline, plan, inner, at)
        pooled = LeftOut(inner, score.smoothing).pooled(pipeline.state, maps, maps, cell, ignored)
        pipeline.state |= {name: usual(v, cell, len(ignored)) for name, v in (("pooled", pooled), ("whole", whole))}


def usual(values: Tensor, cell: Tensor, cells: int) -> Tensor:
    """(K, 2) mean and standard deviation of good images' values (N,) by cell (N,); one with few has those of all."""
    found = []
    for k in range(cells):
        mine = values[cell == k] if int((cell == k).sum()) >= FEWEST else values
        found.append(torch.stack([mine.mean(), mine.std(correction=0).clamp_min(1e-12)]))
    return torch.stack(found)


# Choices --------------------------------------------------------------------------------------------------------------


def _chosen(
    pipeline: Pipeline,
    plan: Plan,
    inners: Sequence[Score],
    choices: list[tuple[str, str]],
    drawn: np.ndarray,
    seed: int,
) -> tuple[Score, tuple[str, str]]:
    """The inner score, levels or none, and pooling."""
    order = np.argsort(drawn[:BAD])  # tiles of an image together
    shown = {one: left_out_maps(pipeline, plan, one, drawn[:GOOD]) for one in inners}
    good, cell = {one: maps for one, (maps, _) in shown.items()}, shown[inners[0]][1]
    sample, hit = bad_sample(pipeline, plan, drawn[:BAD][order], seed)
    bad = {one: maps_of(pipeline, one, sample) for one in inners}
    inner = _best_inner(pipeline, good, bad, (cell, sample.cell), hit)
    return inner, _best_pooling(pipeline, good[inner], bad[inner], torch.from_numpy(order), cell, choices)


def _best_inner(
    pipeline: Pipeline,
    good: dict[Score, Tensor],
    bad: dict[Score, Tensor],
    cells: tuple[Tensor, Tensor],
    hit: Tensor,
) -> Score:
    best, chosen = -math.inf, next(iter(good))
    for inner in good:
        shown, ignored = smoothed(pipeline, good[inner], cells[0])
        hidden, also = smoothed(pipeline, bad[inner], cells[1])
        if not (hit & ~also).any():  # every defect is smaller than a place, or where nothing counts
            return chosen
        labels, values = _told(shown[~ignored], hidden[hit & ~also])
        worth = (roc_auc(labels, values) + average_precision(labels, values)) / 2
        if worth > best + WORTH:
            best, chosen = worth, inner
    return chosen


def _best_pooling(
    pipeline: Pipeline, good: Tensor, bad: Tensor, own: Tensor, cell: Tensor, choices: list[tuple[str, str]]
) -> tuple[str, str]:
    """`bad` (M, h, w) are maps of the images at `own` (M,) among the good ones, which are in cells (N,)."""
    best, chosen = -math.inf, choices[0]
    against = {"off": (good, bad)}
    if "on" in dict(choices):
        levels = Levels.fit(good, cell, ignored_places(pipeline))
        against["on"] = levels.judged_without(good, good, cell), levels.judged_without(good[own], bad, cell[own])
    shown = {
        way: [smoothed(pipeline, maps, of) for maps, of in zip(both, (cell, cell[own]), strict=True)]
        for way, both in against.items()
    }
    for way, pooling in choices:
        told = [pool(maps, pooling, ignored) for maps, ignored in shown[way]]  # type: ignore[arg-type]
        worth = roc_auc(*_told(*told))
        if worth > best + WORTH:
            best, chosen = worth, (way, pooling)
    return chosen


def _told(good: Tensor, bad: Tensor) -> tuple[np.ndarray, np.ndarray]:
    labels = np.r_[np.zeros(good.numel()), np.ones(bad.numel())]
    return labels, torch.cat([good.reshape(-1), bad.reshape(-1)]).numpy()
