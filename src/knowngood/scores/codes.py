"""What items are compared by: their codes, the items themselves, what reconstructions leave, or their HOG."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from knowngood.errors import SettingsError
from knowngood.models.base import Condition, Model
from knowngood.models.vae import ConditionalVAE
from knowngood.representations.hog import hog

Of = Literal["latent", "items", "residual", "hog"]


def codes(model: Model, x: Tensor, c: Condition, of: Of) -> Tensor:
    """(B, V) of items x (B, *shape): posterior means, the items, x − x̂ at the posterior mean, or HOG of images."""
    if of == "items":
        return x.flatten(1)
    if of == "hog":
        return _hog(x)
    assert isinstance(model, ConditionalVAE)
    if of == "latent":
        return model.encode(x, c).mean
    return (x - model.reconstruct(x, c)).flatten(1)


def check_codes(model: Model, of: Of, score: str) -> None:
    """Raise SettingsError if items of this model have no such codes."""
    if of == "hog" and len(model.shape) != 3:
        raise SettingsError(
            f"score '{score}' of 'hog' compares images; on a table take of='latent', or of='items' where there is"
        )
    if of in ("latent", "residual") and not isinstance(model, ConditionalVAE):
        raise SettingsError(f"score '{score}' of '{of}' needs model 'vae', not '{model.kind}'; take of='items'")


def _hog(x: Tensor) -> Tensor:
    """HOG of images, once of each: one may come several times in a row, under every condition it has."""
    if torch.compiler.is_exporting():  # the number of different images is not known then
        return hog(x)
    first = torch.ones(len(x), dtype=torch.bool, device=x.device)
    first[1:] = (x[1:] != x[:-1]).flatten(1).any(1)
    return hog(x[first])[first.cumsum(0) - 1]
