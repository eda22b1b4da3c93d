"""Reconstructions of the same few held-out images during training, kept at each evaluation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from knowngood.errors import SettingsError
from knowngood.models.base import BatchSource

IMAGES = 10
LARGEST = 96  # pixels of the longer side that are kept


class Film:
    """Reconstructions at the posterior mean, each image under its own condition; no draw, no random state is touched.

    Where a run is resumed, the film starts there. All images are uint8, reduced to 96 pixels on the longer side.

    inputs: (N, H, W, C), the images. steps: those at which there is a frame. frames: for each of them (N, H, W, C).
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.frames: list[np.ndarray] = []

    def show(self, source: BatchSource | None) -> None:
        """Choose at most 10 images, spread over the strata of a source. Raises SettingsError: it is empty."""
        if source is None or not len(source):
            raise SettingsError("film: no image is held out to be shown; set calibration.select_fraction above 0")
        order = np.argsort(source.facts.stratum.cpu().numpy(), kind="stable")
        rows = order[np.linspace(0, len(order) - 1, min(len(order), IMAGES)).round().astype(int)]
        batch = next(iter(source.batches([torch.from_numpy(rows)])))
        self.x, self.c, self.inputs = batch.x, batch.c, _pictures(batch.x)

    @torch.no_grad()
    def __call__(self, step: int, model: nn.Module) -> None:
        """Keep the reconstructions by the model as it is after `step` steps; its mode stays."""
        training, device = model.training, next(model.parameters()).device
        model.eval()
        c = None if self.c is None else self.c.to(device)
        self.frames.append(_pictures(model.reconstruct(self.x.to(device), c)))  # type: ignore[operator]
        self.steps.append(step)
        model.train(training)


def _pictures(x: Tensor) -> np.ndarray:
    """(N, C, H, W) in 0…1 as (N, H, W, C) uint8, large ones reduced by means over areas; values beyond are cut off."""
    share = LARGEST / max(x.shape[2:])
    if share < 1:
        x = adaptive_avg_pool2d(x, [max(1, round(side * share)) for side in x.shape[2:]])
    return (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
