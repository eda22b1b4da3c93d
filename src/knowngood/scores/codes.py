"""What items are compared by: their codes, their pixels, what reconstructions leave, or their edges."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from knowngood.errors import SettingsError
from knowngood.models.vae import ConditionalVAE
from knowngood.representations.hog_features import hog as oriented_gradients

LEAST_SIDE = 8
Of = Literal["latent", "pixels", "residual", "gradients"]


def codes(model: ConditionalVAE, x: Tensor, c: Tensor | None, of: Of) -> Tensor:
    """(B, V) of items x (B, *shape): posterior means, the items, x − x̂ at the posterior mean, or oriented gradients."""
    if of == "pixels":
        return x.flatten(1)
    if of == "gradients":
        return _gradients(x)
    if of == "latent":
        return model.encode(x, c).mean
    return (x - model.reconstruct(x, c)).flatten(1)


def has_edges(model: ConditionalVAE) -> bool:
    """Whether items are images, large enough for their edges to tell something."""
    return len(model.shape) == 3 and min(model.shape[1:]) >= LEAST_SIDE


def check_codes(model: ConditionalVAE, of: Of, score: str) -> None:
    """Raise SettingsError if items of this model have no such codes."""
    if of == "gradients" and len(model.shape) != 3:
        raise SettingsError(
            f"score '{score}' of 'gradients' compares the edges of images; on a table or on features take of='latent'"
        )


def _gradients(x: Tensor) -> Tensor:
    """Oriented gradients of images, once of each: one may come several times in a row, under every condition it has."""
    first = torch.ones(len(x), dtype=torch.bool, device=x.device)
    first[1:] = (x[1:] != x[:-1]).flatten(1).any(1)
    return oriented_gradients(x[first])[first.cumsum(0) - 1]
