"""The model against closed forms: KL, densities, the prior, and an ELBO that is tight where the posterior is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Normal, kl_divergence

from helpers import gradients, toy_batch, toy_context, toy_model
from knowngood.config import MLP, Bernoulli, Conv, Gaussian
from knowngood.models.distributions import DiagonalGaussian
from knowngood.models.objectives import elbo_terms
from knowngood.models.vae import ConditionalVAE


def gaussian(rows: int = 7, dims: int = 4, seed: int = 0) -> DiagonalGaussian:
    generator = torch.Generator().manual_seed(seed)
    mean, log_var = torch.randn(2, rows, dims, generator=generator, dtype=torch.float64)
    return DiagonalGaussian(2 * mean, 1.5 * log_var)


def as_normal(q: DiagonalGaussian) -> Normal:
    return Normal(q.mean, (0.5 * q.log_var).exp())


# The diagonal Gaussian ----------------------------------------------------------------------------------------------


def test_kl_agrees_with_torch_distributions() -> None:
    q, r = gaussian(seed=0), gaussian(seed=1)
    torch.testing.assert_close(q.kl(r), kl_divergence(as_normal(q), as_normal(r)), rtol=1e-12, atol=1e-12)


def test_kl_to_the_standard_normal_is_the_textbook_form() -> None:
    q = gaussian()
    zeros = torch.zeros_like(q.mean)
    expected = 0.5 * (q.mean**2 + q.log_var.exp() - 1 - q.log_var)
    torch.testing.assert_close(q.kl(DiagonalGaussian(zeros, zeros)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("m1", "s1", "m2", "s2"), [(0.0, 1.0, 0.0, 2.0), (1.5, 0.3, -0.5, 1.2), (-2.0, 2.5, 0.4, 0.7)])
def test_kl_agrees_with_quadrature(m1: float, s1: float, m2: float, s2: float) -> None:
    def integrand(x: float) -> float:
        log_q = stats.norm.logpdf(x, m1, s1)
        return float(np.exp(log_q) * (log_q - stats.norm.logpdf(x, m2, s2)))

    by_quadrature, _ = integrate.quad(integrand, m1 - 12 * s1, m1 + 12 * s1, limit=200)
    values = torch.tensor([[m1, s1], [m2, s2]], dtype=torch.float64)
    q, r = (DiagonalGaussian(mean.view(1, 1), 2 * sigma.log().view(1, 1)) for mean, sigma in values)
    assert q.kl(r).item() == pytest.approx(by_quadrature, abs=1e-8)


def test_kl_is_zero_only_between_equals_and_never_negative() -> None:
    q, r = gaussian(seed=2), gaussian(seed=3)
    assert q.kl(q).abs().max() == 0
    assert (q.kl(r) > 0).all()


def test_log_prob_agrees_with_torch_distributions_also_for_several_draws() -> None:
    q = gaussian()
    z = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(z), as_normal(q).log_prob(z), rtol=1e-12, atol=1e-12)


def test_density_integrates_to_one() -> None:
    q = gaussian(rows=1, dims=1)
    grid = torch.linspace(-60, 60, 200_001, dtype=torch.float64)[:, None]
    assert torch.trapezoid(q.log_prob(grid).exp().squeeze(1), grid.squeeze(1)).item() == pytest.approx(1, abs=1e-10)


def test_rsample_moves_and_stretches_the_noise_it_is_given() -> None:
    q = gaussian()
    noise = torch.randn(3, 1, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    z = q.rsample(noise)
    assert z.shape == (3, 7, 4)
    back = (z - q.mean) / as_normal(q).stddev
    torch.testing.assert_close(back, noise.expand(3, 7, 4), rtol=1e-12, atol=1e-12)


def test_gradients_of_kl_density_and_draw_are_right() -> None:
    q, r = gaussian(3, 2, seed=6), gaussian(3, 2, seed=7)
    inputs = tuple(t.clone().requires_grad_() for t in (*q, *r))
    assert torch.autograd.gradcheck(lambda m, v, m2, v2: DiagonalGaussian(m, v).kl(DiagonalGaussian(m2, v2)), inputs)
    assert torch.autograd.gradcheck(lambda m, v, z, e: DiagonalGaussian(m, v).log_prob(z + 0 * e), inputs)
    assert torch.autograd.gradcheck(lambda m, v, e: DiagonalGaussian(m, v).rsample(e), inputs[:3])


# The prior ----------------------------------------------------------------------------------------------------------


def test_standard_prior_is_standard_whatever_the_condition() -> None:
    model = toy_model(prior="standard")
    batch = toy_batch(model)
    r = model.prior(batch.c, like=batch.x)
    assert r.mean.shape == r.log_var.shape == (40, 3)
    assert not r.mean.any()
    assert not r.log_var.any()


@pytest.mark.parametrize("condition_dim", [0, 2])
def test_learned_prior_starts_at_the_standard_normal_and_gets_gradient(condition_dim: int) -> None:
    model = toy_model(condition_dim=condition_dim, prior="learned", jitter=0)
    batch = toy_batch(model)
    r = model.prior(batch.c, like=batch.x)
    assert not r.mean.any()
    assert not r.log_var.any()

    kl = elbo_terms(model, batch, toy_context(batch)).kl.sum()
    kl.backward()
    prior = [parameter for name, parameter in model.named_parameters() if name.startswith("prior")]
    assert len(prior) == (2 if condition_dim else 1)  # an empty weight would be a parameter that never gets gradient
    for parameter in prior:
        assert parameter.grad is not None
        assert (parameter.grad != 0).all()


def test_learned_prior_is_a_free_gaussian_for_each_condition() -> None:
    model = toy_model(condition_dim=3, prior="learned")
    eye = torch.eye(3, dtype=torch.float64)
    before = model.prior(eye, like=eye)
    assert (before.mean[0] - before.mean[1]).abs().min() > 1e-4
    assert (before.log_var[0] - before.log_var[1]).abs().min() > 1e-4
    assert model.prior_weight is not None
    with torch.no_grad():
        model.prior_weight[:, 1] += 1
    after = model.prior(eye, like=eye)
    moved = [(a - b).abs().amax(1) for a, b in zip(after, before, strict=True)]
    for change in moved:  # only the condition whose column moved has another prior now
        torch.testing.assert_close(change, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))


def test_optimal_learned_prior_matches_the_moments_of_its_condition() -> None:
    """min over r of E KL(q ‖ r): mean of means, and mean variance plus variance of means (moment matching)."""
    model = toy_model(condition_dim=2, prior="learned")
    batch = toy_batch(model)
    q = model.encode(batch.x, batch.c)
    assert batch.c is not None
    assert model.prior_weight is not None
    assert model.prior_bias is not None
    with torch.no_grad():
        model.prior_bias.zero_()
        for k in range(2):
            mean, log_var = q.mean[batch.stratum == k], q.log_var[batch.stratum == k]
            total = log_var.exp().mean(0) + mean.var(0, correction=0)
            model.prior_weight[:, k] = torch.cat((mean.mean(0), total.log()))
    kl = DiagonalGaussian(q.mean.detach(), q.log_var.detach()).kl(model.prior(batch.c, like=q.mean)).sum()
    found = gradients(kl, model)
    assert found["prior_weight"].abs().max() < 1e-10
    assert found["prior_bias"].abs().max() < 1e-10


# Conditions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["standard", "learned"])
def test_wrong_condition_is_refused_with_its_shape_and_the_right_one(prior: str) -> None:
    model = toy_model(condition_dim=2, prior=prior)
    x, z = torch.zeros(5, 6, dtype=torch.float64), torch.zeros(5, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"none given; this model needs \(5, 2\)"):
        model.encode(x)
    with pytest.raises(ValueError, match=r"\(5, 3\) given; this model needs \(5, 2\)"):
        model.decode(z, torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"\(1, 2\) given; this model needs \(5, 2\)"):  # no silent broadcast
        model.encode(x, torch.zeros(1, 2))
    if prior == "learned":
        with pytest.raises(ValueError, match=r"\(4, 2\) given; this model needs \(5, 2\)"):
            model.prior(torch.zeros(4, 2), like=z)


def test_unconditional_model_ignores_any_condition() -> None:
    model = toy_model(condition_dim=0, prior="learned")
    batch = toy_batch(model, n=5)
    for c in (torch.ones(5, 4), torch.zeros(2, 1)):
        for with_c, without in zip(model.encode(batch.x, c), model.encode(batch.x), strict=True):
            assert torch.equal(with_c, without)
        assert torch.equal(model.reconstruct(batch.x, c), model.reconstruct(batch.x))
        assert torch.equal(model.prior(c, like=batch.x).mean, model.prior(None, like=batch.x).mean)


# The ELBO -----------------------------------------------------------------------------------------------------------


def linear_gaussian() -> tuple[ConditionalVAE, np.ndarray, np.ndarray, float, np.ndarray]:
    """x = W z + b_c + σ e, z ~ N(m_c, I), W's columns orthogonal: the exact posterior is diagonal, affine in (x, c).

    Returns the model with that posterior as its encoder, W (5, 2), b (3, 5), σ, m (3, 2).
    """
    rng = np.random.default_rng(0)
    sigma = 0.6
    w = np.linalg.qr(rng.normal(size=(5, 2)))[0] * np.array([1.3, 0.5])
    b, m = rng.normal(size=(3, 5)), rng.normal(size=(3, 2))
    variance = 1 / (1 + (w**2).sum(0) / sigma**2)

    model = toy_model(
        (5,), latent_dim=2, condition_dim=3, net=MLP(hidden=()), likelihood=Gaussian(sigma=sigma), prior="learned"
    )
    encoder, decoder = model.net.encoder[0], model.net.decoder[0]
    from_x = (w * variance / sigma**2).T  # μ(x, c) = v (Wᵀ(x − b_c) / σ² + m_c)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.weight[:2, :5] = torch.from_numpy(from_x)
        encoder.weight[:2, 5:] = torch.from_numpy(variance[:, None] * m.T - from_x @ b.T)
        encoder.bias.copy_(torch.from_numpy(np.concatenate((np.zeros(2), np.log(variance)))))
        decoder.weight.copy_(torch.from_numpy(np.concatenate((w, b.T), axis=1)))
        decoder.bias.zero_()
        model.prior_weight.zero_()
        model.prior_weight[:2] = torch.from_numpy(m.T)
        model.prior_bias.zero_()
    return model, w, b, sigma, m


def negative_elbo(model: ConditionalVAE, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """−ELBO of each row; the expectation over z by Gauss–Hermite nodes, exact for a decoder linear in z."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    q = model.encode(x, c)
    total = torch.zeros(len(x), dtype=torch.float64)
    for first, p1 in zip(nodes, weights, strict=True):
        for second, p2 in zip(nodes, weights, strict=True):
            z = q.rsample(torch.tensor([first, second], dtype=torch.float64))
            total -= p1 * p2 / weights.sum() ** 2 * model.likelihood.log_prob(x, model.decode(z, c)).sum(1)
    return total + q.kl(model.prior(c, like=q.mean)).sum(1)


