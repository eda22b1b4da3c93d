"""DIP-VAE: the covariance by hand, the VAE as its limit, and codes that end uncorrelated with variance 1."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import gradients, greatest_difference, toy_batch, toy_context, toy_model
from knowngood.config import DIPVAE, VAE, Options
from knowngood.models.distributions import DiagonalGaussian
from knowngood.models.objectives.dip_vae import covariance
from knowngood.models.vae import ConditionalVAE
from toy_runs import trained_on_two_factors

both_forms = pytest.mark.parametrize("form", ["I", "II"])


def posterior(mean: list[list[float]], variance: float | list[list[float]]) -> DiagonalGaussian:
    means = torch.tensor(mean, dtype=torch.float64)
    return DiagonalGaussian(means, torch.as_tensor(variance, dtype=torch.float64).expand(means.shape).log())


def evaluate(options: Options, n: int = 40) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], ConditionalVAE]:
    model = toy_model(condition_dim=0)
    batch = toy_batch(model, n=n)
    losses, terms = options.build().loss(model, batch, toy_context(batch))
    return losses["model"], terms, gradients(losses["model"], model), model


def test_covariance_worked_by_hand() -> None:
    q = posterior([[1.0, 0.0], [3.0, 4.0]], [[0.5, 2.0], [1.5, 4.0]])
    assert covariance(q, with_noise=False).tolist() == [[1, 2], [2, 4]]
    assert covariance(q, with_noise=True).flatten().tolist() == pytest.approx([1 + 1, 2, 2, 4 + 3])


def test_penalty_worked_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_model(condition_dim=0, latent_dim=2)
    q = posterior([[1.0, 0.0], [3.0, 4.0]], [[0.5, 2.0], [1.5, 4.0]])
    monkeypatch.setattr(model, "encode", lambda *_: q)
    batch = toy_batch(model, n=2)
    for form, off_diagonal, diagonal in (("I", 2 * 2**2, 0 + 3**2), ("II", 2 * 2**2, 1 + 6**2)):
        objective = DIPVAE(form=form, lambda_od=3, lambda_d=0.5).build()
        losses, terms = objective.loss(model, batch, toy_context(batch))
        assert terms["off_diagonal"].tolist() == pytest.approx([off_diagonal] * 2)
        assert terms["diagonal"].tolist() == pytest.approx([diagonal] * 2)
        elbo = (terms["reconstruction"] + terms["kl"]).mean()
        assert losses["model"].item() == pytest.approx(elbo.item() + 3 * off_diagonal + 0.5 * diagonal)


def test_codes_that_are_already_disentangled_cost_nothing() -> None:
    corners = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]
    assert torch.equal(covariance(posterior(corners, 0.3), with_noise=False), torch.eye(2, dtype=torch.float64))
    smaller = [[math.sqrt(0.7) * v for v in corner] for corner in corners]
    torch.testing.assert_close(
        covariance(posterior(smaller, 0.3), with_noise=True), torch.eye(2, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )


def test_covariance_of_z_is_what_form_two_says() -> None:
    """By sampling z from the posteriors."""
    generator = torch.Generator().manual_seed(0)
    mean, log_var = torch.randn(2, 50, 3, generator=generator, dtype=torch.float64)
    many = DiagonalGaussian(mean.repeat(4000, 1), log_var.repeat(4000, 1))
    z = many.rsample(torch.randn(many.mean.shape, generator=generator, dtype=torch.float64))
    torch.testing.assert_close(covariance(many, with_noise=True), z.t().cov(), rtol=0.02, atol=0.02)


def test_the_default_weights_are_those_published_for_each_form() -> None:
    for form, diagonal in (("I", 100), ("II", 10)):
        objective = DIPVAE(form=form).build()
        assert (objective.options.lambda_od, objective.diagonal) == (10, diagonal)
    assert DIPVAE(lambda_d=0).build().diagonal == 0


@both_forms
def test_limit_lambda_zero_is_the_vae_in_loss_and_gradient(form: Any) -> None:
    loss, _, slopes, _ = evaluate(VAE())
    same, _, same_slopes, _ = evaluate(DIPVAE(form=form, lambda_od=0, lambda_d=0))
    assert same.item() == pytest.approx(loss.item(), rel=1e-12)
    assert greatest_difference(slopes, same_slopes) < 1e-12


@both_forms
@pytest.mark.parametrize("weights", [{"lambda_od": 2, "lambda_d": 0}, {"lambda_od": 0, "lambda_d": 2}])
def test_away_from_the_limit_loss_and_gradient_differ(form: Any, weights: Any) -> None:
    loss, _, slopes, _ = evaluate(VAE())
    other, terms, other_slopes, _ = evaluate(DIPVAE(form=form, **weights))
    part = terms["off_diagonal" if weights["lambda_od"] else "diagonal"].mean()
    assert other.item() - loss.item() == pytest.approx(2 * part.item(), rel=1e-9)
    assert part.item() > 1e-3
    assert greatest_difference(slopes, other_slopes) > 1e-3


def test_the_two_forms_differ_in_the_diagonal_alone() -> None:
    _, first, slopes, _ = evaluate(DIPVAE(form="I"))
    _, second, other_slopes, _ = evaluate(DIPVAE(form="II"))
    torch.testing.assert_close(first["off_diagonal"], second["off_diagonal"])
    assert (first["diagonal"] - second["diagonal"]).abs().min() > 1e-3
    assert greatest_difference(slopes, other_slopes) > 1e-3


@both_forms
def test_gradient_of_the_penalty_reaches_the_encoder_alone(form: Any) -> None:
    _, terms, _, model = evaluate(DIPVAE(form=form))
    for name, slope in gradients(terms["off_diagonal"].mean() + terms["diagonal"].mean(), model).items():
        assert bool(slope.any()) == name.startswith("net.encoder"), name


def test_gradient_and_covariance_keep_their_precision_in_bf16() -> None:
    generator = torch.Generator().manual_seed(0)
    q = DiagonalGaussian(*torch.randn(2, 64, 5, generator=generator).requires_grad_())
    exact = covariance(q, with_noise=True)
    with torch.autocast("cpu", torch.bfloat16):
        half = covariance(q, with_noise=True)
    assert torch.equal(exact, half)
    slopes = [torch.autograd.grad(c.square().sum(), [q.mean])[0] for c in (exact, half)]
    assert torch.equal(*slopes)


@both_forms
def test_one_item_is_finite(form: Any) -> None:
    loss, _, slopes, _ = evaluate(DIPVAE(form=form), n=1)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(slope).all() for slope in slopes.values())


@pytest.mark.slow
def test_trained_dip_vae_has_codes_with_covariance_nearer_to_the_identity_than_the_vae() -> None:
    seed = 0

    def distance(options: Options) -> float:
        return (trained_on_two_factors(options, seed).covariance() - torch.eye(2)).square().sum().item()

    assert distance(DIPVAE()) < distance(VAE()) / 2
    ours, parent = (trained_on_two_factors(o, seed).error for o in (DIPVAE(), VAE()))
    assert ours == pytest.approx(parent, rel=0.05)
