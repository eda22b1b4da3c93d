"""Labelled anomalies on features: from a few known defects, marked by masks or not, to what their like adds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from knowngood.config import counted
from knowngood.data import ImageSet
from knowngood.data.pose.part import Posed
from knowngood.data.progress import track
from knowngood.detector.fit.cached import CachedFeatures
from knowngood.detector.fit.few_labels import best_of, usable
from knowngood.detector.fit.penalty_choice import centres
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.detector.scoring import one_row_each
from knowngood.errors import DataError
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.representations import Features
from knowngood.representations.alignment.warping import warp
from knowngood.scores.known_defects import WEIGHT, learn
from knowngood.scores.patch_distance import pool

MOST_NORMALS, AT_ONCE = 300, 16  # images learned from, and how many at a time
MOST_DEFECTS = 200
HALF = 0.5  # of what a mask covers of the location it covers most
TOP_SHARE = 0.02  # of the locations, without a mask
CLEAR = 4.0  # standard deviations of normal images, from which on an image shows a defect
UNSEEN = "where its defect should be it is as near to normal as normal images are"


@torch.no_grad()
def learn_defects(
    pipeline: Pipeline, normals: Items, labelled: Items, grids: NDArray[Any], seed: int
) -> tuple[Pipeline, dict[str, Any]]:
    """The pipeline whose distances are larger where an image looks like a labelled one, and a report in plain data.

    See `knowngood.scores.known_defects`. The patches of a defect are those that its mask covers at least half as much
    as the patch it covers most; without a mask the 2 % that are farthest from normal. What was learned before stays.

    A labelled image is left out unless the mean distance of these patches is above that of every normal image, left
    out of the fit, by the same mask or its own farthest patches, and 4 standard deviations above their mean.

    Args:
        normals: N normal images that the model was fitted to; grids: (N, F, h, w), their features.

    Returns:
        The report has "given" and "used" anomalies; "masked", how many of these by a mask; "recognised", how many the
        others would raise; "left_out", reasons by id; "learned", ids of those used, in the order of the state;
        "weight"; "sentence".

    Raises:
        DataError: a mask does not fit its image.
    """
    model, device = pipeline.model, pipeline.device
    assert isinstance(model, PatchGaussian)
    report: dict[str, Any] = {"given": len(labelled), "used": 0, "masked": 0, "recognised": 0, "weight": 0.0}

    def unchanged(reason: str) -> tuple[Pipeline, dict[str, Any]]:
        return pipeline, report | {"sentence": f"Labelled anomalies change nothing: {reason}."}

    rng = np.random.default_rng(seed)
    labelled, left_out = usable(pipeline, labelled[np.sort(rng.permutation(len(labelled))[:MOST_DEFECTS])], rng)
    at = np.linspace(0, len(normals) - 1, min(len(normals), MOST_NORMALS)).astype(int)
    encoded = pipeline.schema.expand(normals[at].conditions, len(at))
    patches, maps, hidden, values = [], [], [], [torch.zeros(0)]
    starts = range(0, len(at), AT_ONCE)
    for first in track(starts, "learning from labelled anomalies", len(starts), "steps"):
        some = slice(first, first + AT_ONCE)
        x = torch.from_numpy(grids[at[some]]).to(device).float()
        c, stratum = (torch.from_numpy(column[some]).to(device) for column in (encoded.c, encoded.stratum))
        moved, cell = model.given(x, c)
        counted = ~model.ignored[cell]
        patches.append(model.whiten(moved, cell, leave_one_out=True)[counted].half())
        maps.append(model.leave_one_out(moved, cell))
        hidden.append(~counted)
        if pipeline.schema.n_strata > 1:
            values.append(pipeline.score.score(model, pipeline.state, x, c, stratum).values.cpu())
    typical = torch.cat(values).numpy() if len(values) > 1 else np.zeros(len(at))
    centre = centres(typical, encoded.stratum, pipeline.schema.n_strata)
    images, best, _, unread = best_of(pipeline, labelled, centre)
    assert isinstance(images, ImageSet)
    read = pipeline.representation
    read = read.base if isinstance(read, CachedFeatures) else read
    assert isinstance(read, Features)
    report["left_out"] = left_out | unread
    if not len(images):
        return unchanged("none of them can be used")
    masks, defects, known = mask_locations(images, read), [], []
    normal, unseen = torch.cat(maps), torch.cat(hidden)
    flat, farthest = normal.flatten(1), pool(normal, "top", unseen.unflatten(1, normal.shape[1:]))
    for rows in one_row_each(pipeline, images, best):
        x, cell = model.given(rows.x, rows.c)
        white, far = model.whiten(x, cell), model.distances(x, cell)
        tops = pool(far, "top", model.ignored_grid[cell])
        shown = pipeline.score.score(model, pipeline.state, rows.x, rows.c, rows.stratum, want_map=True).map
        assert shown is not None
        for i, map_, top, values_at, one in zip(
            np.arange(len(images))[rows.at].tolist(), far, tops, shown.flatten(1), white, strict=True
        ):
            where, usual = defect_locations(masks[i], values_at), farthest
            if masks[i] is not None:
                top, usual = map_.flatten()[where].mean(), flat[:, where].mean(1)
            if top > usual.max() and top > usual.mean() + CLEAR * usual.std():
                defects.append(one[where])
                known.append(i)
            else:
                report["left_out"][str(images.ids[i])] = UNSEEN
    if not defects:
        return unchanged("none of them differs from normal images")
    state, recognised = learn(patches, defects, float(flat[~unseen].std()))
    for name in state.keys() & pipeline.state.keys() - {"defect_weight"}:
        state[name] = torch.cat([pipeline.state[name].to(state[name]), state[name]])
    masked = sum(masks[i] is not None for i in known)
    report["learned"] = [str(name) for name in images.ids[known]]
    report |= {"used": len(defects), "masked": masked, "recognised": int(recognised.sum()), "weight": WEIGHT}
    return replace(pipeline, state=pipeline.state | state), report | {"sentence": _sentence(report)}


def _sentence(report: dict[str, Any]) -> str:
    used, masked = report["used"], report["masked"]
    how = "by its mask" if masked else "by the 2 % of its patches that are farthest from normal"
    if used > 1:
        how = f"{masked} by their masks" + f", {used - masked} by their farthest patches" * (used > masked)
    text = (
        f"Learned from {counted(used, 'known defect')}, {how}: patches that look more like one than any normal "
        "patch does raise the score."
    )
    return text + f" {report['recognised']} of them would be raised by the others alone." * (used > 1)


def defect_locations(mask: Tensor | None, values: Tensor) -> Tensor:
    """(P,) the patches of a defect: those in its mask (h, w); without one 2 % of those with the largest values (P,).

    Values are NaN at patches that do not count; a mask where nothing counts is none.
    """
    counted = ~values.isnan()
    if mask is not None and bool((marked := mask.flatten().to(counted.device) & counted).any()):
        return marked
    values = values.masked_fill(~counted, -torch.inf)
    return values >= values.topk(max(1, round(TOP_SHARE * int(counted.sum())))).values[-1]


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
        marked, transform = mask[..., None].astype(np.uint8) * 255, representation.transforms(images, np.array([i]))[0]
        if isinstance(transform, Posed):
            assert representation.pose is not None
            prepared = representation.pose.normalised(marked, transform)
        else:
            prepared = warp(np.ascontiguousarray(as_mask.prepare(marked).transpose(1, 2, 0)), transform)
        share = adaptive_avg_pool2d(torch.from_numpy(prepared[None, ..., 0]).float(), representation.grid)[0]
        locations.append((share >= HALF * share.max()) & (share > 0))
    return locations
