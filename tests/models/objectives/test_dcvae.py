"""CVAE and dCVAE: the VAE and one another as limits, TC within the strata of a condition, less of it in training."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from forms import evaluate, model_for
from helpers import gradients, greatest_difference, toy_batch, toy_model
from knowngood.config import CVAE, DCVAE, MLP, VAE, Conv, Options, VAEOptions, parse
from knowngood.errors import SettingsError
from knowngood.models.distributions import DiagonalGaussian
from knowngood.models.objectives.densities import total_correlation
from knowngood.models.objectives.total_correlation import MomentTC
from toy_runs import trained_on_two_factors

EXACT = 1e-12


# CVAE ---------------------------------------------------------------------------------------------------------------


def test_limit_no_conditions_makes_the_cvae_the_vae_in_loss_and_gradient() -> None:
    model = model_for(VAE())
    batch = toy_batch(model)
    loss, _, slopes = evaluate(VAE(), model, batch)
    same, _, same_slopes = evaluate(CVAE(), model, batch)
    assert torch.equal(loss, same)
    assert greatest_difference(slopes, same_slopes) == 0


def shared(found: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a conditional model's gradients that belongs to x and z, and not to c."""
    return {name: found[name][..., : slope.shape[-1]] for name, slope in like.items()}


@pytest.mark.parametrize("prior", ["standard", "learned"])
def test_limit_a_condition_of_zero_makes_the_cvae_the_vae_and_away_from_it_loss_and_gradient_differ(prior: str) -> None:
    """The nets see c beside x and beside z, so the weights of x and z alone make a VAE."""
    model = toy_model(net=MLP(hidden=()), prior=prior)
    parent = toy_model(net=MLP(hidden=()), prior=prior, condition_dim=0)
    own = dict(parent.named_parameters())
    with torch.no_grad():
        for name, value in shared(dict(model.named_parameters()), own).items():
            own[name].copy_(value)
    batch = toy_batch(model)
    assert batch.c is not None
    loss, _, slopes = evaluate(VAE(), parent, batch)
    known, _, known_slopes = evaluate(CVAE(), model, batch)
    batch.c = torch.zeros_like(batch.c)
    same, _, same_slopes = evaluate(CVAE(), model, batch)
    assert same.item() == pytest.approx(loss.item(), rel=EXACT)
    assert greatest_difference(shared(same_slopes, slopes), slopes) < EXACT
    assert abs(known.item() - loss.item()) > 1e-3
    assert greatest_difference(shared(known_slopes, slopes), slopes) > 1e-3


@pytest.mark.parametrize("net", [MLP(hidden=(8,)), Conv(channels=(4,), dense=8)])
def test_gradient_and_loss_of_the_cvae_follow_the_condition(net: Options) -> None:
    model = toy_model((1, 8, 8), net=net)
    batch = toy_batch(model)
    loss, _, slopes = evaluate(CVAE(), model, batch)
    assert batch.c is not None
    batch.c = batch.c.flip(1)
    other, _, other_slopes = evaluate(CVAE(), model, batch)
    assert abs(loss.item() - other.item()) > 1e-3
    assert greatest_difference(slopes, other_slopes) > 1e-3


def test_gradient_of_a_learned_prior_is_that_of_the_kl() -> None:
    standard, learned = toy_model(prior="standard"), toy_model(prior="learned")
    assert not learned.load_state_dict(standard.state_dict(), strict=False).unexpected_keys
    batch = toy_batch(standard)
    _, terms, _ = evaluate(CVAE(), standard, batch)
    _, found, slopes = evaluate(CVAE(), learned, batch)
    assert torch.equal(found["reconstruction"], terms["reconstruction"])
    assert (found["kl"] - terms["kl"]).abs().max() > 1e-3
    prior = {name: slope for name, slope in slopes.items() if name.startswith("prior")}
    assert greatest_difference(prior, {name: gradients(found["kl"].mean(), learned)[name] for name in prior}) < EXACT


# dCVAE --------------------------------------------------------------------------------------------------------------


EVERY_TC = [
    {"tc": "moments"},
    {"tc": "gaussian"},
    {"tc": "discriminator"},
    {"tc": "sampled"},
    {"tc": "sampled", "density": "mws"},
]
every_tc = pytest.mark.parametrize("tc", EVERY_TC, ids=lambda tc: tc.get("density", tc["tc"]))


