"""What a VAE makes of items: reconstructions and posterior means."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from knowngood.data.conditions import Expanded
from knowngood.detector.decide import decide
from knowngood.detector.pipeline import Items, Pipeline, Unknown
from knowngood.detector.scoring import Rows, expand, one_row_each, score_batches
from knowngood.errors import SettingsError
from knowngood.models.vae import ConditionalVAE


@torch.no_grad()
def reconstruct(pipeline: Pipeline, items: Items, unknown: Unknown | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Model inputs and reconstructions under the best condition, both (N, *shape), scaled.

    Raises:
        SettingsError: the model is no VAE. DataError: an item cannot be read.
    """
    model, seen, made = _vae(pipeline, "reconstruct items"), [], []
    for rows in best_rows(pipeline, items, unknown):
        seen.append(rows.x.cpu().numpy())
        made.append(model.reconstruct(rows.x, rows.c).cpu().numpy())
    return np.concatenate(seen), np.concatenate(made)


@torch.no_grad()
def embed(pipeline: Pipeline, items: Items, unknown: Unknown | None = None) -> np.ndarray:
    """Posterior means μ(x, c) under the best condition, (N, D).

    Raises:
        SettingsError: the model is no VAE. DataError: an item cannot be read.
    """
    model, rows = _vae(pipeline, "have latents"), best_rows(pipeline, items, unknown)
    return np.concatenate([model.encode(some.x, some.c).mean.cpu().numpy() for some in rows])


def best_rows(pipeline: Pipeline, items: Items, unknown: Unknown | None) -> Iterator[Rows]:
    """One row an item: where a condition is unknown, that under which the item is least anomalous."""
    return one_row_each(pipeline, items, best_conditions(pipeline, items, unknown))


def best_conditions(pipeline: Pipeline, items: Items, unknown: Unknown | None) -> Expanded:
    """One row an item: its conditions, or those that explain it best."""
    rule = unknown or pipeline.settings.conditioning.unknown
    known = expand(pipeline, items, rule)
    if known.known.all():
        return known
    batches = score_batches(pipeline, items, unknown=rule, alternatives=True)
    return Expanded.concat([decide(pipeline, one).best for one in batches])


def _vae(pipeline: Pipeline, what: str) -> ConditionalVAE:
    if not isinstance(pipeline.model, ConditionalVAE):
        raise SettingsError(
            f"model '{pipeline.model.kind}' does not {what}; fit with representation='pixels', model='vae' for that"
        )
    return pipeline.model
