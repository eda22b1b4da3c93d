"""Reconstructions of the same few held-out images during training, kept at each evaluation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from knowngood.errors import DataError, SettingsError
from knowngood.models.base import Batch, BatchSource

IMAGES = 10
LARGEST = 96  # pixels of the longer side that are kept


class Film:
    """Called with (step, model) after each evaluation, it keeps the reconstructions of the images of one batch.

    They are means of p(x|z,c) at z = μ(x,c), each under its own condition: no draw, so that a difference between two
    frames is a difference between weights. No random state is touched. Where a run is resumed, the film starts there.

    inputs: (N, H, W, C) uint8, the images. steps: (T,) at which it was called. Large images are kept reduced.

    Raises:
        SettingsError: the items are no images, x (N, C, H, W) scaled to 0…1.
    """

    def __init__(self, batch: Batch) -> None:
        if batch.x.ndim != 4:
            raise SettingsError(f"film: it shows images (N, C, H, W); the items have shape {tuple(batch.x.shape[1:])}")
        self.x, self.c = batch.x.detach(), batch.c
        self.inputs = _reduced(self.x)
        self.steps: list[int] = []
        self.kept: list[np.ndarray] = []

    @classmethod
    def of(cls, source: BatchSource, most: int = IMAGES) -> Film:
        """A film of at most `most` images of a source, spread over its strata and its order.

        Raises:
            DataError: the source is empty.
            SettingsError: its items are no images.
        """
        if not len(source):
            raise DataError("film: no held-out images to show; set a select_fraction above 0")
        rows = torch.from_numpy(_spread_over(source.facts.stratum.cpu().numpy(), most))
        return cls(next(iter(source.batches([rows]))))

    @torch.no_grad()
    def __call__(self, step: int, model: nn.Module) -> None:
        training, like = model.training, next(model.parameters())
        model.eval()
        c = None if self.c is None else self.c.to(like.device)
        self.kept.append(_reduced(model.reconstruct(self.x.to(like.device), c)))  # type: ignore[operator]
        self.steps.append(step)
        model.train(training)

    def frames(self) -> np.ndarray:
        """(T, N, H, W, C) uint8, the reconstructions at each of `steps`. Raises DataError: there was no evaluation."""
        if not self.kept:
            raise DataError("film: there was no evaluation to film; training had no held-out images")
        return np.stack(self.kept)


def _reduced(x: Tensor) -> np.ndarray:
    """(N, C, H, W) in 0…1 as (N, H, W, C) uint8, at most `LARGEST` pixels high and wide; values beyond are cut off."""
    size = max(x.shape[2:])
    if size > LARGEST:
        height, width = (max(1, round(side * LARGEST / size)) for side in x.shape[2:])
        x = interpolate(x, size=(height, width), mode="area")
    return (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _spread_over(stratum: np.ndarray, most: int) -> np.ndarray:
    """At most `most` positions: equally many of each stratum, evenly spaced over its items, ordered by stratum."""
    names = np.unique(stratum)
    names = names[_evenly(len(names), most)]
    share = most // len(names) + (np.arange(len(names)) < most % len(names))
    rows = [np.flatnonzero(stratum == name) for name in names]
    return np.concatenate([of[_evenly(len(of), int(n))] for of, n in zip(rows, share, strict=True)])


def _evenly(n: int, most: int) -> np.ndarray:
    """At most `most` of 0 … n − 1, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))
