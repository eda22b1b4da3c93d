"""Reconstructions of the same few held-out images during training, kept at each evaluation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from knowngood.errors import SettingsError
from knowngood.models.base import BatchSource


class Film:
    """Reconstructions at the posterior mean under each image's own condition; a resumed run starts a new film.

    inputs: (N ≤ 10, H, W, C) uint8, the images, reduced to 96 pixels. frames: for each of `steps`, as `inputs`.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.frames: list[np.ndarray] = []

    def show(self, source: BatchSource | None) -> None:
        """Choose images, spread over the strata of the source. Raises SettingsError: there is none."""
        if source is None or not len(source):
            raise SettingsError("film: no image is held out to be shown; set calibration.select_fraction above 0")
        order = np.argsort(source.facts.stratum.cpu().numpy(), kind="stable")
        rows = order[np.linspace(0, len(order) - 1, min(len(order), 10)).round().astype(int)]
        batch = next(iter(source.batches([torch.from_numpy(rows)])))
        self.x, self.c, self.inputs = batch.x, batch.c, _pictures(batch.x)

    @torch.no_grad()
    def __call__(self, step: int, model: nn.Module) -> None:
        """Keep the reconstructions after `step` steps. No random state is touched."""
        training, device = model.training, next(model.parameters()).device
        made = model.eval().reconstruct(self.x.to(device), None if self.c is None else self.c.to(device))  # type: ignore[operator]
        self.frames.append(_pictures(made))
        self.steps.append(step)
        model.train(training)


def _pictures(x: Tensor) -> np.ndarray:
    """(N, C, H, W) in 0…1 as (N, H, W, C) uint8."""
    size = max(x.shape[2:])
    if size > 96:
        x = interpolate(x, size=[max(1, round(side * 96 / size)) for side in x.shape[2:]], mode="area")
    return (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