def test_elbo_is_the_evidence_where_the_posterior_is_exact() -> None:
    model, w, b, sigma, m = linear_gaussian()
    batch = toy_batch(model, n=30)
    assert batch.c is not None
    covariance = w @ w.T + sigma**2 * np.eye(5)
    evidence = np.array(
        [
            stats.multivariate_normal.logpdf(x, b[k] + w @ m[k], covariance)
            for x, k in zip(batch.x.numpy(), batch.stratum.numpy(), strict=True)
        ]
    )
    np.testing.assert_allclose(-negative_elbo(model, batch.x, batch.c).detach().numpy(), evidence, atol=1e-10)


def test_gap_between_elbo_and_evidence_is_the_kl_to_the_exact_posterior() -> None:
    model, *_ = linear_gaussian()
    batch = toy_batch(model, n=30)
    assert batch.c is not None
    exact, tight = model.encode(batch.x, batch.c), negative_elbo(model, batch.x, batch.c)
    with torch.no_grad():
        model.net.encoder[0].bias += torch.tensor([0.3, -0.2, 0.5, -0.4], dtype=torch.float64)
    gap = negative_elbo(model, batch.x, batch.c) - tight
    assert (gap > 0.05).all()
    torch.testing.assert_close(gap, model.encode(batch.x, batch.c).kl(exact).sum(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian(sigma="input")])
