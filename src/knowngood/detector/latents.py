"""What a VAE makes of items: reconstructions, codes, and what it decodes beside these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from knowngood.config import nearest
from knowngood.data.conditions import Expanded, Unknown
from knowngood.data.values import listing
from knowngood.detector.decide import decide
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.detector.scoring import Rows, expand, one_row_each, score_batches
from knowngood.errors import DataError, SettingsError
from knowngood.models.vae import ConditionalVAE

ROWS = 256  # codes decoded at a time


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
def sample(pipeline: Pipeline, n: int, columns: Mapping[str, Any], seed: int) -> np.ndarray:
    """Decoder means of n draws z ~ r(z|c), (n, *shape), scaled.

    Args:
        columns: conditions, n values or one for all. What is unknown is drawn as often as it occurs in the fit.

    Raises:
        SettingsError: the model is no VAE. DataError: the model has no such condition, or it has no such value.
    """
    model, schema, rng = _vae(pipeline, "draw samples"), pipeline.schema, np.random.default_rng(seed)
    columns = {
        name: np.broadcast_to(np.asarray(values), n) if np.ndim(values) == 0 else values
        for name, values in columns.items()
    }
    known = {column.name: column for column in schema.columns if column.roles}
    for name, values in columns.items():
        if name not in known:
            raise DataError(f"the model has no condition '{name}'{nearest(name, list(known))}")
        if new := known[name].read(values, n)[2]:
            values = list(map(str, known[name].values))
            raise DataError(f"condition '{name}' has no value {listing(new, quote=True)}{nearest(new[0], values)}")
    noise = torch.from_numpy(rng.standard_normal((n, model.latent_dim), dtype=np.float32))  # first: of all conditions
    rows = schema.expand(columns, n, unknown="infer")
    weights, first = np.exp(rows.log_weight), np.searchsorted(rows.item, np.arange(n + 1))
    taken = [rng.choice(np.arange(a, b), p=weights[a:b] / weights[a:b].sum()) for a, b in pairwise(first)]
    device, made = next(model.parameters()).device, []
    given = torch.from_numpy(rows.c[taken])
    for part in torch.arange(n).split(ROWS):
        z, c = noise[part].to(device), given[part].to(device) if model.condition_dim else None
        prior = model.prior(c, like=z)
        z = prior.mean + (0.5 * prior.log_var).exp() * z
        made.append(model.likelihood.mean(model.decode(z, c)).cpu().numpy())
    return np.concatenate(made)


class Code(NamedTuple):
    """An item in the latent space of a VAE with D dimensions.

    z: (D,) posterior mean, in standard deviations of the prior from its mean. kl: (D,) nats, of the posterior from the
    prior. made: (*shape) what is decoded from it, scaled.
    """

    z: np.ndarray
    kl: np.ndarray
    made: np.ndarray


@torch.no_grad()
def code(
    pipeline: Pipeline, item: Items, moved: Mapping[int, float] | None = None, unknown: Unknown | None = None
) -> Code:
    """The code of one item under its best condition, with the dimensions `moved` at other positions z.

    Raises:
        SettingsError: the model is no VAE, or has no such dimension. DataError: the item cannot be read.
    """
    model = _vae(pipeline, "have latents")
    for dim in moved or {}:
        if not 0 <= dim < model.latent_dim:
            raise SettingsError(f"latent dimension {dim}; expected 0 to {model.latent_dim - 1}")
    (rows,) = best_rows(pipeline, item, unknown)
    posterior = model.encode(rows.x, rows.c)
    prior = model.prior(rows.c, like=posterior.mean)
    spread = (0.5 * prior.log_var).exp()
    z = (posterior.mean - prior.mean) / spread
    for dim, position in (moved or {}).items():
        z[:, dim] = position
    made = model.likelihood.mean(model.decode(prior.mean + spread * z, rows.c))
    kl = posterior.kl(prior)
    return Code(*(values[0].cpu().numpy() for values in (z, kl, made)))


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
