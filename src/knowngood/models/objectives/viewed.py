"""Training in many views, on top of any objective that uses conditions."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from knowngood.models.objectives.base import Batch, Context
from knowngood.models.objectives.densities import SMALLEST_GROUP
from knowngood.models.objectives.wrapped import Wrapped
from knowngood.models.vae import ConditionalVAE
from knowngood.models.views import Views


class Viewed(Wrapped):
    """An objective that sees each image of a batch in one of the model's views, and is told which.

    The views are drawn anew at each step and all alike often. A stratum is then one of conditions and view together,
    of which there are as many training items as of the conditions: every image occurs in every view. For an objective
    that compares items within strata no group of a batch is made smaller than it can use, so that a batch holds fewer
    views of each stratum then.

    It goes around what is done to an image before (`Lit`) or asked of its code (`ClassAware`), and within what chooses
    conditions for a batch (`Labelled`).

    Args:
        base: the objective; it and the model are to use conditions.
    """

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self.base.loss(model, *self._seen(model, batch, ctx))

    def surprise(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> Tensor:
        return self.base.surprise(model, *self._seen(model, batch, ctx))

    def anomaly_loss(self, model: ConditionalVAE, anomalies: Batch, ctx: Context) -> Tensor:
        return self.base.anomaly_loss(model, *self._seen(model, anomalies, ctx))

    def _seen(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[Batch, Context]:
        views = model.views
        assert views is not None
        second = None if ctx.second is None else self._drawn(views, ctx.second, ctx)
        counts = ctx.stratum_counts.repeat_interleave(len(views))
        items = ctx.n_items * len(views)
        return self._drawn(views, batch, ctx), replace(ctx, n_items=items, stratum_counts=counts, second=second)

    def _drawn(self, views: Views, batch: Batch, ctx: Context) -> Batch:
        smallest, groups, stratum = 1, 1, torch.zeros_like(batch.stratum)
        if self.stratified:
            smallest, groups, stratum = SMALLEST_GROUP, len(ctx.stratum_counts), batch.stratum
        return in_view(views, batch, draw_views(stratum, groups, len(views), ctx.generator, smallest))


def in_view(views: Views, batch: Batch, view: int | Tensor) -> Batch:
    """The items of a batch in a view, or each in its own, (B,) int64, which conditions and strata tell."""
    return replace(
        batch,
        x=views.apply(batch.x, view),
        c=views.told(batch.c, view, like=batch.x),
        stratum=views.stratum(batch.stratum, view),
    )


def draw_views(stratum: Tensor, strata: int, views: int, generator: torch.Generator, smallest: int = 1) -> Tensor:
    """A view for each item, (B,) int64: uniform for each, and within a stratum as evenly spread as can be.

    A stratum with n items in the batch is shown in ⌊n / smallest⌋ views, at least 1 and at most all, so that where
    there are several no view has fewer than `smallest` items of it.

    Args:
        stratum: (B,) int64, 0 … strata − 1.
        views: how many there are.
        generator: on the device of `stratum`.
    """
    device = stratum.device
    keys = torch.rand(len(stratum), generator=generator, device=device)
    order = keys.argsort()
    order = order[stratum[order].argsort(stable=True)]
    sizes = torch.zeros(strata, dtype=torch.int64, device=device).scatter_add(0, stratum, torch.ones_like(stratum))
    starts = sizes.cumsum(0) - sizes
    rank = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=device)) - starts[stratum]
    shown = (sizes // smallest).clamp(1, views)
    chosen = torch.rand(strata, views, generator=generator, device=device).argsort(1)
    return chosen[stratum, rank % shown[stratum]]
