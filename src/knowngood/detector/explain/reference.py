"""The reference index: normal images fitted to, as far as explanations of others need them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from knowngood.data import ImageSet
from knowngood.data.conditions import Expanded
from knowngood.data.image_factors import MEASURES
from knowngood.detector.pipeline import Pipeline
from knowngood.detector.scoring import READERS, one_row_each
from knowngood.errors import ArtifactError
from knowngood.models.base import Model
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.models.vae import ConditionalVAE
from knowngood.representations import Pixels

MOST = 5000  # images kept
VALUES = 1 << 25  # of all codes kept
MEASURED = 500  # images whose pixels are read, and held-out images
SIDE = 128  # pixels of the longer side of a mean image
GROUPS = 32  # with a mean image of their own, at most
FACTORS = ("brightness", "contrast")
AT_ONCE = 8
HALF_LIMIT = 6e4  # float16 ends at 65,504
PREFIX = "reference."


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
    """

    ids: tuple[str, ...]
    codes: np.ndarray
    group: np.ndarray
    image_factors: np.ndarray
    mean_images: np.ndarray
    held_out_distances: np.ndarray

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
        own = 0 <= group < len(self.mean_images) - 1 and bool((self._measured_group == group).any())
        return self.mean_images[group if own else -1].astype(np.float32)

    def factors_of(self, group: int) -> np.ndarray:
        """(m, 2) brightness and contrast of the images of a group, or of all if it has none."""
        mine = self._measured_group == group
        return self.image_factors[mine] if mine.any() else self.image_factors

    @property
    def _measured_group(self) -> np.ndarray:
        return self.group[: len(self.image_factors)]

    def to_tensors(self) -> dict[str, Tensor]:
        """The arrays, for safetensors; the ids are kept in the JSON."""
        names = ("codes", "group", "image_factors", "mean_images", "held_out_distances")
        return {PREFIX + name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in names}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], ids: list[str]) -> ReferenceIndex:
        """What `to_tensors` gave; other tensors are passed over.

        Raises:
            ArtifactError: codes and ids differ in number.
        """
        arrays: dict[str, Any] = {k.removeprefix(PREFIX): v.numpy() for k, v in tensors.items() if k.startswith(PREFIX)}
        if len(arrays["codes"]) != len(ids):
            raise ArtifactError(f"reference index: {len(ids)} ids and {len(arrays['codes'])} codes; model damaged")
        return cls(tuple(ids), **arrays)


def reference_index(
    pipeline: Pipeline,
    fit_images: ImageSet,
    held_out_images: ImageSet | None,
    seed: int,
    codes: np.ndarray | None = None,
) -> ReferenceIndex:
    """The index of the images fitted to. All images have known conditions, and the columns of the schema alone.

    Args:
        held_out_images: normal images that took no part in the fit; the first 500 are used.
        codes: (N, K) of the images fitted to, as `model_codes` gives them; default: computed from the images.
    """
    rows, most = np.arange(len(fit_images)), min(MOST, max(1, VALUES // code_size(pipeline.model)))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng([seed, 11]).choice(len(rows), most, replace=False))
    # The images whose pixels are read come first, and are drawn from all.
    rows = rows[np.random.default_rng([seed, 12]).permutation(len(rows))]
    images = fit_images[rows]
    expanded = _known(pipeline, images)
    groups = groups_of(pipeline)
    group = group_of(groups, expanded.stratum).astype(np.int32)
    kept = codes_of(pipeline, images, expanded) if codes is None else codes[rows]
    half = float(np.abs(kept).max(initial=0)) < HALF_LIMIT
    factors, means = _measured(pipeline, images[: min(len(images), MEASURED)], group, int(groups.max()) + 1)
    index = ReferenceIndex(
        ids=tuple(str(name) for name in images.ids),
        codes=kept.astype(np.float16 if half else np.float32),
        group=group,
        image_factors=factors,
        mean_images=means,
        held_out_distances=np.zeros(0, np.float32),
    )
    if held_out_images is None or not len(held_out_images):
        return index
    held_out = held_out_images[: min(len(held_out_images), MEASURED)]
    expanded = _known(pipeline, held_out)
    each = zip(codes_of(pipeline, held_out, expanded), group_of(groups, expanded.stratum).tolist(), strict=True)
    distances = [index.nearest(code, g, 1)[1][0] for code, g in each]
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
        cell = model.cell(c, len(x))
        counted = (~model.ignored[cell]).float()  # (B, P)
        codes = (model.whiten(x, cell) * counted[:, :, None]).sum(1) / counted.sum(1, keepdim=True)
    else:
        codes = x.flatten(2).mean(2) if _of_patches(model) else x.flatten(1)
    return codes.cpu().double().numpy()


def code_size(model: Model) -> int:
    """K of `model_codes`."""
    if isinstance(model, ConditionalVAE):
        return model.latent_dim
    return model.shape[0] if isinstance(model, PatchGaussian) or _of_patches(model) else int(np.prod(model.shape))


def codes_of(pipeline: Pipeline, images: ImageSet, expanded: Expanded) -> np.ndarray:
    """(N, K) codes of images under their one row each.

    Raises:
        DataError: an image cannot be read.
    """
    rows = one_row_each(pipeline, images, expanded)
    return np.concatenate([model_codes(pipeline.model, some.x, some.c) for some in rows])


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
    """(N, C, h, w) float32 images as the model's pixels are prepared, scaled; before alignment."""
    representation: Any = pipeline.representation
    pixels = representation if isinstance(representation, Pixels) else representation.pixels
    return pixels.scale(torch.from_numpy(pixels.read(images, None, READERS)[0]))


def factors_of(x: Tensor) -> np.ndarray:
    """(B, 2) float32 brightness and contrast of scaled images (B, C, h, w)."""
    values = np.moveaxis(x.double().numpy(), 1, -1)
    return np.stack([MEASURES[name](values) for name in FACTORS], axis=1).astype(np.float32)


def _measured(pipeline: Pipeline, images: ImageSet, group: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Image factors (M, 2), and mean images (G + 1, C, H, W) by group; G is 0 if there are too many groups."""
    count = count if count <= GROUPS else 0
    factors, total, counts = [], None, np.zeros(count + 1)
    for start in range(0, len(images), AT_ONCE):
        x = scaled_images(pipeline, images[start : start + AT_ONCE])
        factors.append(factors_of(x))
        share = min(1.0, SIDE / max(x.shape[2:]))
        small = interpolate(x, size=[max(1, round(side * share)) for side in x.shape[2:]], mode="area").numpy()
        total = np.zeros((count + 1, *small.shape[1:])) if total is None else total
        for one, own in zip(small, group[start : start + AT_ONCE].tolist(), strict=False):
            for g in {own if 0 <= own < count else count, count}:
                total[g] += one
                counts[g] += 1
    assert total is not None
    means = total / np.maximum(counts, 1)[:, None, None, None]
    return np.concatenate(factors), means.astype(np.float16)


def _known(pipeline: Pipeline, images: ImageSet) -> Expanded:
    return pipeline.schema.expand(images.conditions, len(images), unknown="error")


def _of_patches(model: Model) -> bool:
    return bool(getattr(model, "patches", False))
