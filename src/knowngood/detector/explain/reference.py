"""The reference index of a fitted pipeline, made of its normal images; and how an image compares with it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

from knowngood.config import counted
from knowngood.data import ImageSet
from knowngood.data.image_factors import MEASURES
from knowngood.detector.explain.appearance import Appearance, differences, quantities
from knowngood.detector.explain.explanation import TOP, Fields, ImageFactor, Nearest
from knowngood.detector.pipeline import Pipeline
from knowngood.detector.reference_index import ENOUGH, ReferenceIndex
from knowngood.detector.scoring import READERS, one_row_each
from knowngood.models.base import Model
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.models.vae import ConditionalVAE

MOST = 5000  # images kept
VALUES = 1 << 25  # of all codes kept
MEASURED = 500  # images whose pixels are read, and held-out images
REDUCED = 768  # pixels of the longer side of images that are seen in tiles
SIDE, SMALL_SIDE = 192, 128  # pixels of the longer side of a mean image; of more than `FEW` groups
FEW, GROUPS = 8, 32  # groups; with a mean image of their own, at most
FACTORS = ("brightness", "contrast")
AT_ONCE = 8
HALF_LIMIT = 6e4  # float16 ends at 65,504
NO_INDEX = "the model was saved without a reference index; fit it again to have one"


def reference_index(pipeline: Pipeline, fit_images: ImageSet, held_out_images: ImageSet, seed: int) -> ReferenceIndex:
    """The index of the images fitted to. All images have known conditions, and the columns of the schema alone.

    Args:
        held_out_images: normal images that took no part in the fit; the first 500 are used.
    """
    rows, most = np.arange(len(fit_images)), min(MOST, max(1, VALUES // code_size(pipeline.model)))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng([seed, 11]).choice(len(rows), most, replace=False))
    # The images whose pixels are read come first, and are drawn from all.
    rows = rows[np.random.default_rng([seed, 12]).permutation(len(rows))]
    images, groups = fit_images[rows], groups_of(pipeline)
    codes, group = codes_of(pipeline, images, groups)
    half = float(np.abs(codes).max(initial=0)) < HALF_LIMIT
    measured = images[: min(len(images), MEASURED)]
    factors, means, appearance = _measured(pipeline, measured, group, int(groups.max()) + 1)
    index = ReferenceIndex(
        ids=tuple(str(name) for name in images.ids),
        codes=codes.astype(np.float16 if half else np.float32),
        group=group.astype(np.int32),
        image_factors=factors,
        mean_images=means,
        held_out_distances=np.zeros(0, np.float32),
        appearance=appearance,
    )
    if not len(held_out_images):
        return index
    each = zip(*codes_of(pipeline, held_out_images[: min(len(held_out_images), MEASURED)], groups), strict=True)
    distances = [index.nearest(code, int(own), 1)[1][0] for code, own in each]
    return replace(index, held_out_distances=np.array(distances, np.float32))


@torch.no_grad()
def model_codes(model: Model, x: Tensor, c: Tensor | None) -> np.ndarray:
    """(B, K) float64 codes by which images are compared.

    Posterior means of a VAE; whitened features of a patch_gaussian, averaged over the locations that count; of other
    models the items themselves, feature maps averaged over all locations.
    """
    if isinstance(model, ConditionalVAE):
        codes = model.encode(x, c).mean
    elif isinstance(model, PatchGaussian):
        codes = model.mean_white(*model.given(x, c))
    else:
        codes = x.flatten(2).mean(2) if getattr(model, "patches", False) else x.flatten(1)
    return codes.cpu().double().numpy()


def code_size(model: Model) -> int:
    """K of `model_codes`."""
    if isinstance(model, ConditionalVAE):
        return model.latent_dim
    features = isinstance(model, PatchGaussian) or getattr(model, "patches", False)
    return model.shape[0] if features else math.prod(model.shape)


def codes_of(pipeline: Pipeline, images: ImageSet, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N, K) and groups (N,) of images whose conditions are known.

    Raises:
        DataError: an image cannot be read.
    """
    expanded = pipeline.schema.expand(images.conditions, len(images), unknown="error")
    codes = [model_codes(pipeline.model, some.x, some.c) for some in one_row_each(pipeline, images, expanded)]
    return np.concatenate(codes), group_of(groups, expanded.stratum)


