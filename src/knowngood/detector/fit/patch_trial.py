"""Images to try scores on: good ones as if not learned from, the same with synthetic defects, and their maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from knowngood.data.synthetic import defective
from knowngood.models.patch_gaussian import HALF
from knowngood.scores import Score
from knowngood.scores.patches import LeftOut, PatchScore

if TYPE_CHECKING:
    from knowngood.detector.fit.plan import Plan
    from knowngood.detector.pipeline import Pipeline

GOOD, BAD = 320, 120  # images looked at, at most
AT_ONCE = 8  # images
LARGEST = 6e4  # a whitened value that half precision holds


@dataclass(frozen=True)
class Sample:
    """Whitened patches of some images as if these had not been learned from, and what is known of the images."""

    white: list[Tensor]  # (B, P, F) each, half precision
    c: Tensor | None  # (N, W)
    stratum: Tensor  # (N,)
    cell: Tensor  # (N,)


@torch.no_grad()
def _white(pipeline: Pipeline, features: Tensor, own: Tensor, c: Tensor | None) -> Tensor:
    """(B, P, F): features whitened, as the Gaussians would be without the images whose features are `own`."""
    patches = pipeline.model.patches
    assert patches is not None
    device = patches.mean.device
    cell = patches.cell(None if c is None else c.to(device), len(features))
    theirs = None if own is features else own.to(device)
    return patches.left_out(features.to(device), cell, theirs).clamp(-LARGEST, LARGEST).cpu()


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


def good_sample(pipeline: Pipeline, plan: Plan, at: np.ndarray) -> Sample:
    """The images at positions (M,) among those of "fit" and "select", each as if it had been left out."""
    c, stratum, cell = _facts(pipeline, plan, at)
    white = []
    for start in range(0, len(at), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        own = _features(plan, at[some])
        white.append(_white(pipeline, own, own, None if c is None else c[some]).half())
    return Sample(white, c, stratum, cell)


def bad_sample(pipeline: Pipeline, plan: Plan, at: np.ndarray, seed: int) -> tuple[Sample, Tensor]:
    """These images with a synthetic defect each, and the places (N, h, w) that these cover by half or more."""
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
    hit = torch.stack([covered(mask, (grid[0], grid[1])) for mask in masks])
    return Sample(white, c, stratum, cell), hit


@torch.no_grad()
def maps_of(pipeline: Pipeline, inner: Score, sample: Sample) -> Tensor:
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


@torch.no_grad()
def left_out_maps(pipeline: Pipeline, plan: Plan, inner: Score, at: np.ndarray) -> tuple[Tensor, Tensor]:
    """Of the images at positions (M,) among those of "fit" and "select", each as if it had been left out.

    Returns:
        maps (M, h, w) float64 of the inner score, not smoothed; cells (M,).
    """
    patches, score = pipeline.model.patches, LeftOut(inner, 0.0)
    assert patches is not None
    c, stratum, cell = _facts(pipeline, plan, at)
    maps = []
    for start in range(0, len(at), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        x, of = _features(plan, at[some]).to(pipeline.device), cell[some].to(pipeline.device)
        told, strata = None if c is None else c[some].to(pipeline.device), stratum[some].to(pipeline.device)
        white = score.white(patches, x, of)
        maps.append(score.of_patches(pipeline.model, pipeline.state, white, told, strata)[0].cpu())
    return torch.cat(maps), cell


@torch.no_grad()
def left_out_whole(pipeline: Pipeline, plan: Plan, inner: Score, at: np.ndarray) -> Tensor:
    """(M,): how odd the same images are as a whole, where the patches have a coarse grid."""
    patches, score = pipeline.model.patches, LeftOut(inner, 0.0)
    assert patches is not None
    cell = _facts(pipeline, plan, at)[2]
    found = []
    for start in range(0, len(at), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        x, of = _features(plan, at[some]).to(pipeline.device), cell[some].to(pipeline.device)
        found.append(score.whole(patches, x, of).cpu())
    return torch.cat(found)


def covered(mask: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """(h, w) places of a grid that a mask (H, W) covers by half or more."""
    return adaptive_avg_pool2d(torch.from_numpy(mask)[None].float(), grid)[0] >= HALF


def smoothed(pipeline: Pipeline, maps: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Maps as they are shown, and where they are ignored."""
    score, ignored = pipeline.score, ignored_places(pipeline)[cell]
    assert isinstance(score, PatchScore)
    return score.smoothed(maps, ignored), ignored


def ignored_places(pipeline: Pipeline) -> Tensor:
    """(K, h, w) places that do not count."""
    patches = pipeline.model.patches
    assert patches is not None
    return patches.ignored_grid.cpu()
