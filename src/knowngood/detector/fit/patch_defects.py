"""Labelled defects on features: their whitened patches, and the places that their masks say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from knowngood.data import ImageSet
from knowngood.detector.fit.patch_trial import LARGEST, Sample
from knowngood.detector.ignored import blanked
from knowngood.errors import DataError
from knowngood.models.patch_gaussian import HALF
from knowngood.representations import Features
from knowngood.representations.alignment.warping import warp

if TYPE_CHECKING:
    from knowngood.detector.fit.plan import Plan
    from knowngood.detector.pipeline import Pipeline


@dataclass(frozen=True)
class Known:
    """Labelled images that can be used, where in them the defect is, if that is known, and why others cannot be."""

    sample: Sample
    masks: list[Tensor | None]  # (h, w) bool
    ids: list[str]
    left_out: dict[str, str]


def known_defects(pipeline: Pipeline, plan: Plan, images: ImageSet) -> Known:
    patches, reader = pipeline.model.patches, pipeline.representation
    assert patches is not None
    assert isinstance(reader, Features)
    told = ~np.isnan(plan.schema.encode_or_nan(images.conditions, len(images))).any(axis=1)
    left_out = dict.fromkeys(images.ids[~told].tolist(), "a condition of it is unknown, or new")
    seen = images = images[told]
    if plan.ignore is not None and pipeline.settings.align == "none":
        seen = blanked(images, plan.ignore, plan.schema, reader.pixels.low)
    features, errors = reader.read(seen) if len(seen) else (np.zeros((0, *patches.shape), np.float32), {})
    left_out |= {str(images.ids[i]): reason for i, reason in errors.items()}
    read = np.array([i for i in range(len(images)) if i not in errors], dtype=np.int64)
    images, features = images[read], features[read]
    encoded = plan.schema.encode(images.conditions, len(images))
    c = torch.from_numpy(encoded.c) if patches.keys.shape[1] else None
    device = patches.mean.device
    cell = patches.cell(None if c is None else c.to(device), len(images))
    white = [
        patches.whiten(torch.from_numpy(features[i : i + 1]).to(device), cell[i : i + 1])
        .clamp(-LARGEST, LARGEST)
        .half()
        .cpu()
        for i in range(len(images))
    ]
    sample = Sample(white, c, torch.from_numpy(encoded.stratum), cell.cpu())
    return Known(sample, places_of_defects(images, reader), images.ids.tolist(), left_out)


def places_of_defects(images: ImageSet, reader: Features) -> list[Tensor | None]:
    """(h, w) bool for each image, the places of its defect; None without a mask, or with an empty one."""
    as_mask = reader.pixels.model_copy(update={"channels": 1, "grey": False, "dtype": "uint8"})
    found: list[Tensor | None] = []
    for i in range(len(images)):
        mask = images.mask(i)
        if mask is None or not mask.any():
            found.append(None)
            continue
        shape = tuple(images.shapes()[i, :2].tolist())
        if mask.shape != shape:
            raise DataError(f"{images.ids[i]}: its mask is {mask.shape}, the image is {shape}; expected one size")
        prepared = as_mask.prepare(mask[..., None].astype(np.uint8) * 255).transpose(1, 2, 0)
        prepared = warp(np.ascontiguousarray(prepared), reader.transforms(images, np.array([i]))[0])
        share = adaptive_avg_pool2d(torch.from_numpy(prepared[None, ..., 0]).float(), reader.grid)[0]
        found.append((share >= HALF * share.max()) & (share > 0))
    return found
