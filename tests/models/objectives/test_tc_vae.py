"""β-TCVAE: its three parts by exhaustive sums, their telescoping into the KL, and what each weight does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import forms
from helpers import gradients, greatest_difference, toy_batch, toy_context, toy_model
from knowngood.config import DCVAE, TCVAE, VAE, Options
from knowngood.models.objectives import ElboTerms, elbo_terms, tc_vae
from knowngood.models.vae import ConditionalVAE
from toy_runs import trained_on_two_factors


def evaluate(
    options: Options, n: int = 40, times: int = 5, prior: str = "standard", seed: int = 2
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], ConditionalVAE]:
    """(loss, terms, gradients, model) with a training set `times` as large as the batch, and always the same draws."""
    model = toy_model(condition_dim=0, prior=prior)
    batch = toy_batch(model, n=n)
    losses, terms = options.build().loss(model, batch, toy_context(batch, times=times, seed=seed))
    return losses["model"], terms, gradients(losses["model"], model), model


def with_noise(sign: float) -> Any:
    """`elbo_terms` whose z is one standard deviation above (+1) or below (−1) the mean, everywhere."""

    def terms(model: ConditionalVAE, batch: Any, ctx: Any) -> ElboTerms:
        whole = elbo_terms(model, batch, ctx)
        return whole._replace(z=whole.posterior.rsample(torch.full_like(whole.z, sign)))

    return terms


# Density ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["standard", "learned"])
def test_density_parts_are_the_exhaustive_sums_when_the_batch_is_the_whole_set(prior: str) -> None:
    _, terms, _, model = evaluate(TCVAE(tc="sampled"), n=6, times=1, prior=prior)
    batch = toy_batch(model, n=6)
    elbo = elbo_terms(model, batch, toy_context(batch))
    z, mean, sigma = elbo.z.tolist(), elbo.posterior.mean.tolist(), (0.5 * elbo.posterior.log_var).exp().tolist()
    r = model.prior(None, like=elbo.z)

    def normal(x: float, mu: float, s: float) -> float:
        return math.exp(-0.5 * ((x - mu) / s) ** 2) / (s * math.sqrt(2 * math.pi))

    for i in range(6):
        each = [[normal(z[i][d], mean[j][d], sigma[j][d]) for d in range(3)] for j in range(6)]
        joint = math.log(sum(math.prod(row) for row in each) / 6)
        marginals = [math.log(sum(row[d] for row in each) / 6) for d in range(3)]
        own = [normal(z[i][d], r.mean[i, d].item(), math.exp(0.5 * r.log_var[i, d].item())) for d in range(3)]
        assert terms["information"][i].item() == pytest.approx(math.log(math.prod(each[i])) - joint)
        assert terms["tc"][i].item() == pytest.approx(joint - sum(marginals))
        assert terms["dimension_kl"][i].item() == pytest.approx(sum(marginals) - sum(math.log(p) for p in own))


def test_density_of_mws_differs_by_constants_so_that_gradients_agree_at_b_equal_n() -> None:
    loss, exact, slopes, _ = evaluate(TCVAE(tc="sampled", alpha=2, beta=3, gamma=0.5), times=1)
    other, shifted, other_slopes, _ = evaluate(TCVAE(tc="sampled", alpha=2, beta=3, gamma=0.5, density="mws"), times=1)
    log_n = math.log(40)
    for name, shift in (("information", log_n), ("tc", 2 * log_n), ("dimension_kl", -3 * log_n)):
        torch.testing.assert_close(shifted[name], exact[name] + shift)
    assert other.item() == pytest.approx(loss.item() + (2 + 3 * 2 - 0.5 * 3) * log_n)
    assert greatest_difference(slopes, other_slopes) < 1e-11


def test_density_is_of_all_items_whatever_their_strata() -> None:
    model = toy_model(condition_dim=0)
    one, many = toy_batch(model), toy_batch(model, strata=5)
    losses = [TCVAE(tc="sampled").build().loss(model, batch, toy_context(batch))[0]["model"] for batch in (one, many)]
    assert torch.equal(*losses)


# Limit --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", ["mss", "mws"])
@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize("prior", ["standard", "learned"])
def test_limit_weights_one_is_the_vae_in_expectation_in_loss_and_gradient(
    density: Any, times: int, prior: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts telescope to log q(z|x) − log r(z), a quadratic in the noise: the mean over noise −1 and +1 is its
    expectation, to the last digit, for either estimator and also where B < N."""
    loss, _, slopes, _ = evaluate(VAE(), times=times, prior=prior)
    losses, each = [], []
    for sign in (-1.0, 1.0):
        monkeypatch.setattr(tc_vae, "elbo_terms", with_noise(sign))
        found, _, found_slopes, _ = evaluate(
            TCVAE(tc="sampled", alpha=1, beta=1, gamma=1, density=density), times=times, prior=prior
        )
        losses.append(found.item())
        each.append(found_slopes)
    mean = {name: (each[0][name] + each[1][name]) / 2 for name in slopes}
    assert sum(losses) / 2 == pytest.approx(loss.item(), rel=1e-12)
    assert greatest_difference(slopes, mean) < 1e-11


