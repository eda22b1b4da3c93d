"""InfoVAE: the MMD by hand, exhaustively and in closed form; the VAE as limit; information kept in training."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import gradients, greatest_difference, toy_batch, toy_context, toy_model
from knowngood.config import VAE, InfoVAE, Options, VAEOptions, parse
from knowngood.errors import SettingsError
from knowngood.models.objectives.info_vae import squared_mmd
from knowngood.models.vae import ConditionalVAE
from toy_runs import trained_on_two_factors

both_kernels = pytest.mark.parametrize("kernel", ["imq", "rbf"])


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def evaluate(
    options: Options, n: int = 40, prior: str = "standard"
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], ConditionalVAE]:
    model = toy_model(condition_dim=0, prior=prior)
    batch = toy_batch(model, n=n)
    losses, terms = options.build().loss(model, batch, toy_context(batch))
    return losses["model"], terms, gradients(losses["model"], model), model


# MMD ----------------------------------------------------------------------------------------------------------------


def test_mmd_worked_by_hand() -> None:
    """One dimension, so C = 2: x = 0 and 2, y = 1 and 1."""
    x, y = torch.tensor([[0.0], [2.0]], dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    assert squared_mmd(x, y, "imq").item() == pytest.approx(2 / (2 + 4) + 1 - 2 * 2 / (2 + 1))
    assert squared_mmd(x, y, "rbf").item() == pytest.approx(math.exp(-2) + 1 - 2 * math.exp(-0.5))


@pytest.mark.slow
@both_kernels
def test_mmd_is_unbiased_over_all_batches(kernel: str) -> None:
    """All 3 of 6 by all 3 of 5: the mean is the distance of the two populations, pairs of one item left out."""
    x, y = draws(6, 2), draws(5, 2, seed=1) + 0.5
    found = [
        squared_mmd(x[list(i)], y[list(j)], kernel)
        for i in itertools.combinations(range(6), 3)
        for j in itertools.combinations(range(5), 3)
    ]
    assert torch.stack(found).mean().item() == pytest.approx(squared_mmd(x, y, kernel).item(), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_rbf_mmd_of_two_normal_distributions_has_its_closed_form(shift: float) -> None:
    """N(m, 1) and N(0, 1) with exp(−(x−y)²/2): E k = 3^−½ exp(−m²/6) for a pair with means m apart."""
    x, y = draws(2500, 1) + shift, draws(2500, 1, seed=1)
    expected = 2 / math.sqrt(3) * (1 - math.exp(-(shift**2) / 6))
    assert squared_mmd(x, y, "rbf").item() == pytest.approx(expected, abs=0.02)


@pytest.mark.slow
@both_kernels
def test_mmd_separates_spread_and_shape_from_the_prior(kernel: str) -> None:
    y = draws(1000, 2)
    same = squared_mmd(draws(1000, 2, seed=1), y, kernel).item()
    assert abs(same) < 0.005
    narrow, apart = 0.3 * draws(1000, 2, seed=1), draws(1000, 2, seed=1).sign() * 1.0
    assert min(squared_mmd(z, y, kernel).item() for z in (narrow, apart)) > 10 * abs(same)


@both_kernels
def test_mmd_does_not_change_under_rotation_shift_and_order(kernel: str) -> None:
    x, y = draws(9, 2), draws(7, 2, seed=1)
    angle = torch.tensor(0.7)
    turn = torch.stack((torch.stack((angle.cos(), -angle.sin())), torch.stack((angle.sin(), angle.cos())))).double()
    expected = squared_mmd(x, y, kernel).item()
    assert squared_mmd(x @ turn + 3, y @ turn + 3, kernel).item() == pytest.approx(expected, abs=1e-6)
    assert squared_mmd(x.flip(0), y.flip(0), kernel).item() == pytest.approx(expected, abs=1e-12)


@both_kernels
def test_gradient_of_the_mmd_is_right(kernel: str) -> None:
    x, y = draws(5, 2).requires_grad_(), draws(6, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: squared_mmd(a, b, kernel), (x, y))


@both_kernels
def test_gradient_and_mmd_keep_their_precision_in_bf16(kernel: str) -> None:
    x, y = draws(64, 8).float().requires_grad_(), draws(64, 8, seed=1).float()
    exact = squared_mmd(x, y, kernel)
    with torch.autocast("cpu", torch.bfloat16):
        half = squared_mmd(x, y, kernel)
    assert torch.equal(exact, half)
    assert torch.equal(*(torch.autograd.grad(value, [x])[0] for value in (exact, half)))


# Limit --------------------------------------------------------------------------------------------------------------


@both_kernels
def test_limit_alpha_zero_lambda_one_is_the_vae_in_loss_and_gradient(kernel: Any) -> None:
    loss, _, slopes, _ = evaluate(VAE())
    same, _, same_slopes, _ = evaluate(InfoVAE(alpha=0, lambda_mmd=1, kernel=kernel))
    assert same.item() == pytest.approx(loss.item(), rel=1e-12)
    assert greatest_difference(slopes, same_slopes) < 1e-12


def test_limit_alpha_one_lambda_zero_is_an_autoencoder() -> None:
    loss, terms, slopes, model = evaluate(InfoVAE(alpha=1, lambda_mmd=0))
    assert loss.item() == pytest.approx(terms["reconstruction"].mean().item(), rel=1e-12)
    assert greatest_difference(slopes, gradients(terms["reconstruction"].mean(), model)) < 1e-12


@pytest.mark.parametrize("given", [{"alpha": 0.5, "lambda_mmd": 0.5}, {"alpha": 0, "lambda_mmd": 50}], ids=str)
def test_away_from_the_limit_loss_and_gradient_differ(given: Any) -> None:
    loss, _, slopes, _ = evaluate(VAE())
    other, _, other_slopes, _ = evaluate(InfoVAE(**given))
    assert abs(other.item() - loss.item()) > 1e-3
    assert greatest_difference(slopes, other_slopes) > 1e-3


# Gradient -----------------------------------------------------------------------------------------------------------


def test_gradient_of_the_mmd_reaches_the_encoder_and_a_learned_prior() -> None:
    for prior in ("standard", "learned"):
        _, terms, _, model = evaluate(InfoVAE(), prior=prior)
        for name, slope in gradients(terms["mmd"].mean(), model).items():
            assert bool(slope.any()) == name.startswith(("net.encoder", "prior")), (prior, name)


def test_the_draw_of_z_is_that_of_the_vae_and_the_target_another() -> None:
    _, terms, _, model = evaluate(InfoVAE())
    _, of_vae, _, _ = evaluate(VAE())
    assert torch.equal(terms["reconstruction"], of_vae["reconstruction"])
    batch, generator = toy_batch(model), torch.Generator().manual_seed(2)
    q = model.encode(batch.x)
    z, target = q.rsample(torch.empty_like(q.mean).normal_(generator=generator)), torch.empty_like(q.mean)
    target.normal_(generator=generator)
    assert terms["mmd"][0].item() == pytest.approx(squared_mmd(z, target, "imq").item())


# In use -------------------------------------------------------------------------------------------------------------


def test_an_mmd_that_repels_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"info_vae: alpha \+ lambda_mmd − 1 = -0.5 is the weight of the MMD"):
        parse(VAEOptions, {"objective": {"name": "info_vae", "alpha": 0.2, "lambda_mmd": 0.3}})
    with pytest.raises(SettingsError, match="alpha"):
        parse(VAEOptions, {"objective": {"name": "info_vae", "alpha": 1.5}})


@both_kernels
def test_one_item_is_finite(kernel: Any) -> None:
    loss, _, slopes, _ = evaluate(InfoVAE(kernel=kernel), n=1)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(slope).all() for slope in slopes.values())


@pytest.mark.slow
def test_trained_info_vae_keeps_more_information_than_the_vae_and_still_fits_the_prior() -> None:
    seed = 0
    parent, ours = trained_on_two_factors(VAE(), seed), trained_on_two_factors(InfoVAE(), seed)
    assert ours.kl().sum() > parent.kl().sum() + 0.5
    assert ours.error == pytest.approx(parent.error, rel=0.05)
    q = ours.posterior
    z = q.rsample(torch.randn(q.mean.shape, generator=torch.Generator().manual_seed(0)))
    mmd = squared_mmd(z, torch.randn(z.shape, generator=torch.Generator().manual_seed(1)), "imq")
    assert mmd < 0.01