@every_tc
@pytest.mark.parametrize("prior", ["standard", "learned"])
def test_limit_beta_one_makes_the_dcvae_the_cvae_with_the_same_prior_in_loss_and_gradient(prior: str, tc: Any) -> None:
    model = toy_model(prior=prior)
    batch = toy_batch(model)
    loss, _, slopes = evaluate(CVAE(), model, batch)
    same, _, same_slopes = evaluate(DCVAE(beta=1, **tc), model, batch)
    assert same.item() == pytest.approx(loss.item(), rel=EXACT)
    assert greatest_difference(slopes, same_slopes) < EXACT


@pytest.mark.slow
@every_tc
@pytest.mark.parametrize("beta", [0.0, 0.9, 2.0, 6.0])
def test_away_from_the_limit_the_dcvae_adds_its_share_of_tc_in_loss_and_gradient(beta: float, tc: Any) -> None:
    model = toy_model()
    batch = toy_batch(model)
    loss, _, slopes = evaluate(CVAE(), model, batch)
    other, terms, other_slopes = evaluate(DCVAE(beta=beta, **tc), model, batch)
    mean = terms["tc"].mean()
    assert terms["tc"].abs().max() > 0.1
    assert other.item() != loss.item()
    assert other.item() - loss.item() == pytest.approx((beta - 1) * mean.item(), rel=1e-9)
    assert greatest_difference(slopes, other_slopes) > 1e-5
    of_tc = gradients(mean, model)
    expected = {name: slope + (beta - 1) * of_tc[name] for name, slope in slopes.items()}
    assert greatest_difference(other_slopes, expected) < 1e-10


def test_default_dcvae_has_a_tc_term_and_differs_from_the_cvae() -> None:
    objective = DCVAE().build()
    assert isinstance(objective.estimate, MomentTC)
    assert objective.beta == 2
    assert objective.prior == "standard"
    model = toy_model()
    batch = toy_batch(model)
    assert evaluate(DCVAE(), model, batch)[0].item() != evaluate(CVAE(), model, batch)[0].item()


def test_gradient_of_tc_reaches_the_encoder_alone() -> None:
    model = toy_model(prior="learned")
    _, terms, _ = evaluate(DCVAE(), model, toy_batch(model))
    for name, slope in gradients(terms["tc"].mean(), model).items():
        assert bool(slope.any()) == name.startswith("net.encoder"), name


@pytest.mark.parametrize("density", ["mss", "mws"])
def test_density_of_the_dcvae_is_that_of_the_drawn_z_within_the_strata_of_the_batch(density: Any) -> None:
    model = toy_model()
    batch = toy_batch(model, n=80)
    _, terms, _ = evaluate(DCVAE(tc="sampled", density=density), model, batch, seed=6)
    q = model.encode(batch.x, batch.c)
    z = q.rsample(torch.empty_like(q.mean).normal_(generator=torch.Generator().manual_seed(6)))
    for k in range(2):
        part = batch.stratum == k
        alone = DiagonalGaussian(q.mean[part], q.log_var[part])
        zeros = torch.zeros(40, dtype=torch.int64)
        expected, _ = total_correlation(z[part], alone, zeros, torch.tensor([200]), density)  # 40 items, times 5
        torch.testing.assert_close(terms["tc"][part], expected, rtol=1e-10, atol=1e-10)


def test_gradient_and_loss_of_the_dcvae_follow_the_strata_and_those_of_the_cvae_do_not() -> None:
    model = toy_model()
    batch = toy_batch(model, n=64)
    pooled = copy.copy(batch)
    pooled.stratum = torch.zeros_like(batch.stratum)
    assert torch.equal(evaluate(CVAE(), model, batch)[0], evaluate(CVAE(), model, pooled)[0])
    loss, _, slopes = evaluate(DCVAE(), model, batch)
    other, _, other_slopes = evaluate(DCVAE(), model, pooled)
    assert abs(loss.item() - other.item()) > 1e-4
    assert greatest_difference(slopes, other_slopes) > 1e-5


def test_limit_strata_too_small_for_tc_make_the_dcvae_the_cvae_and_are_counted() -> None:
    model = toy_model(condition_dim=3)
    batch = toy_batch(model, n=45)  # 15 of each
    loss, _, slopes = evaluate(CVAE(), model, batch)
    same, terms, same_slopes = evaluate(DCVAE(beta=5, tc="sampled"), model, batch)
    assert not terms["tc"].any()
    assert (terms["tc_skipped"] == 1).all()
    assert same.item() == loss.item()
    assert greatest_difference(slopes, same_slopes) == 0
    _, terms, _ = evaluate(DCVAE(beta=5, tc="sampled"), model, toy_batch(model, n=46))  # the first stratum has 16 now
    assert terms["tc_skipped"].sum() == 30


