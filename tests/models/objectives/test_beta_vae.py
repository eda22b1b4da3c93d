"""β-VAE: the VAE and the autoencoder as its limits, and the capacity form on either side of its capacity."""

from __future__ import annotations

import pytest
import torch

from forms import encoder_part, evaluate, model_for
from helpers import gradients, greatest_difference, toy_batch, toy_context, toy_model
from knowngood.config import VAE, BetaVAE

EXACT = 1e-12


def test_limit_beta_one_is_the_vae_and_away_from_it_loss_and_gradient_differ() -> None:
    model = model_for(VAE())
    batch = toy_batch(model)
    loss, _, slopes = evaluate(VAE(), model, batch)
    same, _, same_slopes = evaluate(BetaVAE(beta=1), model, batch)
    assert same.item() == pytest.approx(loss.item(), rel=EXACT)
    assert greatest_difference(slopes, same_slopes) < EXACT
    other, _, other_slopes = evaluate(BetaVAE(beta=1.5), model, batch)
    assert abs(other.item() - loss.item()) > 1e-3
    assert greatest_difference(encoder_part(slopes), encoder_part(other_slopes)) > 1e-3


def test_limit_beta_zero_is_an_autoencoder_in_loss_and_gradient() -> None:
    model = model_for(VAE())
    loss, terms, slopes = evaluate(BetaVAE(beta=0), model, toy_batch(model))
    assert loss.item() == terms["reconstruction"].mean().item()
    assert greatest_difference(slopes, gradients(terms["reconstruction"].mean(), model)) == 0


def test_limit_capacity_equal_to_the_kl_is_the_reconstruction_and_away_from_it_loss_and_gradient_differ() -> None:
    model = model_for(VAE())
    batch = toy_batch(model)
    _, terms, _ = evaluate(VAE(), model, batch)
    rec, kl = terms["reconstruction"].mean(), terms["kl"].mean().item()
    loss, _, slopes = evaluate(BetaVAE(capacity=kl, gamma=1000), model, batch, step=100)
    assert loss.item() == rec.item()
    assert greatest_difference(slopes, gradients(rec, model)) == 0
    for nearby, sign in ((kl - 0.1, 1), (kl + 0.1, -1)):  # above its capacity KL is pushed down, below it up
        loss, _, slopes = evaluate(BetaVAE(capacity=nearby, gamma=1000), model, batch, step=100)
        assert loss.item() == pytest.approx(rec.item() + 1000 * 0.1, rel=1e-9)
        expected = gradients(rec + sign * 1000 * terms["kl"].mean(), model)
        assert greatest_difference(slopes, expected) < 1e-9


@pytest.mark.parametrize(
    ("share", "total", "step", "grown"),
    [(0.5, 100, 0, 0), (0.5, 100, 25, 0.5), (0.5, 100, 50, 1), (0.5, 100, 99, 1), (1, 100, 99, 0.99), (0.5, 1, 0, 0)],
)
def test_capacity_grows_linearly_and_then_stays(share: float, total: int, step: int, grown: float) -> None:
    objective = BetaVAE(capacity=8, gamma=2, capacity_share=share).build()
    batch = toy_batch(toy_model())
    none = torch.zeros((), dtype=torch.float64)
    penalty = objective.penalty(none, toy_context(batch, step=step, total_steps=total))
    assert penalty.item() == pytest.approx(2 * 8 * grown)
