"""Relevance-FactorVAE: its parts by hand, FactorVAE and VAE as its limits, and the choice of dimensions it makes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import gradients, greatest_difference, prepared, toy_batch, toy_context, toy_model
from knowngood.config import RFVAE, VAE, FactorVAE, Options, VAEOptions, parse
from knowngood.errors import SettingsError
from knowngood.models.objectives import Context
from knowngood.models.objectives.rf_vae import RFVAEObjective, binary_entropy
from toy_runs import trained_on_two_factors

SPEED = 30  # a factor of what one number a dimension learns

SMALL: Any = {"discriminator_layers": 2, "discriminator_width": 16}
TOY: Any = {"discriminator_layers": 3, "discriminator_width": 64}
LITERAL: Any = {"relevance_from": 0, "entropy_from": 0}  # the published loss from the first step on


def evaluate(options: Options, logit: float | list[float] | None = None, **context: Any) -> Any:
    """(losses, terms, model, objective) on the same model, batches, draws and discriminator for all options."""
    model = toy_model(condition_dim=0)
    objective = prepared(options, model)
    if logit is not None:
        assert isinstance(objective, RFVAEObjective)
        with torch.no_grad():
            objective.raw_relevance.copy_(torch.as_tensor(logit).expand(3) / SPEED)
    batch, second = toy_batch(model), toy_batch(model, seed=7)
    losses, terms = objective.loss(model, batch, toy_context(batch, second=second, **context))
    return losses, terms, model, objective


# Its parts ----------------------------------------------------------------------------------------------------------


def test_binary_entropy_and_its_gradient_have_their_closed_form() -> None:
    rho = torch.tensor([0.0, math.log(3), -2.0, 1000.0, -1000.0], dtype=torch.float64, requires_grad=True)
    entropy = binary_entropy(rho)
    quarter = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    r = 1 / (1 + math.exp(2))
    assert entropy.tolist() == pytest.approx(
        [math.log(2), quarter, -r * math.log(r) - (1 - r) * math.log(1 - r), 0, 0], abs=1e-12
    )
    (slope,) = torch.autograd.grad(entropy.sum(), [rho])
    assert torch.allclose(slope, -rho * rho.sigmoid() * (1 - rho.sigmoid()), atol=1e-12)
    assert slope[0] == 0  # why relevance must not start at ½
    assert torch.autograd.gradcheck(binary_entropy, [torch.randn(4, dtype=torch.float64).requires_grad_()])


def test_kl_of_each_dimension_has_the_weight_of_its_relevance() -> None:
    _, terms, model, _ = evaluate(RFVAE(lambda_min=0.5, lambda_max=4, **SMALL), [0.0, 100.0, -100.0])
    q = model.encode(toy_batch(model).x)
    kl = 0.5 * (q.mean.square() + q.log_var.exp() - 1 - q.log_var)
    weighted = kl @ torch.tensor([2.25, 0.5, 4.0], dtype=torch.float64)  # r = ½, 1, 0
    torch.testing.assert_close(terms["weighted_kl"], weighted)
    torch.testing.assert_close(terms["kl"], kl.sum(1))
    assert torch.allclose(terms["relevant"], torch.tensor(1.5, dtype=torch.float64))
    assert torch.allclose(terms["relevance_entropy"], torch.tensor(math.log(2), dtype=torch.float64))


def test_the_discriminator_sees_only_relevant_dimensions() -> None:
    losses, terms, model, objective = evaluate(RFVAE(**SMALL), [100.0, -1000.0, 100.0])
    batch, generator = toy_batch(model), torch.Generator().manual_seed(2)
    q = model.encode(batch.x)
    z = q.rsample(torch.empty_like(q.mean).normal_(generator=generator))
    mask = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(terms["tc"], objective.discriminator(mask * z))
    ctx = Context(0, 1, generator, 40, torch.tensor([40]), second=toy_batch(model, seed=7))
    product = objective.product_draw(model, ctx)
    expected = objective.discriminator.odds_and_loss(mask * z, mask * product)[1]
    assert losses["discriminator"].item() == pytest.approx(expected.item(), rel=1e-12)


def test_relevance_starts_away_from_one_half_where_the_kl_has_about_its_own_weight() -> None:
    _, terms, _, objective = evaluate(RFVAE(**SMALL))
    assert objective.relevance.tolist() == pytest.approx([0.9] * 3)
    torch.testing.assert_close(terms["weighted_kl"], 1.09 * terms["kl"])


# Limits -------------------------------------------------------------------------------------------------------------


def test_limit_all_relevant_with_lambda_min_one_is_factor_vae_in_loss_and_gradient() -> None:
    """Up to a constant: η_S for each of the three dimensions. The discriminator's loss and gradient agree as well."""
    theirs, _, model, parent = evaluate(FactorVAE(gamma=5, **SMALL))
    options = RFVAE(gamma=5, lambda_min=1, lambda_max=8, eta_s=2, eta_h=50, **LITERAL, **SMALL)
    ours, _, same_model, objective = evaluate(options, 1000.0, step=70)
    assert ours["model"].item() == pytest.approx(theirs["model"].item() + 2 * 3, rel=1e-12)
    assert greatest_difference(gradients(theirs["model"], model), gradients(ours["model"], same_model)) < 1e-12
    assert ours["discriminator"].item() == pytest.approx(theirs["discriminator"].item(), rel=1e-12)
    slopes = [
        gradients(losses["discriminator"], o.discriminator) for losses, o in ((theirs, parent), (ours, objective))
    ]
    assert greatest_difference(*slopes) < 1e-12


