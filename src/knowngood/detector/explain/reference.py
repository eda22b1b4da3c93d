"""The good images a model was fitted on, as far as explaining others needs them: codes, light, and how they look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from knowngood.data.image_factors import MEASURES
from knowngood.errors import ArtifactError
from knowngood.models.patch_gaussian import Patches
from knowngood.representations import Edges, Features, Pixels

if TYPE_CHECKING:
    from knowngood.data import ImageSet
    from knowngood.detector.pipeline import Pipeline
    from knowngood.detector.rows import Unknown

MOST = 5000  # good images kept
SEEN = 500  # of them whose pixels are looked at
LOOK = 128  # pixels of the longer side of what is usual
KINDS = 32  # with a usual look of their own
LIGHT = ("brightness", "contrast")
AT_ONCE = 8
PREFIX = "neighbours."


@dataclass(frozen=True, eq=False)
class KnownGood:
    """N good images that the model was fitted on, by a seeded draw where there were more than 5,000.

    Args:
        ids: N texts.
        codes: (N, K) float16; pixels: posterior means; features: whitened features, averaged over all places.
        kind: (N,) int32, of its conditions, see `kinds`.
        light: (M, 2) float32, brightness and contrast of the first M of them as the nets see them.
        look: (K + 1, C, H, W) float16, the mean of these images by kind, of all of them last; scaled; reduced.
        apart: (A,) float32, distances of held-out good images to the nearest of these: what is usual.
    """

    ids: tuple[str, ...]
    codes: np.ndarray
    kind: np.ndarray
    light: np.ndarray
    look: np.ndarray
    apart: np.ndarray

    def members(self, kind: int) -> np.ndarray:
        """(n,) rows of the images of a kind; all rows if it has none."""
        mine = np.flatnonzero(self.kind == kind)
        return mine if len(mine) else np.arange(len(self.ids))

    def nearest(self, code: np.ndarray, kind: int, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and distances of the images of this kind whose codes are nearest to a code (K,), nearest first."""
        rows = self.members(kind)
        distance = np.sqrt(np.square(self.codes[rows].astype(np.float64) - code).sum(1))
        order = np.argsort(distance, kind="stable")[:most]
        return rows[order], distance[order]

    def usual_look(self, kind: int) -> np.ndarray:
        """(C, H, W) float32 mean of the good images of a kind, or of all where it has none."""
        own = 0 <= kind < len(self.look) - 1 and bool((self.kind[: len(self.light)] == kind).any())
        return self.look[kind if own else -1].astype(np.float32)

    def usual_light(self, kind: int) -> np.ndarray:
        """(m, 2) brightness and contrast of the good images of a kind, or of all where it has none."""
        mine = self.kind[: len(self.light)] == kind
        return self.light[mine] if mine.any() else self.light

    def to_tensors(self) -> dict[str, Tensor]:
        """The arrays, for safetensors; the ids stand in the JSON."""
        arrays = {name: getattr(self, name) for name in ("codes", "kind", "light", "look", "apart")}
        return {PREFIX + name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], ids: list[str]) -> KnownGood:
        """What `to_tensors` gave.

        Raises:
            ArtifactError: codes and ids differ in number.
        """
        arrays: dict[str, Any] = {k.removeprefix(PREFIX): v.numpy() for k, v in tensors.items() if k.startswith(PREFIX)}
        if len(arrays["codes"]) != len(ids):
            raise ArtifactError(f"{len(ids)} ids of good images and {len(arrays['codes'])} codes; the model is damaged")
        return cls(tuple(ids), **arrays)


