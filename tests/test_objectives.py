"""Each objective equals its parent in its limit, differs from it elsewhere, and gives gradient where it should."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import gradients, greatest_difference, prepared, toy_batch, toy_context, toy_model
from knowngood.config import (
    CVAE,
    DCVAE,
    DIPVAE,
    MLP,
    RFVAE,
    TCVAE,
    VAE,
    BetaVAE,
    Conv,
    CorEx,
    FactorVAE,
    Gaussian,
    InfoVAE,
    Options,
    choices,
    parse_settings,
)
from knowngood.errors import SettingsError
from knowngood.objectives import Batch, Context, Objective
from knowngood.objectives.densities import total_correlation
from knowngood.vae import ConditionalVAE, DiagonalGaussian

EXACT = 1e-12
SMALL: Any = {"discriminator_layers": 2, "discriminator_width": 16}

# Every form of every objective; the last test of this file sees to it that none is missing.
FORMS: dict[str, Options] = {
    "vae": VAE(),
    "beta_vae": BetaVAE(beta=4),
    "beta_vae-capacity": BetaVAE(capacity=5, gamma=3),
    "cvae": CVAE(),
    "dcvae-explicit": DCVAE(beta=3),
    "dcvae-mws": DCVAE(beta=3, density="mws"),
    "dcvae-bound": DCVAE(tc="bound"),
    "factor_vae": FactorVAE(gamma=3, **SMALL),
    "tc_vae": TCVAE(alpha=2, beta=3, gamma=0.5),
    "tc_vae-mws": TCVAE(alpha=2, beta=3, gamma=0.5, density="mws"),
    "rf_vae": RFVAE(gamma=3, eta_s=2, eta_h=5, entropy_from=0, relevance_from=0, **SMALL),
    "dip_vae-I": DIPVAE(form="I", lambda_od=3, lambda_d=2),
    "dip_vae-II": DIPVAE(form="II", lambda_od=3, lambda_d=2),
    "info_vae": InfoVAE(alpha=0.5, lambda_mmd=20),
    "info_vae-rbf": InfoVAE(alpha=0.5, lambda_mmd=20, kernel="rbf"),
    "corex": CorEx(),
}
every_form = pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)


def evaluate(
    options: Options, model: ConditionalVAE, batch: Batch, **context: Any
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """(loss of the model, its terms, its gradients), always with the same draw of z."""
    objective = prepared(options, model)
    losses, terms = objective.loss(model, batch, context_for(objective, model, batch, **context))
    assert losses.keys() == objective.players(model).keys()
    return losses["model"], terms, gradients(losses["model"], model)


def context_for(objective: Objective, model: ConditionalVAE, batch: Batch, **context: Any) -> Context:
    """A context with a second batch where the objective wants one."""
    second = toy_batch(model, n=len(batch.x), seed=7) if objective.second_batch else None
    return toy_context(batch, second=second, **context)


def model_for(options: Options, **changes: Any) -> ConditionalVAE:
    """A toy model built as the objective is defined: with or without conditions, with its own prior."""
    objective: Objective = options.build()
    given = {"condition_dim": 2 if objective.conditional else 0, "prior": objective.prior, **changes}
    return toy_model(**given)


def encoder_part(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: slope for name, slope in found.items() if name.startswith("net.encoder")}


def largest(found: dict[str, Tensor]) -> float:
    return max(float(slope.abs().max()) for slope in found.values())


# All of them --------------------------------------------------------------------------------------------------------


@every_form
def test_loss_is_a_scalar_and_terms_are_per_item(options: Options) -> None:
    model = model_for(options)
    loss, terms, _ = evaluate(options, model, toy_batch(model, n=40))
    assert loss.shape == ()
    assert loss.requires_grad
    assert {"reconstruction", "kl"} <= terms.keys()
    for name, values in terms.items():
        assert values.shape == (40,), name
        assert torch.isfinite(values).all(), name


@every_form
def test_loss_is_the_formula_of_its_terms(options: Options) -> None:
    model = model_for(options)
    loss, terms, _ = evaluate(options, model, toy_batch(model), step=10, total_steps=100)
    rec, kl = terms["reconstruction"].mean(), terms["kl"].mean()
    if isinstance(options, BetaVAE):
        grown = 10 / (0.5 * 100)  # capacity grows over half of the steps by default
        expected = rec + (options.beta * kl if options.capacity is None else 3 * (kl - 5 * grown).abs())
    elif isinstance(options, DCVAE) and options.tc == "explicit":
        expected = rec + kl + 2 * terms["tc"].mean()
    elif isinstance(options, FactorVAE):
        expected = rec + kl + 3 * terms["tc"].mean()
    elif isinstance(options, TCVAE):
        expected = rec + (2 * terms["information"] + 3 * terms["tc"] + 0.5 * terms["dimension_kl"]).mean()
    elif isinstance(options, RFVAE):
        of_items = terms["weighted_kl"] + 3 * terms["tc"] + 2 * terms["relevant"]
        expected = rec + (of_items + 5 * 0.1 * terms["relevance_entropy"]).mean()  # a tenth of the steps is done
    elif isinstance(options, DIPVAE):
        expected = rec + kl + (3 * terms["off_diagonal"] + 2 * terms["diagonal"]).mean()
    elif isinstance(options, InfoVAE):
        expected = rec + 0.5 * kl + 19.5 * terms["mmd"].mean()
    else:
        expected = rec + kl
    assert loss.item() == pytest.approx(expected.item(), rel=EXACT)


@every_form
def test_kl_has_gradient(options: Options) -> None:
    """A KL term that is there in name only (clamped, or below a capacity) trains nothing."""
    model = model_for(options)
    loss, terms, _ = evaluate(options, model, toy_batch(model), step=50)
    assert largest(encoder_part(gradients(terms["kl"].mean(), model))) > 1e-4
    beside_reconstruction = encoder_part(gradients(loss - terms["reconstruction"].mean(), model))
    assert all(slope.any() for slope in beside_reconstruction.values())


@every_form
def test_every_parameter_of_the_model_gets_gradient_from_some_player(options: Options) -> None:
    model = model_for(options, likelihood=Gaussian(sigma="input"))
    batch, objective = toy_batch(model), prepared(options, model)
    players = objective.players(model)
    assert sorted(map(id, players["model"])) == sorted(map(id, model.parameters()))
    others = [parameter for name, given in players.items() if name != "model" for parameter in given]
    assert {id(p) for p in others} == {id(p) for p in objective.parameters()}
    losses, _ = objective.loss(model, batch, context_for(objective, model, batch, step=50))
    assert losses.keys() == players.keys()
    for name, parameters in players.items():
        for slope in torch.autograd.grad(losses[name], parameters, retain_graph=True):  # raises for one not reached
            assert slope.any()
            assert torch.isfinite(slope).all()


@every_form
def test_gradient_is_right(options: Options) -> None:
    """Against central differences, for every weight of a small model."""
    model = model_for(options, shape=(3,), latent_dim=2, net=MLP(hidden=()))
    batch, objective = toy_batch(model, n=36), prepared(options, model)
    whole = _Loss(model, objective)
    names = [f"model.{name}" for name, _ in model.named_parameters()]

    def loss(*values: Tensor) -> Tensor:
        return torch.func.functional_call(whole, dict(zip(names, values, strict=True)), (batch,))

    inputs = tuple(parameter.detach().clone().requires_grad_() for parameter in model.parameters())
    assert torch.autograd.gradcheck(loss, inputs, atol=1e-6)


class _Loss(torch.nn.Module):
    def __init__(self, model: ConditionalVAE, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch) -> Tensor:
        return self.objective.loss(self.model, batch, context_for(self.objective, self.model, batch, step=20))[0][
            "model"
        ]


@every_form
def test_same_draw_same_loss_other_draw_other_loss(options: Options) -> None:
    model = model_for(options)
    batch = toy_batch(model)
    before = torch.random.get_rng_state()
    first, again, other = (evaluate(options, model, batch, seed=seed)[0].item() for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert torch.equal(before, torch.random.get_rng_state())  # nothing is drawn behind the caller's back


@every_form
def test_order_of_the_batch_does_not_matter(options: Options) -> None:
    """At noise that belongs to the items. The draw itself is by place, so the posterior is made sharp here."""
    model = model_for(options, net=MLP(hidden=()))
    with torch.no_grad():
        model.net.encoder[0].weight[3:] = 0
        model.net.encoder[0].bias[3:] = -70  # σ = e⁻³⁵: z = μ to the last digit
    batch = toy_batch(model)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = Batch(*(None if part is None else part[order] for part in vars(batch).values()))  # type: ignore[arg-type]
    _, terms, _ = evaluate(options, model, batch)
    _, found, _ = evaluate(options, model, shuffled)
    for name in ("reconstruction", "kl"):
        torch.testing.assert_close(found[name], terms[name][order], rtol=1e-10, atol=1e-10)


# VAE and β-VAE ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [o for o in FORMS.values() if not isinstance(o, CVAE | DCVAE)])
def test_unconditional_objectives_ignore_conditions_and_strata(options: Options) -> None:
    assert not options.build().conditional
    model = model_for(options)
    batch = toy_batch(model)
    loss, _, slopes = evaluate(options, model, batch)
    other = copy.copy(batch)
    other.c, other.stratum = torch.ones(40, 3), torch.arange(40) % 5
    loss_with, _, slopes_with = evaluate(options, model, other)
    assert torch.equal(loss, loss_with)
    assert greatest_difference(slopes, slopes_with) == 0


def test_beta_vae_with_beta_one_is_the_vae_and_with_another_is_not() -> None:
    model = model_for(VAE())
    batch = toy_batch(model)
    loss, _, slopes = evaluate(VAE(), model, batch)
    same, _, same_slopes = evaluate(BetaVAE(beta=1), model, batch)
    assert same.item() == pytest.approx(loss.item(), rel=EXACT)
    assert greatest_difference(slopes, same_slopes) < EXACT
    other, _, other_slopes = evaluate(BetaVAE(beta=1.5), model, batch)
    assert abs(other.item() - loss.item()) > 1e-3
    assert greatest_difference(encoder_part(slopes), encoder_part(other_slopes)) > 1e-3


def test_beta_vae_with_beta_zero_is_an_autoencoder() -> None:
    model = model_for(VAE())
    loss, terms, slopes = evaluate(BetaVAE(beta=0), model, toy_batch(model))
    assert loss.item() == terms["reconstruction"].mean().item()
    assert greatest_difference(slopes, gradients(terms["reconstruction"].mean(), model)) == 0


def test_capacity_equal_to_the_kl_leaves_the_reconstruction() -> None:
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


# CVAE ---------------------------------------------------------------------------------------------------------------


def test_cvae_without_conditions_is_the_vae() -> None:
    model = model_for(VAE())
    batch = toy_batch(model)
    loss, _, slopes = evaluate(VAE(), model, batch)
    same, _, same_slopes = evaluate(CVAE(), model, batch)
    assert torch.equal(loss, same)
    assert greatest_difference(slopes, same_slopes) == 0


@pytest.mark.parametrize("net", [MLP(hidden=(8,)), Conv(channels=(4,), dense=8)])
def test_cvae_sees_its_condition(net: Options) -> None:
    model = toy_model((1, 8, 8), net=net)
    batch = toy_batch(model)
    loss, _, slopes = evaluate(CVAE(), model, batch)
    assert batch.c is not None
    batch.c = batch.c.flip(1)
    other, _, other_slopes = evaluate(CVAE(), model, batch)
    assert abs(loss.item() - other.item()) > 1e-3
    assert greatest_difference(slopes, other_slopes) > 1e-3


def test_learned_prior_changes_the_kl_and_not_the_reconstruction() -> None:
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


@pytest.mark.parametrize("density", ["mss", "mws"])
@pytest.mark.parametrize("prior", ["standard", "learned"])
def test_explicit_dcvae_with_beta_one_is_the_cvae_with_the_same_prior(prior: str, density: Any) -> None:
    model = toy_model(prior=prior)
    batch = toy_batch(model)
    loss, _, slopes = evaluate(CVAE(), model, batch)
    same, _, same_slopes = evaluate(DCVAE(beta=1, density=density), model, batch)
    assert same.item() == pytest.approx(loss.item(), rel=EXACT)
    assert greatest_difference(slopes, same_slopes) < EXACT


@pytest.mark.parametrize("density", ["mss", "mws"])
@pytest.mark.parametrize("beta", [0.0, 0.9, 2.0, 6.0])
def test_explicit_dcvae_with_another_beta_adds_its_share_of_tc(beta: float, density: Any) -> None:
    model = toy_model()
    batch = toy_batch(model)
    loss, _, slopes = evaluate(CVAE(), model, batch)
    other, terms, other_slopes = evaluate(DCVAE(beta=beta, density=density), model, batch)
    tc = terms["tc"].mean()
    assert terms["tc"].abs().max() > 0.1
    assert other.item() != loss.item()
    assert other.item() - loss.item() == pytest.approx((beta - 1) * tc.item(), rel=1e-9)
    assert greatest_difference(slopes, other_slopes) > 1e-5
    of_tc = gradients(tc, model)
    expected = {name: slope + (beta - 1) * of_tc[name] for name, slope in slopes.items()}
    assert greatest_difference(other_slopes, expected) < 1e-10


def test_default_dcvae_is_explicit_and_differs_from_the_cvae() -> None:
    objective = DCVAE().build()
    assert objective.explicit
    assert objective.beta == 2
    assert objective.stratified
    assert objective.prior == "standard"
    model = toy_model()
    batch = toy_batch(model)
    assert evaluate(DCVAE(), model, batch)[0].item() != evaluate(CVAE(), model, batch)[0].item()


def test_tc_pulls_on_the_encoder_alone() -> None:
    model = toy_model(prior="learned")
    _, terms, _ = evaluate(DCVAE(), model, toy_batch(model))
    for name, slope in gradients(terms["tc"].mean(), model).items():
        assert bool(slope.any()) == name.startswith("net.encoder"), name


@pytest.mark.parametrize("density", ["mss", "mws"])
def test_tc_is_that_of_the_drawn_z_within_the_strata_of_the_batch(density: Any) -> None:
    model = toy_model()
    batch = toy_batch(model, n=80)
    _, terms, _ = evaluate(DCVAE(density=density), model, batch, seed=6)
    q = model.encode(batch.x, batch.c)
    z = q.rsample(torch.empty_like(q.mean).normal_(generator=torch.Generator().manual_seed(6)))
    for k in range(2):
        part = batch.stratum == k
        alone = DiagonalGaussian(q.mean[part], q.log_var[part])
        zeros = torch.zeros(40, dtype=torch.int64)
        expected, _ = total_correlation(z[part], alone, zeros, torch.tensor([200]), density)  # 40 items, times 5
        torch.testing.assert_close(terms["tc"][part], expected, rtol=1e-10, atol=1e-10)


def test_strata_change_the_dcvae_and_not_the_cvae() -> None:
    model = toy_model()
    batch = toy_batch(model, n=64)
    pooled = copy.copy(batch)
    pooled.stratum = torch.zeros_like(batch.stratum)
    assert torch.equal(evaluate(CVAE(), model, batch)[0], evaluate(CVAE(), model, pooled)[0])
    loss, _, slopes = evaluate(DCVAE(), model, batch)
    other, _, other_slopes = evaluate(DCVAE(), model, pooled)
    assert abs(loss.item() - other.item()) > 1e-4
    assert greatest_difference(slopes, other_slopes) > 1e-5


def test_strata_too_small_for_tc_leave_the_cvae_and_are_counted() -> None:
    model = toy_model(condition_dim=3)
    batch = toy_batch(model, n=45)  # 15 of each
    loss, _, slopes = evaluate(CVAE(), model, batch)
    same, terms, same_slopes = evaluate(DCVAE(beta=5), model, batch)
    assert not terms["tc"].any()
    assert (terms["tc_skipped"] == 1).all()
    assert same.item() == loss.item()
    assert greatest_difference(slopes, same_slopes) == 0
    _, terms, _ = evaluate(DCVAE(beta=5), model, toy_batch(model, n=46))  # the first stratum has 16 now
    assert terms["tc_skipped"].sum() == 30


def test_bound_dcvae_is_the_cvae_with_a_learned_prior() -> None:
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
        parse_settings({"objective": {"name": "dcvae", "tc": "bound", "beta": 2}})
    assert DCVAE(tc="bound", beta=1).build().beta == 1


def test_explicit_dcvae_with_one_stratum_is_the_unconditional_tc_penalty() -> None:
    """One condition for all: β·TC(z|c) is β·TC(z), the TC form of β-VAE (arXiv:1802.04942)."""
    model = toy_model(condition_dim=0)
    batch = toy_batch(model)
    loss, terms, _ = evaluate(DCVAE(beta=4), model, batch)
    vae, _, _ = evaluate(VAE(), model, batch)
    q = model.encode(batch.x)
    z = q.rsample(torch.empty_like(q.mean).normal_(generator=torch.Generator().manual_seed(2)))
    tc, _ = total_correlation(z, q, torch.zeros(40, dtype=torch.int64), torch.tensor([200]))
    torch.testing.assert_close(terms["tc"], tc, rtol=1e-12, atol=1e-12)
    assert loss.item() == pytest.approx(vae.item() + 3 * tc.mean().item(), rel=1e-12)


def test_expected_kl_holds_tc_once() -> None:
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


def two_factors(n: int = 512) -> Batch:
    """Six features of two uniform factors, bent and mixed, with an offset for each of two conditions and noise .1."""
    generator = torch.Generator().manual_seed(0)
    stratum = torch.arange(n) % 2
    factors = 2 * torch.rand(n, 2, generator=generator) - 1
    mixing = torch.tensor([[1.0, 0.6, 0.3, -0.4, 0.8, 0.2], [0.5, 1.0, -0.6, 0.7, 0.1, 0.9]])
    offset = torch.tensor([0.8, -0.8, 0.4, 0.4, -0.4, 0.8])
    x = torch.tanh(factors @ mixing) + stratum[:, None] * offset + 0.1 * torch.randn(n, 6, generator=generator)
    return Batch(x, torch.eye(2)[stratum], stratum, torch.zeros(n), torch.arange(n))


def trained_tc_and_error(options: Options, seed: int) -> tuple[float, float]:
    """TC(z|c) with the whole set as the batch, and the root mean square error of the reconstruction."""
    data, objective = two_factors(), options.build()
    counts, steps = torch.bincount(data.stratum), 200
    model = toy_model(net=MLP(hidden=(32,)), seed=seed, dtype=torch.float32, jitter=0)
    optimiser, generator = torch.optim.Adam(model.parameters(), 1e-2), torch.Generator().manual_seed(seed)
    for step in range(steps):
        index = torch.randint(len(data.x), (128,), generator=generator)
        batch = Batch(*(part[index] for part in vars(data).values()))
        losses, _ = objective.loss(model, batch, Context(step, steps, generator, len(data.x), counts))
        optimiser.zero_grad()
        losses["model"].backward()
        optimiser.step()
    with torch.no_grad():
        q = model.encode(data.x, data.c)
        draws = q.rsample(torch.randn(10, *q.mean.shape, generator=generator))
        tc = torch.stack([total_correlation(z, q, data.stratum, counts)[0] for z in draws]).mean()
        return tc.item(), (model.reconstruct(data.x, data.c) - data.x).square().mean().sqrt().item()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_trained_dcvae_has_less_tc_than_the_cvae_at_nearly_its_error(seed: int) -> None:
    tc, error = trained_tc_and_error(CVAE(), seed)
    lower, similar = trained_tc_and_error(DCVAE(beta=6), seed)
    assert 0 < lower < tc / 2
    assert similar < 1.2 * error < 0.15


# Completeness -------------------------------------------------------------------------------------------------------


def test_every_objective_is_tested_here() -> None:
    assert {options.model_dump()["name"] for options in FORMS.values()} == set(choices("objective"))