@pytest.mark.parametrize("weight", ["alpha", "beta", "gamma"])
def test_away_from_the_limit_each_weight_adds_its_part_in_loss_and_gradient(weight: str) -> None:
    ones = {"alpha": 1, "beta": 1, "gamma": 1}
    loss, terms, slopes, _ = evaluate(TCVAE(tc="sampled", **ones))
    other, _, other_slopes, _ = evaluate(TCVAE(tc="sampled", **{**ones, weight: 4}))
    part = {"alpha": "information", "beta": "tc", "gamma": "dimension_kl"}[weight]
    assert other.item() - loss.item() == pytest.approx(3 * terms[part].mean().item(), rel=1e-9)
    assert abs(other.item() - loss.item()) > 1e-3
    assert greatest_difference(slopes, other_slopes) > 1e-3


@pytest.mark.parametrize("tc", ["moments", "gaussian", "discriminator", "sampled"])
def test_limit_beta_adds_what_it_adds_to_an_explicit_dcvae_without_conditions(tc: Any) -> None:
    """Whatever the estimate: so what it does in training is shown by the dCVAE, with each."""
    small: Any = forms.SMALL if tc == "discriminator" else {}
    ours, theirs = ([by_form(options(tc=tc, beta=beta, **small)) for beta in (1, 6)] for options in (TCVAE, DCVAE))
    assert ours[1][0].item() - ours[0][0].item() == pytest.approx(theirs[1][0].item() - theirs[0][0].item(), rel=1e-9)
    assert abs(ours[1][0].item() - ours[0][0].item()) > 1e-3
    for name in ours[0][1]:
        torch.testing.assert_close(
            ours[1][1][name] - ours[0][1][name], theirs[1][1][name] - theirs[0][1][name], rtol=1e-8, atol=1e-10
        )


def by_form(options: Options) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, gradients) of a model without conditions, with an estimate that has seen other batches."""
    model = toy_model(condition_dim=0)
    loss, _, slopes = forms.evaluate(options, model, toy_batch(model))
    return loss, slopes


# Gradient -----------------------------------------------------------------------------------------------------------


def test_gradient_of_the_parts_reaches_the_encoder_and_of_the_last_the_prior() -> None:
    _, terms, _, model = evaluate(TCVAE(tc="sampled"), prior="learned")
    for part, reached in (("information", "net.encoder"), ("tc", "net.encoder"), ("dimension_kl", "net.encoder prior")):
        for name, slope in gradients(terms[part].mean(), model).items():
            assert bool(slope.any()) == name.startswith(tuple(reached.split())), (part, name)


def test_gradient_and_density_keep_their_precision_in_bf16() -> None:
    """Under autocast the same posterior and draw give the same bits: no matrix product of densities runs in bf16."""
    model = toy_model(condition_dim=0, dtype=torch.float32)
    batch = toy_batch(model)
    elbo = elbo_terms(model, batch, toy_context(batch))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tc_vae, "elbo_terms", lambda *_: elbo)
        exact, terms = TCVAE(tc="sampled").build().loss(model, batch, toy_context(batch))
        with torch.autocast("cpu", torch.bfloat16):
            half, same = TCVAE(tc="sampled").build().loss(model, batch, toy_context(batch))
    assert torch.equal(exact["model"], half["model"])
    assert all(torch.equal(terms[name], same[name]) for name in terms)
    assert greatest_difference(gradients(exact["model"], model), gradients(half["model"], model)) < 1e-4


# In use -------------------------------------------------------------------------------------------------------------


def test_one_item_is_finite() -> None:
    loss, _, slopes, _ = evaluate(TCVAE(tc="sampled"), n=1, times=1)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(slope).all() for slope in slopes.values())


@pytest.mark.slow
def test_trained_tc_vae_has_less_tc_than_the_vae_at_equal_reconstruction() -> None:
    seed = 0
    parent, ours = trained_on_two_factors(VAE(), seed), trained_on_two_factors(TCVAE(beta=6), seed)
    assert ours.tc() < parent.tc() / 2
    assert ours.error == pytest.approx(parent.error, rel=0.05)
