"""One vector an item, out of a fitted pipeline: for a classifier, a clustering, a search for similar items."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from torch import Tensor

from knowngood.data.conditions import Unknown
from knowngood.data.readers.given import listed
from knowngood.detector.latents import best_rows
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.detector.scoring import Rows
from knowngood.models.base import Model
from knowngood.models.memory_bank import MemoryBank
from knowngood.models.patch_gaussian import PatchGaussian, average
from knowngood.models.vae import ConditionalVAE


@torch.no_grad()
def embed(pipeline: Pipeline, items: Items, unknown: Unknown | None = None) -> np.ndarray:
    """Vectors (N, D) float32, in the order of the items, each under its best condition.

    Of a VAE the posterior means μ(x, c). Of a model of locations (patch_gaussian, shared_gaussian, memory_bank on
    features) the mean over the locations that are not ignored: D features. Of other models what they compare: the
    values of the representation, scaled as the model sees them, in one row.

    Raises:
        DataError: an item cannot be read, or lacks a condition that is not to be inferred.
    """
    vectors = [_vectors(pipeline.model, rows) for rows in best_rows(pipeline, items, unknown)]
    return np.concatenate([some.float().cpu().numpy() for some in vectors])


class Transformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """What makes a detector with `transform` a transformer of scikit-learn: in pipelines, with `set_output`."""

    pipeline_: Pipeline

    def fit_transform(self: Any, X: Any, y: Any = None, **parameters: Any) -> np.ndarray:
        """`fit(X)`, then `transform(X)`; further parameters go to `fit`."""
        X = listed(X)  # an iterator gives its items once
        return self.fit(X, y, **parameters).transform(X, conditions=parameters.get("conditions"))

    @property
    def _n_features_out(self) -> int:
        """D, which scikit-learn asks for by this name; of one that is not fitted there is no such attribute."""
        return width(self.pipeline_)

    def __sklearn_tags__(self) -> Any:
        tags: Any = super().__sklearn_tags__()  # type: ignore[misc]
        tags.transformer_tags.preserves_dtype = []  # float32 of whatever comes
        return tags


def width(pipeline: Pipeline) -> int:
    """How many numbers `embed` gives of an item."""
    model = pipeline.model
    if isinstance(model, ConditionalVAE):
        return model.latent_dim
    shape = pipeline.representation.shape
    return shape[0] if _of_locations(model) else int(np.prod(shape))


def _vectors(model: Model, rows: Rows) -> Tensor:
    """(R, D) of the rows."""
    x = rows.x
    if isinstance(model, ConditionalVAE):
        return model.encode(x, rows.c).mean
    if not _of_locations(model):
        return x.flatten(1)
    grids = x.flatten(2)
    if not isinstance(model, PatchGaussian):
        return grids.mean(2, dtype=torch.float32)
    made, cell = x.new_empty(x.shape[:2], dtype=torch.float32), model.cell(rows.c, len(x))
    for k in cell.unique().tolist():
        made[cell == k] = average(grids[cell == k], model.ignored[k])
    return made


def _of_locations(model: Model) -> bool:
    return isinstance(model, PatchGaussian) or (isinstance(model, MemoryBank) and model.patches)