def learn(
    pipeline: Pipeline,
    fit: ImageSet,
    held_out: ImageSet,
    stratum: np.ndarray,
    c: np.ndarray,
    features: np.ndarray | None,
    seed: int,
) -> KnownGood:
    """From the images fitted on and good ones that were not, with the columns of the schema alone.

    Args:
        stratum, c: (N,), (N, W) of the images fitted on, encoded.
        features: (N, F, h, w) of these images, where the model works on features.
    """
    rows = np.arange(len(fit))
    if len(fit) > MOST:
        rows = np.sort(np.random.default_rng([seed, 11]).choice(len(fit), MOST, replace=False))
    patches = pipeline.model.patches
    if patches is None or features is None:
        codes = codes_of(pipeline, fit[rows])
    else:
        told = torch.from_numpy(c[rows]) if patches.keys.shape[1] else None
        found = []
        for at in torch.arange(len(rows)).split(AT_ONCE):
            some = torch.from_numpy(np.array(features[rows[at.numpy()]])).to(pipeline.device)
            found.append(pooled(patches, some, None if told is None else told[at].to(pipeline.device)))
        codes = np.concatenate(found)
    names = kinds(pipeline)
    mine = names[stratum[rows]].astype(np.int32)
    # The images whose pixels are looked at come first, and are spread over all.
    order = np.random.default_rng([seed, 12]).permutation(len(rows))
    seen = order[:SEEN]
    light, look = _looked_at(pipeline, fit[rows[seen]], mine[seen], int(names.max()) + 1)
    ids = tuple(str(name) for name in fit.ids[rows[order]])
    index = KnownGood(ids, codes[order].astype(np.float16), mine[order], light, look, np.zeros(0, np.float32))
    if not len(held_out):
        return index
    fresh = held_out[: min(len(held_out), SEEN)]
    of = names[pipeline.schema.encode(fresh.conditions, len(fresh)).stratum].tolist()
    apart = [index.nearest(code, k, 1)[1][0] for code, k in zip(codes_of(pipeline, fresh), of, strict=True)]
    return replace(index, apart=np.array(apart, np.float32))


def kinds(pipeline: Pipeline) -> np.ndarray:
    """(S,) the kind of each stratum: its conditions but for those that are measured, which differ by light."""
    schema = pipeline.schema
    columns = schema._strata_columns
    if not columns:
        return np.zeros(1, np.int64)
    told = [i for i, column in enumerate(columns) if column.name not in pipeline.settings.measure]
    return np.unique(schema._strata[:, told], axis=0, return_inverse=True)[1].reshape(-1)


@torch.no_grad()
def codes_of(pipeline: Pipeline, items: ImageSet, unknown: Unknown | None = None) -> np.ndarray:
    """(N, K) float64 codes of images, as `KnownGood` holds them."""
    found = []
    for chunk in pipeline.best_rows(items, unknown):
        patches = pipeline.model.patches
        if patches is None:
            found.append(pipeline.model.encode(chunk.x, chunk.c).mean.cpu().double().numpy())
        else:
            found.append(pooled(patches, chunk.x, chunk.c))
    return np.concatenate(found)


@torch.no_grad()
def pooled(patches: Patches, x: Tensor, c: Tensor | None) -> np.ndarray:
    """(B, F) float64: whitened features of grids (B, F, h, w), averaged over all places."""
    return patches.whiten(x, patches.cell(c, len(x))).mean(1).cpu().double().numpy()


def light_of(pixels: Pixels, prepared: np.ndarray) -> np.ndarray:
    """(B, 2) float32 brightness and contrast of prepared images (B, C, H, W), their values scaled."""
    x = np.moveaxis(pixels.scale(torch.from_numpy(prepared)).double().numpy(), 1, -1)
    return np.stack([MEASURES[name](x) for name in LIGHT], axis=1).astype(np.float32)


def pixels_of(pipeline: Pipeline) -> Pixels:
    """How the model's images are prepared."""
    representation = pipeline.representation
    if isinstance(representation, Features | Edges):
        return representation.pixels
    assert isinstance(representation, Pixels)
    return representation


def _looked_at(pipeline: Pipeline, images: ImageSet, kind: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    pixels, light = pixels_of(pipeline), []
    channels, height, width = pixels.shape
    share = min(1.0, LOOK / max(height, width))
    size = [max(1, round(side * share)) for side in (height, width)]
    count = count if count <= KINDS else 0
    total, counts = np.zeros((count + 1, channels, *size)), np.zeros(count + 1)
    for start in range(0, len(images), AT_ONCE):
        rows = np.arange(start, min(start + AT_ONCE, len(images)))
        prepared, _ = pixels.read(images, rows, 4)
        light.append(light_of(pixels, prepared))
        small = interpolate(pixels.scale(torch.from_numpy(prepared)), size=size, mode="area").numpy()
        for one, own in zip(small, kind[rows].tolist(), strict=True):
            for k in {own if own < count else count, count}:
                total[k] += one
                counts[k] += 1
    look = total / np.maximum(counts, 1)[:, None, None, None]
    return np.concatenate(light), look.astype(np.float16)