def test_elbo_terms_are_the_two_terms_at_one_draw_from_the_generator(likelihood: Bernoulli | Gaussian) -> None:
    model = toy_model((1, 8, 8), net=Conv(channels=(4,), dense=8), likelihood=likelihood, prior="learned")
    batch = toy_batch(model, n=6)
    terms = elbo_terms(model, batch, toy_context(batch, seed=9))
    q = model.encode(batch.x, batch.c)
    noise = torch.empty(6, 3, dtype=torch.float64).normal_(generator=torch.Generator().manual_seed(9))
    z = q.rsample(noise)
    assert torch.equal(terms.z, z)
    log_p = model.likelihood.log_prob(batch.x, model.decode(z, batch.c))
    assert log_p.shape == batch.x.shape
    torch.testing.assert_close(terms.reconstruction, -log_p.sum((1, 2, 3)))
    torch.testing.assert_close(terms.kl, kl_divergence(as_normal(q), as_normal(model.prior(batch.c, q.mean))).sum(1))


def test_reconstruction_is_the_likelihoods_mean_at_the_posterior_mean() -> None:
    model = toy_model(likelihood=Bernoulli())
    batch = toy_batch(model)
    expected = torch.sigmoid(model.decode(model.encode(batch.x, batch.c).mean, batch.c))
    assert torch.equal(model.reconstruct(batch.x, batch.c), expected)


# Precision ----------------------------------------------------------------------------------------------------------


def test_under_bf16_only_the_nets_lose_precision() -> None:
    model = toy_model(prior="learned", dtype=torch.float32)
    batch = toy_batch(model)
    exact = model.prior(batch.c, like=batch.x)
    full = elbo_terms(model, batch, toy_context(batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.net.encode(batch.x, batch.c).dtype == torch.bfloat16  # the nets do run in bf16
        q, r = model.encode(batch.x, batch.c), model.prior(batch.c, like=batch.x)
        params = model.decode(q.mean, batch.c)
        half = elbo_terms(model, batch, toy_context(batch))
    assert {q.mean.dtype, q.log_var.dtype, params.dtype, half.reconstruction.dtype, half.kl.dtype} == {torch.float32}
    assert torch.equal(r.mean, exact.mean)
    assert torch.equal(r.log_var, exact.log_var)
    loss, rounded = ((t.reconstruction + t.kl).mean().item() for t in (full, half))
    assert rounded == pytest.approx(loss, rel=0.005)
    assert rounded != loss
