"""Training under changing illumination."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from helpers import gradients, greatest_difference, toy_batch, toy_context, toy_model
from knowngood.config import CVAE, FactorVAE
from knowngood.models.objectives.illuminated import Illuminated


def test_limit_without_tolerance_it_is_the_objective_and_away_from_it_it_differs() -> None:
    model = toy_model()
    batch = toy_batch(model)
    base = CVAE().build()
    plain = base.loss(model, batch, toy_context(batch))[0]["model"]
    for tolerance, same in ((0.0, True), (0.3, False)):
        ctx = toy_context(batch)
        augmentation = Illuminated(tolerance)
        ctx.generator.manual_seed(5)
        seen = augmentation.illuminated(batch, ctx.generator)
        found = base.loss(model, seen, toy_context(batch))[0]["model"]
        assert (found.item() == plain.item()) == same
        assert (greatest_difference(gradients(found, model), gradients(plain, model)) == 0) == same


def test_illumination_is_uniform_between_its_bounds_one_factor_an_image_and_brightness_follows() -> None:
    model = toy_model()
    batch = toy_batch(model, n=4000)
    mean, std = torch.tensor([0.5, 3.0]), torch.tensor([0.1, 2.0])
    raw = torch.stack((batch.x.mean(1).float(), torch.arange(4000.0)), 1)
    batch = replace(batch, factors=(raw - mean) / std)
    augmentation = Illuminated(0.3, torch.tensor([True, False]), mean, std)
    after = augmentation.illuminated(batch, torch.Generator().manual_seed(0))
    factor = after.x / batch.x
    assert factor.std(1).max() < 1e-12
    factor = factor[:, 0]
    assert 0.7 <= factor.min() < 0.702
    assert 1.298 < factor.max() <= 1.3
    assert factor.mean().item() == pytest.approx(1, abs=0.01)
    assert after.factors is not None
    restored = after.factors * std + mean
    torch.testing.assert_close(restored[:, 0].float(), after.x.mean(1).float())
    torch.testing.assert_close(restored[:, 1].float(), raw[:, 1])


def test_a_second_batch_is_illuminated_too() -> None:
    model = toy_model(condition_dim=0)
    objective = FactorVAE(discriminator_layers=1, discriminator_width=4).build()
    objective.augmentation = Illuminated(0.5)
    batch = toy_batch(model)
    seen: list[Any] = []
    objective.loss = lambda model, batch, ctx: seen.extend((batch, ctx.second)) or ({}, {})
    objective.training_loss(model, batch, toy_context(batch, second=batch))
    assert not seen[0].x.equal(batch.x)
    assert not seen[1].x.equal(batch.x)
    assert not seen[1].x.equal(seen[0].x)
