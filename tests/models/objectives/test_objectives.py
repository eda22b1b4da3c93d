"""What holds of every objective: gradient where it should be and nowhere else, and right; and no two are the same.

Values worked by hand are in test_objectives_by_hand.py; limits and what each method is for, in its own file.
"""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor

from forms import FORMS, batch_for, context_for, encoder_part, evaluate, every_form, largest, model_for, objective_for
from helpers import gradients, greatest_difference, toy_batch, toy_context, toy_model
from knowngood.config import MLP, VAE, Gaussian, Options, VAEOptions, choices
from knowngood.models.base import Batch
from knowngood.models.distributions import DiagonalGaussian
from knowngood.models.objectives import Objective
from knowngood.models.vae import ConditionalVAE

EXACT = 1e-12


# All of them --------------------------------------------------------------------------------------------------------


def test_every_objective_has_a_form() -> None:
    assert {options.name for options in FORMS.values()} == set(choices(VAEOptions, "objective"))


@every_form
def test_loss_is_a_scalar_and_terms_are_per_item(options: Options) -> None:
    model = model_for(options)
    loss, terms, _ = evaluate(options, model, batch_for(options, model))
    assert loss.shape == ()
    assert loss.requires_grad
    assert {"reconstruction", "kl"} <= terms.keys()
    for name, values in terms.items():
        assert values.shape == (40,), name
        assert torch.isfinite(values).all(), name


@every_form
def test_gradient_of_the_kl_is_there(options: Options) -> None:
    """A KL term that is there in name only (clamped, or below a capacity) trains nothing."""
    model = model_for(options)
    loss, terms, _ = evaluate(options, model, batch_for(options, model), step=50)
    assert largest(encoder_part(gradients(terms["kl"].mean(), model))) > 1e-4
    beside_reconstruction = encoder_part(gradients(loss - terms["reconstruction"].mean(), model))
    assert all(slope.any() for slope in beside_reconstruction.values())


@every_form
def test_gradient_reaches_every_parameter_of_every_player(options: Options) -> None:
    model = model_for(options, likelihood=Gaussian(sigma="input"))
    batch, objective = batch_for(options, model), objective_for(options, model)
    players = objective.players(model)
    assert {id(p) for p in model.parameters()} <= {id(p) for p in players["model"]}
    trained = sorted(id(p) for parameters in players.values() for p in parameters)
    assert trained == sorted(id(p) for p in (*model.parameters(), *objective.parameters()))
    losses, _ = objective.loss(model, batch, context_for(objective, model, batch, step=50))
    assert losses.keys() == players.keys()
    for name, parameters in players.items():
        for slope in torch.autograd.grad(losses[name], parameters, retain_graph=True):  # raises for one not reached
            assert slope.any()
            assert torch.isfinite(slope).all()


@every_form
def test_gradient_of_a_players_loss_reaches_no_other_player(options: Options) -> None:
    """Where two players follow one and the same loss, each takes its own part of the gradient."""
    model = model_for(options)
    batch, objective = batch_for(options, model), objective_for(options, model)
    players = objective.players(model)
    losses, _ = objective.loss(model, batch, context_for(objective, model, batch, step=50))
    for name, other in itertools.permutations(players, 2):
        if losses[name] is not losses[other]:
            found = torch.autograd.grad(losses[name], players[other], retain_graph=True, allow_unused=True)
            assert all(slope is None for slope in found), (name, other)


@every_form
def test_gradient_of_what_is_beside_the_reconstruction_stops_at_the_decoder(options: Options) -> None:
    """Penalties shape the codes, never the picture drawn from them; and the picture never moves the prior."""
    model = model_for(options, likelihood=Gaussian(sigma="input"))
    loss, terms, _ = evaluate(options, model, batch_for(options, model), step=50)
    beside = gradients(loss, model)
    for name, slope in gradients(terms["reconstruction"].mean(), model).items():
        if name.startswith("net.decoder"):
            assert slope.any(), name
            assert torch.allclose(beside[name], slope, rtol=1e-9, atol=1e-12), name
        if name.startswith("prior"):
            assert not slope.any(), name


@pytest.mark.slow
@every_form
def test_gradient_of_every_player_agrees_with_central_differences(options: Options) -> None:
    """For every weight of a small model, and of every other player, in float64."""
    model = model_for(options, shape=(3,), latent_dim=2, net=MLP(hidden=()))
    batch, objective = batch_for(options, model, n=36), objective_for(options, model)
    whole = _Losses(model, objective)
    for player, parameters in objective.players(model).items():
        wanted = {id(parameter) for parameter in parameters}
        names = [name for name, parameter in whole.named_parameters() if id(parameter) in wanted]
        assert len(names) == len(parameters)

        def loss(*values: Tensor, names: list[str] = names, player: str = player) -> Tensor:
            return torch.func.functional_call(whole, dict(zip(names, values, strict=True)), (batch,))[player]

        inputs = tuple(whole.get_parameter(name).detach().clone().requires_grad_() for name in names)
        assert torch.autograd.gradcheck(loss, inputs, atol=1e-6), player