def test_limit_bound_dcvae_is_the_cvae_with_a_learned_prior_in_loss_and_gradient() -> None:
    objective = DCVAE(tc="bound").build()
    assert objective.prior == "learned"
    assert not objective.stratified
    model = toy_model(prior="learned")
    batch = toy_batch(model)
    loss, terms, slopes = evaluate(CVAE(), model, batch)
    same, found, same_slopes = evaluate(DCVAE(tc="bound"), model, batch)
    assert torch.equal(loss, same)
    assert terms.keys() == found.keys()
    assert greatest_difference(slopes, same_slopes) == 0


def test_bound_dcvae_refuses_another_beta_and_says_why() -> None:
    with pytest.raises(SettingsError, match=r"dcvae: beta = 2 with tc='bound', whose TC weight is 1"):
        parse(VAEOptions, {"objective": {"name": "dcvae", "tc": "bound", "beta": 2}})
    assert DCVAE(tc="bound", beta=1).build().beta == 1


def test_limit_one_stratum_makes_the_dcvae_the_vae_with_a_tc_penalty() -> None:
    """One condition for all: β·TC(z|c) is β·TC(z), the TC form of β-VAE (arXiv:1802.04942)."""
    model = toy_model(condition_dim=0)
    batch = toy_batch(model)
    loss, terms, _ = evaluate(DCVAE(beta=4, tc="sampled"), model, batch)
    vae, _, _ = evaluate(VAE(), model, batch)
    q = model.encode(batch.x)
    z = q.rsample(torch.empty_like(q.mean).normal_(generator=torch.Generator().manual_seed(2)))
    tc, _ = total_correlation(z, q, torch.zeros(40, dtype=torch.int64), torch.tensor([200]))
    torch.testing.assert_close(terms["tc"], tc, rtol=1e-12, atol=1e-12)
    assert loss.item() == pytest.approx(vae.item() + 3 * tc.mean().item(), rel=1e-12)


@pytest.mark.slow
def test_density_of_the_codes_splits_the_expected_kl_which_holds_tc_once() -> None:
    """E KL = I(x;z|c) + TC(z|c) + Σ_j KL(q(z_j|c) ‖ r_j): with the whole set as the batch, by sampling z.

    This is why the bound already weighs TC by 1, and the explicit form adds β − 1.
    """
    n, draws = 30, 400
    model = toy_model(condition_dim=0, jitter=0.8)
    batch = toy_batch(model, n=n)
    with torch.no_grad():
        q = model.encode(batch.x)
    many = DiagonalGaussian(q.mean.repeat(draws, 1), q.log_var.repeat(draws, 1))
    z = many.rsample(torch.randn(many.mean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    pairs = q.log_prob(z[:, None, :])  # (draws·n, n, D)
    joint = torch.logsumexp(pairs.sum(2), 1) - torch.tensor(n).log()
    marginals = torch.logsumexp(pairs, 1) - torch.tensor(n).log()
    information = (many.log_prob(z).sum(1) - joint).mean()
    standard = DiagonalGaussian(torch.zeros_like(z), torch.zeros_like(z))
    dimensions = (marginals - standard.log_prob(z)).sum(1).mean()
    whole = torch.zeros(n, dtype=torch.int64), torch.tensor([n])
    tc = torch.stack([total_correlation(part, q, *whole)[0] for part in z.split(n)]).mean()
    kl = q.kl(DiagonalGaussian(torch.zeros_like(q.mean), torch.zeros_like(q.mean))).sum(1).mean()
    assert tc.item() > 0.05
    assert (information + tc + dimensions).item() == pytest.approx(kl.item(), abs=0.02)


# Trained ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("tc", "share"), [("moments", 0.6), ("discriminator", 0.5), ("sampled", 0.5)])
def test_trained_dcvae_has_less_tc_given_the_condition_than_the_cvae_at_equal_reconstruction(
    tc: Any, share: float
) -> None:
    """The CVAE's codes are a rotated square: not correlated, but dependent."""
    seed = 0
    parent = trained_on_two_factors(CVAE(), seed, conditions=True)
    ours = trained_on_two_factors(DCVAE(beta=6, tc=tc), seed, conditions=True)
    assert parent.tc() > 0.1
    assert ours.tc() < share * parent.tc()
    assert ours.error == pytest.approx(parent.error, rel=0.05)
