"""Labelled anomalies on top of any objective: they are to be odd, and nothing else is learned from them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from knowngood.config import Hinge, Reciprocal, Shift
from knowngood.models.objectives.base import Batch, Context, Objective
from knowngood.models.objectives.wrapped import Wrapped
from knowngood.models.vae import ConditionalVAE


class Labelled(Wrapped):
    """An objective plus weight · (what labelled anomalies cost), once the warm-up on good items is over.

    S is the objective's `surprise`, m and s the mean and standard deviation of S over the batch's good items, without
    gradient; e = (S(x) − m)/s of an anomaly x says how far it stands out. With b the mean over anomalies:

    - hinge: b[max(0, margin − e)]·s, nothing more to gain beyond the margin;
    - reciprocal: b[1 / log(1 + exp(e))]·s, always something, ever less;
    - shift: the objective's `anomaly_loss`, codes drawn to N(shift·1, I) with the decoder held fixed (DAn-VAE).

    The factor s puts the first two into nats, beside the loss of good items. Without anomalies in the context it is the
    objective itself.
    """

    def __init__(self, options: Hinge | Reciprocal | Shift, base: Objective) -> None:
        super().__init__(base)
        self.options = options
        if isinstance(options, Shift):
            base.shift = options.shift

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        losses, terms = self.base.loss(model, batch, ctx)
        if ctx.anomalies is None or ctx.step < self.options.warmup * ctx.total_steps:
            return losses, terms
        anomalies = under_known_conditions(ctx.anomalies, batch, ctx.generator)
        cost = self._cost(model, anomalies, terms, ctx)
        terms = {**terms, "labelled": cost.detach().expand(len(batch.x))}
        return {**losses, "model": losses["model"] + self.options.weight * cost}, terms

    def _cost(self, model: ConditionalVAE, anomalies: Batch, terms: dict[str, Tensor], ctx: Context) -> Tensor:
        if isinstance(self.options, Shift):
            return self.base.anomaly_loss(model, anomalies, ctx)
        normal = self.base.surprise_of(terms).detach()
        scale = normal.std(correction=0).clamp(min=1e-3)
        excess = (self.base.surprise(model, anomalies, ctx) - normal.mean()) / scale
        if isinstance(self.options, Hinge):
            return (self.options.margin - excess).clamp(min=0).mean() * scale
        return (1 / (F.softplus(excess) + self.options.floor)).mean() * scale


def under_known_conditions(anomalies: Batch, normals: Batch, generator: torch.Generator) -> Batch:
    """Anomalies whose conditions are not known (a row with NaN), under those of good items drawn from the batch."""
    if anomalies.c is None or normals.c is None:
        return anomalies
    draw = torch.randint(len(normals.x), (len(anomalies.x),), generator=generator, device=anomalies.c.device)
    unknown = anomalies.c.isnan().any(1, keepdim=True)
    c = torch.where(unknown, normals.c[draw], anomalies.c)
    return Batch(anomalies.x, c, anomalies.stratum, anomalies.label, anomalies.index, anomalies.factors)