def test_limit_none_relevant_with_lambda_max_one_is_the_vae_in_loss_and_gradient() -> None:
    """Up to a constant: γ times what the discriminator says of 0, since that is all it is shown."""
    theirs, _, model, _ = evaluate(VAE())
    ours, _, same_model, objective = evaluate(RFVAE(gamma=5, lambda_max=1, lambda_min=0.1, **SMALL), -1000.0)
    constant = 5 * objective.discriminator(torch.zeros(1, 3, dtype=torch.float64)).item()
    assert ours["model"].item() == pytest.approx(theirs["model"].item() + constant, rel=1e-12)
    assert greatest_difference(gradients(theirs["model"], model), gradients(ours["model"], same_model)) < 1e-12


@pytest.mark.parametrize(
    ("changes", "logit"),
    [({"lambda_min": 0.5}, 1000.0), ({}, 2.0), ({}, [1000.0, 1000.0, -1000.0])],
    ids=["lambda_min", "half relevant", "one irrelevant"],
)
def test_away_from_the_limit_loss_and_gradient_differ_from_factor_vae(changes: Any, logit: Any) -> None:
    theirs, _, model, _ = evaluate(FactorVAE(gamma=5, **SMALL))
    given = {"gamma": 5, "lambda_min": 1, "eta_s": 0, **LITERAL, **SMALL, **changes}
    ours, _, same_model, _ = evaluate(RFVAE(**given), logit)
    assert abs(ours["model"].item() - theirs["model"].item()) > 1e-3
    assert greatest_difference(gradients(theirs["model"], model), gradients(ours["model"], same_model)) > 1e-3


# Gradient -----------------------------------------------------------------------------------------------------------


def test_gradient_of_relevance_weighs_kl_against_sparsity_and_entropy() -> None:
    options = RFVAE(gamma=0, lambda_min=0.5, lambda_max=4, eta_s=1.5, eta_h=8, **LITERAL, **SMALL)
    logits = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    losses, _, model, objective = evaluate(options, logits.tolist(), step=50)
    (slope,) = torch.autograd.grad(losses["relevance"], [objective.raw_relevance])
    q = model.encode(toy_batch(model).x)
    kl = (0.5 * (q.mean.square() + q.log_var.exp() - 1 - q.log_var)).mean(0)
    r = logits.sigmoid()
    expected = r * (1 - r) * (1.5 - 3.5 * kl - 8 * 0.5 * logits)  # half of the steps are done
    torch.testing.assert_close(slope, SPEED * expected)


def test_gradient_goes_to_the_player_it_belongs_to() -> None:
    losses, _, model, objective = evaluate(RFVAE(**LITERAL, **SMALL), step=50)
    players = objective.players(model)
    assert players.keys() == losses.keys() == {"model", "discriminator", "relevance"}

    def reached(loss: Tensor, player: str) -> bool:
        found = torch.autograd.grad(loss, players[player], retain_graph=True, allow_unused=True)
        return any(slope is not None for slope in found)

    assert not reached(losses["discriminator"], "model")
    assert not reached(losses["discriminator"], "relevance")
    assert not reached(losses["model"], "discriminator")
    assert not reached(losses["relevance"], "discriminator")
    assert losses["model"] is losses["relevance"]  # one loss, two rates


def test_gradient_of_relevance_waits_comes_and_is_then_made_final() -> None:
    options = RFVAE(relevance_from=0.25, entropy_from=0.6, eta_h=8, **SMALL)
    entropy = {}
    for step in (0, 24, 25, 60, 80, 100):
        losses, terms, _, objective = evaluate(options, [1.0, 1.0, 1.0], step=step)
        (slope,) = torch.autograd.grad(losses["relevance"], [objective.raw_relevance], materialize_grads=True)
        assert bool(slope.any()) == (step >= 25), step
        of_items = terms["reconstruction"] + terms["weighted_kl"] + 6.4 * terms["tc"] + terms["relevant"]
        entropy[step] = (losses["model"] - of_items.mean()).item() / terms["relevance_entropy"][0].item()
    assert entropy == pytest.approx({0: 0, 24: 0, 25: 0, 60: 0, 80: 4, 100: 8}, abs=1e-9)


# In use -------------------------------------------------------------------------------------------------------------


def test_lambda_that_rises_with_relevance_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"rf_vae: lambda_min = 3 is above lambda_max = 2"):
        parse(VAEOptions, {"objective": {"name": "rf_vae", "lambda_min": 3, "lambda_max": 2}})


@pytest.mark.slow
def test_trained_rf_vae_keeps_the_two_dimensions_that_matter_and_turns_off_three() -> None:
    seed = 0
    ours = trained_on_two_factors(RFVAE(eta_s=5, **TOY), seed, latent_dim=5)
    assert isinstance(ours.objective, RFVAEObjective)
    r, kl = ours.objective.relevance.detach(), ours.kl()
    assert sorted(r.round().tolist()) == [0, 0, 0, 1, 1]
    assert (r - r.round()).abs().max() < 0.05
    assert kl[r < 0.5].max() < 0.01
    assert kl[r > 0.5].min() > 2
    assert ours.error == pytest.approx(trained_on_two_factors(VAE(), seed, latent_dim=5).error, rel=0.05)
