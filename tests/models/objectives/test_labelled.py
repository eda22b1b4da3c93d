"""Labelled anomalies under the shifted prior, on top of every objective: what they cost, whom they move, and when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from forms import FORMS, batch_for, context_for, every_form, model_for, objective_for
from helpers import gradients, greatest_difference, toy_batch
from knowngood.config import CVAE, Gaussian, Options, Shift, StridedBatchNorm, VAEOptions
from knowngood.models.base import Batch
from knowngood.models.objectives.base import elbo_terms, stopped_reconstruction
from knowngood.models.objectives.penalties import Labelled, under_known_conditions
from knowngood.models.vae import ConditionalVAE

WITHOUT_NUISANCES = {name: options for name, options in FORMS.items() if name != "dan_vae"}
every_other_form = pytest.mark.parametrize("options", WITHOUT_NUISANCES.values(), ids=WITHOUT_NUISANCES)


def anomalous(options: Options, model: ConditionalVAE, n: int = 20) -> Batch:
    batch = batch_for(options, model, n)
    return replace(batch, x=3 * batch.x, label=torch.ones(n))


def cost(options: Options, shift: Shift, step: int = 99, labelled: bool = True) -> tuple[Any, ...]:
    """(model, anomalies, context, weighted cost, its terms): 100 steps in all."""
    model = model_for(options)
    objective = objective_for(options, model)
    batch, anomalies = batch_for(options, model), anomalous(options, model)
    ctx = context_for(objective, model, batch, step=step)
    ctx.anomalies = anomalies if labelled else None
    return model, anomalies, ctx, *Labelled(shift)(objective, model, batch, ctx)


@every_form
@pytest.mark.parametrize(("labelled", "step"), [(False, 99), (True, 24)], ids=["no labels", "warm-up"])
def test_limit_without_labels_or_in_the_warm_up_it_costs_nothing(options: Options, labelled: bool, step: int) -> None:
    *_, found, terms = cost(options, Shift(warmup=0.25), step, labelled)
    assert found.item() == 0
    assert terms == {}


@every_form
def test_away_from_the_limit_it_costs_its_weight_and_the_gradient_is_there(options: Options) -> None:
    model, _, _, found, terms = cost(options, Shift(warmup=0.25, weight=0.7), step=25)
    assert terms["labelled"].shape == (40,)
    assert found.item() == pytest.approx(0.7 * terms["labelled"][0].item(), rel=1e-12)
    slopes = gradients(found, model)
    assert greatest_difference(slopes, {name: torch.zeros_like(slope) for name, slope in slopes.items()}) > 1e-3


@pytest.mark.slow
@every_other_form
def test_density_is_reconstruction_plus_kl_to_the_shifted_prior(options: Options) -> None:
    model, anomalies, _, found, _ = cost(options, Shift(warmup=0, shift=2.5))
    batch = batch_for(options, model)
    again = context_for(objective_for(options, model), model, batch, step=99)  # the same noise
    elbo = elbo_terms(model, under_known_conditions(anomalies, batch, again.generator), again)
    q = elbo.posterior
    kl = 0.5 * ((q.mean - 2.5).square() + q.log_var.exp() - 1 - q.log_var).sum(1)
    assert found.item() == pytest.approx((elbo.reconstruction + kl).mean().item(), rel=1e-12)


@every_other_form
def test_gradient_of_labelled_anomalies_reaches_the_encoder_alone(options: Options) -> None:
    model, *_, found, _ = cost(options, Shift(warmup=0))
    slopes = torch.autograd.grad(found, list(model.parameters()), allow_unused=True)
    named = zip(model.named_parameters(), slopes, strict=True)
    reached = {name for (name, _), slope in named if slope is not None and slope.any()}
    assert reached == {name for name, _ in model.named_parameters() if name.startswith("net.encode")} != set()


def test_unknown_conditions_are_those_of_normal_items_in_the_batch() -> None:
    model = model_for(CVAE())
    normals, anomalies = toy_batch(model), anomalous(CVAE(), model, 30)
    assert anomalies.c is not None
    c = anomalies.c.clone()
    c[:20] = torch.nan
    filled = under_known_conditions(replace(anomalies, c=c), normals, torch.Generator().manual_seed(0)).c
    assert filled is not None
    assert filled[20:].equal(c[20:])
    assert {tuple(row) for row in filled[:20].tolist()} == {(1.0, 0.0), (0.0, 1.0)}


def test_labelled_anomalies_leave_the_decoders_batch_statistics_alone() -> None:
    options = VAEOptions(net=StridedBatchNorm(), likelihood=Gaussian(), latent_dim=3, prior="standard")
    model = ConditionalVAE(options, (1, 16, 16)).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if name.startswith("net.up")}
    batch = Batch(torch.rand(6, 1, 16, 16), None, torch.zeros(6).long(), torch.ones(6), torch.arange(6))
    stopped_reconstruction(model, batch, torch.randn(6, 3))
    assert before
    for name, buffer in model.named_buffers():
        assert name not in before or torch.equal(buffer, before[name])
