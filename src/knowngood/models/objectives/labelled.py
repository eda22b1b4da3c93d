"""Labelled anomalies in training: a penalty that moves their codes away from those of normal items."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from knowngood.config import Shift
from knowngood.models.base import Batch
from knowngood.models.objectives.base import Context, Objective, Penalty
from knowngood.models.vae import ConditionalVAE


class Labelled(Penalty):
    """weight · (the objective's `anomaly_loss` of the labelled anomalies), once the warm-up on normal items is over.

    The codes of anomalies are drawn to N(shift·1, I) with the decoder held fixed (DAn-VAE, arXiv:1911.04971). Without
    anomalies in the context it is 0.
    """

    def __init__(self, options: Shift) -> None:
        super().__init__()
        self.options = options

    def forward(
        self, objective: Objective, model: ConditionalVAE, batch: Batch, ctx: Context
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if ctx.anomalies is None or ctx.step < self.options.warmup * ctx.total_steps:
            return batch.x.new_zeros(()), {}
        anomalies = under_known_conditions(ctx.anomalies, batch, ctx.generator)
        cost = objective.anomaly_loss(model, anomalies, ctx, self.options.shift)
        return self.options.weight * cost, {"labelled": cost.detach().expand(len(batch.x))}


def under_known_conditions(anomalies: Batch, normals: Batch, generator: torch.Generator) -> Batch:
    """Anomalies whose conditions are unknown (a row with NaN), under those of normal items drawn from the batch."""
    if anomalies.c is None or normals.c is None:
        return anomalies
    draw = torch.randint(len(normals.x), (len(anomalies.x),), generator=generator, device=anomalies.c.device)
    unknown = anomalies.c.isnan().any(1, keepdim=True)
    return replace(anomalies, c=torch.where(unknown, normals.c[draw], anomalies.c))