class _Losses(torch.nn.Module):
    def __init__(self, model: ConditionalVAE, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        context = context_for(self.objective, self.model, batch, step=20)
        return self.objective.loss(self.model, batch, context)[0]


SAME_LOSS = ("vae", "cvae", "dcvae-bound", "corex")  # of different models


def test_away_from_their_limits_no_two_objectives_agree_in_loss_or_gradient() -> None:
    """On one model, with conditions and a learned prior. Four are one loss there; they ask for different models."""
    model = toy_model(prior="learned")
    found = {name: evaluate(options, model, batch_for(options, model), step=50) for name, options in FORMS.items()}
    for one, other in itertools.combinations(found, 2):
        distance = greatest_difference(encoder_part(found[one][2]), encoder_part(found[other][2]))
        if one in SAME_LOSS and other in SAME_LOSS:
            assert found[one][0] == found[other][0]
            assert distance == 0
        else:
            assert abs(found[one][0] - found[other][0]) > 1e-4, (one, other)
            assert distance > 1e-4, (one, other)
    built = [FORMS[name].build() for name in SAME_LOSS]
    assert len({(objective.conditional, objective.prior) for objective in built}) == 4


CONDITIONAL = ("cvae", "dcvae", "dan_vae")


@pytest.mark.parametrize("options", [options for options in FORMS.values() if options.name not in CONDITIONAL])
def test_gradient_and_loss_of_unconditional_objectives_ignore_conditions_and_strata(options: Options) -> None:
    assert not options.build().conditional
    model = model_for(options)
    batch = toy_batch(model)
    loss, _, slopes = evaluate(options, model, batch)
    other = copy.copy(batch)
    other.c, other.stratum = torch.ones(40, 3), torch.arange(40) % 5
    loss_with, _, slopes_with = evaluate(options, model, other)
    assert torch.equal(loss, loss_with)
    assert greatest_difference(slopes, slopes_with) == 0


@pytest.mark.slow
@every_form
def test_same_draw_same_loss_other_draw_other_loss(options: Options) -> None:
    model = model_for(options)
    batch = batch_for(options, model)
    before = torch.random.get_rng_state()
    first, again, other = (evaluate(options, model, batch, seed=seed)[0].item() for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert torch.equal(before, torch.random.get_rng_state())  # nothing is drawn behind the caller's back


@pytest.mark.slow
@every_form
def test_order_of_the_batch_does_not_matter(options: Options) -> None:
    """At noise that belongs to the items. The draw itself is by position, so the posterior is made sharp here."""
    model = model_for(options, net=MLP(hidden=()))
    with torch.no_grad():
        model.net.encoder[0].weight[3:] = 0
        model.net.encoder[0].bias[3:] = -70  # σ = e⁻³⁵: z = μ to the last digit
    batch = batch_for(options, model)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = Batch(*(None if part is None else part[order] for part in vars(batch).values()))  # type: ignore[arg-type]
    _, terms, _ = evaluate(options, model, batch)
    _, found, _ = evaluate(options, model, shuffled)
    for name in ("reconstruction", "kl"):
        torch.testing.assert_close(found[name], terms[name][order], rtol=1e-10, atol=1e-10)


# VAE ----------------------------------------------------------------------------------------------------------------


def linear_gaussian() -> tuple[ConditionalVAE, Batch]:
    """x = Wz + b + noise with orthogonal columns of W, and the encoder that gives the exact posterior."""
    model = toy_model((3,), latent_dim=2, condition_dim=0, net=MLP(hidden=()), likelihood=Gaussian(sigma=0.5))
    encoder, decoder = model.net.encoder[0], model.net.decoder[0]
    w = torch.tensor([[0.6, 0.8], [1.2, -0.4], [0.0, 1.1]], dtype=torch.float64)
    w[2, 0] = -(w[0, 0] * w[0, 1] + w[1, 0] * w[1, 1]) / w[2, 1]
    variance = 1 / (1 + w.square().sum(0) / 0.25)
    with torch.no_grad():
        decoder.weight.copy_(w)
        encoder.weight.copy_(torch.cat((variance[:, None] * w.t() / 0.25, torch.zeros(2, 3))))
        encoder.bias.copy_(torch.cat((-encoder.weight[:2] @ decoder.bias, variance.log())))
    return model, toy_batch(model)


def evidence(model: ConditionalVAE, batch: Batch) -> Tensor:
    """Mean of log N(x; b, WWᵀ + σ²I)."""
    decoder = model.net.decoder[0]
    covariance = decoder.weight @ decoder.weight.t() + 0.25 * torch.eye(3, dtype=torch.float64)
    root = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(root, (batch.x - decoder.bias).t(), upper=False)
    constant = 3 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64)) + 2 * root.diagonal().log().sum()
    return -0.5 * (white.square().sum(0) + constant).mean()


def expected_over_z(model: ConditionalVAE, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The VAE's loss, expected over z: the mean over noise ±1 in each dimension is exact for a linear decoder."""
    losses = []
    for signs in itertools.product((-1.0, 1.0), repeat=2):
        at = torch.tensor(signs, dtype=torch.float64)
        monkeypatch.setattr(DiagonalGaussian, "rsample", lambda q, _, at=at: q.mean + (0.5 * q.log_var).exp() * at)
        losses.append(VAE().build().loss(model, batch, toy_context(batch))[0]["model"])
    return torch.stack(losses).mean()


def test_limit_exact_posterior_makes_the_vae_minus_the_log_evidence_in_loss_and_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, batch = linear_gaussian()
    loss, exact = expected_over_z(model, batch, monkeypatch), -evidence(model, batch)
    assert loss.item() == pytest.approx(exact.item(), rel=EXACT)
    assert greatest_difference(gradients(loss, model), gradients(exact, model)) < EXACT  # 0 for the encoder: its best


def test_away_from_the_limit_the_vae_is_above_minus_the_log_evidence_and_its_gradient_leads_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, batch = linear_gaussian()
    with torch.no_grad():
        exact = model.encode(batch.x)
        model.net.encoder[0].bias += 0.3
        gap = model.encode(batch.x).kl(exact).sum(1).mean().item()
    loss = expected_over_z(model, batch, monkeypatch)
    assert gap > 0.05
    assert loss.item() == pytest.approx(gap - evidence(model, batch).item(), rel=1e-9)
    pull = gradients(loss, model)["net.encoder.0.bias"]
    assert (pull > 1e-3).all()