def groups_of(pipeline: Pipeline) -> np.ndarray:
    """(S,) the group of each Mondrian group: its conditions but for measured image factors, which are compared."""
    schema, measured = pipeline.schema, pipeline.settings.conditioning.measure
    if not schema.strata_columns:
        return np.zeros(1, np.int64)
    given = [i for i, column in enumerate(schema.strata_columns) if column.name not in measured]
    return np.unique(schema.strata[:, given], axis=0, return_inverse=True)[1].reshape(-1)


def group_of(groups: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """(N,) the group of items in Mondrian groups (N,); −1 for those in none."""
    return np.where(stratum >= 0, groups[stratum], -1)


def scaled_images(pipeline: Pipeline, images: ImageSet) -> Tensor:
    """(N, C, h, w) float32 images as the model's pixels are prepared, scaled; before alignment to a reference."""
    pixels: Any = getattr(pipeline.representation, "pixels", pipeline.representation)
    seen = getattr(pipeline.representation, "seen", None)  # of features, cached or not
    images = images if seen is None else seen(images)
    if getattr(pipeline.representation, "tiling", None) is not None:  # reduced, one at a time
        each = (pixels.scale(torch.from_numpy(pixels.read(images, np.array([i]))[0])) for i in range(len(images)))
        return torch.cat([interpolate(x, scale_factor=min(1.0, REDUCED / max(x.shape)), mode="area") for x in each])
    return pixels.scale(torch.from_numpy(pixels.read(images, None, READERS)[0]))


def factors_of(x: Tensor) -> np.ndarray:
    """(B, 2) float32 brightness and contrast of scaled images (B, C, h, w)."""
    values = np.moveaxis(x.double().numpy(), 1, -1)
    return np.stack([MEASURES[name](values) for name in FACTORS], axis=1).astype(np.float32)


def _measured(
    pipeline: Pipeline, images: ImageSet, group: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image factors (M, 2); mean images (G + 1, C, H, W) by group; mean and standard deviation (2, G + 1, K, H, W) of
    the quantities of their appearance. G is 0 if there are too many groups.
    """
    side, count = SIDE if count <= FEW else SMALL_SIDE, count if count <= GROUPS else 0
    factors, counts = [], np.zeros(count + 1)
    total: Any = 0.0
    sums: Any = 0.0
    squares: Any = 0.0
    for start in range(0, len(images), AT_ONCE):
        x = scaled_images(pipeline, images[start : start + AT_ONCE])
        factors.append(factors_of(x))
        for one, own in zip(reduced(x, side), group[start : start + AT_ONCE].tolist(), strict=False):
            mine = np.zeros((count + 1, 1, 1, 1))
            mine[[own if 0 <= own < count else count, count]] = 1
            values = quantities(one)
            counts += mine[:, 0, 0, 0]
            total, sums, squares = total + mine * one, sums + mine * values, squares + mine * values**2
    counts = np.maximum(counts, 1)[:, None, None, None]
    mean = sums / counts
    spread = np.sqrt(np.maximum(squares / counts - mean**2, 0))
    return np.concatenate(factors), (total / counts).astype(np.float16), np.stack([mean, spread]).astype(np.float16)


def reduced(x: Tensor, most: int) -> np.ndarray:
    """Images (N, C, h, w) with at most so many pixels on the longer side, by means over areas."""
    share = min(1.0, most / max(x.shape[2:]))
    return interpolate(x, size=[max(1, round(side * share)) for side in x.shape[2:]], mode="area").numpy()


def comparison(pipeline: Pipeline, code: np.ndarray, stratum: int, x: Tensor) -> Fields:
    """Of an image with this code (K,), in a Mondrian group, whose scaled pixels are x (C, h, w)."""
    reference = pipeline.reference
    if reference is None:
        return {"missing": dict.fromkeys(("nearest", "image_factors", "mean_image"), NO_INDEX)}
    group = int(group_of(groups_of(pipeline), np.array([stratum]))[0])
    nearest, mean = of_group(reference, pipeline, code, stratum)
    found: Fields = {"nearest": nearest, "mean_image": mean}
    held_out, normal = reference.held_out_distances, reference.factors_of(group)
    if len(held_out) >= ENOUGH and nearest:
        found["farther_than"] = float((held_out < nearest[0].distance).mean())
    if len(normal) < ENOUGH:
        why = f"{counted(len(normal), 'normal image')} of this condition, too few for a normal range"
        return {**found, "missing": {"image_factors": why}}
    each = zip(FACTORS, factors_of(x[None])[0].tolist(), normal.T.astype(np.float64), strict=True)
    return {**found, "image_factors": tuple(_factor(pipeline, *one) for one in each)}


def appearance(pipeline: Pipeline, stratum: int, x: Tensor, values: np.ndarray | None, begins: float) -> Fields:
    """How the most anomalous region of an image looks, whose scaled pixels are x (C, h, w), against normal images.

    Args:
        values: (a, b) its anomaly map over these pixels. begins: the threshold of the map. Where nothing is above it,
            the region is what lies above the middle of the median and the largest value.
    """
    reference = pipeline.reference
    if reference is None or values is None or np.isnan(values).all():
        return {"missing": {"differences": NO_INDEX if reference is None else "the score has no map"}}
    group = int(group_of(groups_of(pipeline), np.array([stratum]))[0])
    mean, spread, n = reference.appearance_of(group)
    if n < ENOUGH:
        return {"missing": {"differences": f"{counted(n, 'normal image')}, too few to tell how much they vary"}}
    low = float(np.nanmin(values))
    grid = torch.from_numpy(np.nan_to_num(values, nan=low).astype(np.float32))[None, None]
    fine = interpolate(grid, size=mean.shape[1:], mode="bilinear", align_corners=False)[0, 0].numpy()
    level = begins if fine.max() > begins else (float(np.median(fine)) + float(fine.max())) / 2
    labels, _ = ndimage.label(fine > level, np.ones((3, 3)))  # type: ignore[misc]
    region = labels == labels[np.unravel_index(int(fine.argmax()), fine.shape)]
    small = interpolate(x[None], size=mean.shape[1:], mode="area")[0].numpy()
    rows, columns = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
    height, width = region.shape
    box = rows[0] / height, columns[0] / width, (rows[-1] + 1) / height, (columns[-1] + 1) / width
    return {"differences": differences(small, region, Appearance(mean, spread)), "view_box": tuple(map(float, box))}


def of_group(
    reference: ReferenceIndex, pipeline: Pipeline, code: np.ndarray, stratum: int
) -> tuple[tuple[Nearest, ...], np.ndarray]:
    """Normal images of a Mondrian group that are nearest to a code (K,), and the mean (h, w, C) of its images."""
    group = int(group_of(groups_of(pipeline), np.array([stratum]))[0])
    rows, distance = reference.nearest(code, group, TOP)
    nearest = tuple(Nearest(reference.ids[r], float(d)) for r, d in zip(rows, distance, strict=True))
    return nearest, np.moveaxis(reference.mean_image(group), 0, -1)


def _factor(pipeline: Pipeline, name: str, value: float, normal: np.ndarray) -> ImageFactor:
    """Compared with the values (m,) of normal images.

    The model accounts for a change if it is given the factor, does not see it (HOG), or was fitted to tolerate
    illumination that changes by as much. A factor of dan_vae is only declared harmless: beyond the training range its
    residual still raises the score.
    """
    low, median, high = (float(q) for q in np.quantile(normal, [0.025, 0.5, 0.975]))
    settings = pipeline.settings
    harmless = name in getattr(getattr(settings.model, "objective", None), "factors", ())
    given = name in settings.conditioning.measure
    tolerance = getattr(settings.representation, "illumination", None)
    change = abs(value / median - 1) if median else 0.0
    tolerated = tolerance is not None and change <= tolerance
    return ImageFactor(name, value, median, low, high, given or tolerated or name in pipeline.unseen, harmless)
