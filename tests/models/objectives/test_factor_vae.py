"""FactorVAE and its discriminator: the ratio it learns, what it is shown, and that no gradient crosses over."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import gradients, greatest_difference, prepared, toy_batch, toy_context, toy_model
from knowngood.config import RFVAE, VAE, FactorVAE, Options
from knowngood.models.base import Batch
from knowngood.models.objectives import Objective
from knowngood.models.objectives.discriminator import Discriminator, permute_dimensions, product_draw
from knowngood.models.vae import ConditionalVAE
from knowngood.training.optimisers import make_players
from knowngood.training.state import read_checkpoint
from toy_runs import trained_on_two_factors
from training_helpers import options as training_options
from training_helpers import same_bits, source, trained

SMALL: Any = {"discriminator_layers": 2, "discriminator_width": 16}
TOY: Any = {"discriminator_layers": 3, "discriminator_width": 64}


def setup(options: Options, **context: Any) -> tuple[ConditionalVAE, Objective, Batch, Any]:
    model = toy_model(condition_dim=0)
    batch, second = toy_batch(model), toy_batch(model, seed=7)
    return model, prepared(options, model), batch, lambda: toy_context(batch, second=second, **context)


def evaluate(options: Options) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """(loss of the model, terms, gradients) on the same model, batch and draws for all options."""
    model, objective, batch, context = setup(options)
    losses, terms = objective.loss(model, batch, context())
    return losses["model"], terms, gradients(losses["model"], model)


def discriminator(latent_dim: int = 2, layers: int = 2, width: int = 8, seed: int = 0) -> Discriminator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Discriminator(latent_dim, layers, width).double()


# The discriminator --------------------------------------------------------------------------------------------------


def test_density_ratio_and_loss_of_a_discriminator_worked_by_hand() -> None:
    net = discriminator(layers=1, width=2)
    with torch.no_grad():
        net.first.weight.copy_(torch.eye(2))
        net.last.weight.copy_(torch.tensor([[1.0, -1.0]]))
        net.last.bias.fill_(0.5)
    joint = torch.tensor([[1.0, -2.0], [0.0, 0.0]], dtype=torch.float64)
    product = torch.tensor([[-1.0, 3.0], [2.0, 1.0]], dtype=torch.float64)
    assert net(joint).tolist() == pytest.approx([1 + 0.4 + 0.5, 0.5])  # LeakyReLU(−2) = −.4
    assert net(product).tolist() == pytest.approx([-0.2 - 3 + 0.5, 2 - 1 + 0.5])
    of_joint = [math.log(1 + math.exp(-s)) for s in (1.9, 0.5)]
    of_product = [math.log(1 + math.exp(s)) for s in (-2.7, 1.5)]
    assert net.odds_and_loss(joint, product)[1].item() == pytest.approx((sum(of_joint) + sum(of_product)) / 4)


def test_a_discriminator_that_cannot_tell_has_the_loss_log_two() -> None:
    net = discriminator()
    nn.init.zeros_(net.last.weight)
    nn.init.zeros_(net.last.bias)
    z = torch.randn(10, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert net.odds_and_loss(z, z)[1].item() == pytest.approx(math.log(2))


def test_the_default_discriminator_is_the_published_one() -> None:
    _, objective, _, _ = setup(FactorVAE())
    layers = [m for m in objective.modules() if isinstance(m, nn.Linear)]
    assert [layer.out_features for layer in layers] == [1000] * 6 + [1]
    assert layers[0].in_features == 3


@pytest.mark.slow
def test_gradient_of_the_discriminator_is_right() -> None:
    net = discriminator()
    generator = torch.Generator().manual_seed(1)
    joint, product = torch.randn(2, 6, 2, dtype=torch.float64, generator=generator)
    names = [name for name, _ in net.named_parameters()]
    whole = _Loss(net)

    def loss(*values: Tensor) -> Tensor:
        renamed = {f"net.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(whole, renamed, (joint, product))

    assert torch.autograd.gradcheck(loss, tuple(p.detach().clone().requires_grad_() for p in net.parameters()))


class _Loss(nn.Module):
    def __init__(self, net: Discriminator) -> None:
        super().__init__()
        self.net = net

    def forward(self, joint: Tensor, product: Tensor) -> Tensor:
        return self.net.odds_and_loss(joint, product)[1]


def test_its_odds_have_gradient_for_z_alone_and_its_loss_for_itself_alone() -> None:
    net = discriminator()
    z, product = torch.randn(2, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    z.requires_grad_()
    product.requires_grad_()
    weights = list(net.parameters())
    odds, loss = net.odds_and_loss(z, product)
    assert torch.equal(odds, net(z))
    pull = torch.arange(5.0, dtype=torch.float64)
    (slope,) = torch.autograd.grad(odds, [z], pull, retain_graph=True)
    (expected,) = torch.autograd.grad(net(z), [z], pull)
    torch.testing.assert_close(slope, expected, rtol=1e-12, atol=1e-15)
    assert all(g is None for g in torch.autograd.grad(odds.sum(), [product, *weights], allow_unused=True))

    plain = 0.5 * (nn.functional.softplus(-net(z.detach())) + nn.functional.softplus(net(product.detach()))).mean()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-14)
    others = torch.autograd.grad(loss, [z, product], retain_graph=True, allow_unused=True)
    assert others == (None, None)
    for g, e in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(g, e, rtol=1e-12, atol=1e-15)


def test_without_gradient_the_odds_are_the_same() -> None:
    net = discriminator()
    z, product = torch.randn(2, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        odds, loss = net.odds_and_loss(z.clone().requires_grad_(), product)
    assert torch.equal(odds, net(z))
    assert not odds.requires_grad
    assert loss.item() == net.odds_and_loss(z, product)[1].item()


@pytest.mark.slow
def test_density_ratio_of_a_correlated_gaussian_and_its_tc_are_learned() -> None:
    """log p(z)/Πp(z_d) is a quadratic form, and its mean −½ log(1 − ρ²)."""
    rho, generator = 0.8, torch.Generator().manual_seed(0)

    def draw(n: int) -> Tensor:
        z = torch.randn(n, 2, generator=generator)
        return torch.stack((z[:, 0], rho * z[:, 0] + math.sqrt(1 - rho**2) * z[:, 1]), 1)

    net = discriminator(layers=2, width=64).float()
    optimiser = torch.optim.Adam(net.parameters(), 3e-3, betas=(0.5, 0.9))
    for _ in range(300):
        optimiser.zero_grad()
        net.odds_and_loss(draw(512), permute_dimensions(draw(512), generator))[1].backward()
        optimiser.step()
    z = draw(4000)
    cross, squares = z[:, 0] * z[:, 1], z.square().sum(1)
    truth = -0.5 * math.log(1 - rho**2) + (rho * cross - rho**2 * squares / 2) / (1 - rho**2)
    found = net(z).detach()
    assert found.mean().item() == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.06)
    assert torch.corrcoef(torch.stack((found, truth)))[0, 1] > 0.95


# What it is shown ---------------------------------------------------------------------------------------------------


def test_dimensions_are_permuted_each_by_itself() -> None:
    z = torch.arange(50.0).repeat(4, 1).t() + torch.tensor([0.0, 100.0, 200.0, 300.0])
    mixed = permute_dimensions(z, torch.Generator().manual_seed(0))
    assert torch.equal(mixed.sort(0).values, z)
    order = mixed - torch.tensor([0.0, 100.0, 200.0, 300.0])  # the row that each value came from
    for i in range(4):
        for j in range(i):
            assert (order[:, i] == order[:, j]).sum() < 10  # whole rows moved together would keep the joint


def test_every_combination_of_permutations_is_as_likely() -> None:
    """Three rows, two dimensions: 36 combinations. A χ² of 35 degrees of freedom stays below 80 in all but 2e-5."""
    z, generator = torch.arange(3.0)[:, None].expand(3, 2), torch.Generator().manual_seed(0)
    draws = 3600
    counts: dict[tuple[float, ...], int] = {}
    for _ in range(draws):
        key = tuple(permute_dimensions(z, generator).flatten().tolist())
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 36
    assert sum((n - 100) ** 2 / 100 for n in counts.values()) < 80


def test_the_product_comes_from_the_second_batch_and_carries_no_gradient() -> None:
    model = toy_model(condition_dim=0)
    batch = toy_batch(model)
    drawn = product_draw(model, batch, torch.Generator().manual_seed(3))
    q = model.encode(batch.x)
    z = q.rsample(torch.empty_like(q.mean).normal_(generator=torch.Generator().manual_seed(3)))
    torch.testing.assert_close(drawn.sort(0).values, z.sort(0).values)
    assert (drawn != z).any()
    assert not drawn.requires_grad


def test_the_second_batch_shapes_the_discriminators_loss_and_not_the_models() -> None:
    model, objective, batch, context = setup(FactorVAE(**SMALL))
    first, _ = objective.loss(model, batch, context())
    ctx = context()
    ctx.second = toy_batch(model, seed=8)
    other, _ = objective.loss(model, batch, ctx)
    assert first["model"].item() == other["model"].item()
    assert first["discriminator"].item() != other["discriminator"].item()
    ctx.second = None
    with pytest.raises(ValueError, match=r"second, independent batch; give Context\.second"):
        objective.loss(model, batch, ctx)


# Limit and gradient -------------------------------------------------------------------------------------------------


def test_limit_gamma_zero_is_the_vae_in_loss_and_gradient() -> None:
    loss, _, slopes = evaluate(VAE())
    same, _, same_slopes = evaluate(FactorVAE(gamma=0, **SMALL))
    assert same.item() == pytest.approx(loss.item(), rel=1e-12)
    assert greatest_difference(slopes, same_slopes) < 1e-12


def test_away_from_the_limit_gamma_times_tc_is_added_in_loss_and_gradient() -> None:
    loss, _, slopes = evaluate(VAE())
    other, terms, other_slopes = evaluate(FactorVAE(gamma=5, **SMALL))
    assert other.item() - loss.item() == pytest.approx(5 * terms["tc"].mean().item(), rel=1e-9)
    assert abs(other.item() - loss.item()) > 1e-3
    assert greatest_difference(slopes, other_slopes) > 1e-3
    model, objective, batch, context = setup(FactorVAE(gamma=5, **SMALL))
    _, terms = objective.loss(model, batch, context())
    of_tc = gradients(terms["tc"].mean(), model)
    expected = {name: slope + 5 * of_tc[name] for name, slope in slopes.items()}
    assert greatest_difference(other_slopes, expected) < 1e-10
    for name, slope in of_tc.items():
        assert bool(slope.any()) == name.startswith("net.encoder"), name


def test_no_gradient_crosses_between_model_and_discriminator() -> None:
    """Not even where someone sums the two losses: a leak would turn γ into γ − ½(1 − D(z))."""
    model, objective, batch, context = setup(FactorVAE(gamma=5, **SMALL))
    losses, _ = objective.loss(model, batch, context())
    players = objective.players(model)
    for name, loss in losses.items():
        for other, parameters in players.items():
            found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            assert all((slope is None) == (name != other) for slope in found), (name, other)
    together = gradients(losses["model"] + losses["discriminator"], model)
    assert greatest_difference(together, gradients(losses["model"], model)) == 0


# In training --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_discriminator_trains_with_its_own_betas_and_rate() -> None:
    model, objective, _, _ = setup(FactorVAE(**SMALL))
    players = {p.name: p for p in make_players(objective, model, training_options(lr=1e-3, lr_secondary=1e-4))}
    assert players["discriminator"].optimiser.defaults["betas"] == (0.5, 0.9)
    assert players["model"].optimiser.defaults["betas"] == (0.9, 0.999)
    assert players["discriminator"].lr == 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["factor_vae", "rf_vae"])
def test_what_the_objective_learns_is_in_checkpoint_and_history_and_resumed(name: str, tmp_path: Any) -> None:
    method = {"factor_vae": FactorVAE, "rf_vae": RFVAE}[name](**SMALL)
    make = {"options": training_options(epochs=12), "held_out": source(30)}
    whole, history = trained(method.build(), **make, run_dir=tmp_path / "whole")
    own = {n.removeprefix("objective."): t for n, t in whole.items() if n.startswith("objective.")}
    assert "discriminator.last.weight" in own
    assert same_bits(own, history.objective_state)
    found = read_checkpoint(tmp_path / "whole")
    assert found is not None
    assert {f"objective/{n}" for n in own} <= found[0].keys()
    assert "optimiser/discriminator/exp_avg" in found[0]
    fresh = method.build()
    untouched = prepared(method, toy_model(latent_dim=4, dtype=torch.float32)).state_dict()
    assert untouched.keys() == own.keys()  # a prepared objective takes the state in
    assert not any(True for _ in fresh.parameters())

    def stop(done: int) -> None:
        if done == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(method.build(), **make, run_dir=tmp_path / "part", on_step=stop)
    again, _ = trained(method.build(), **make, run_dir=tmp_path / "part", resume=True)
    assert same_bits(whole, again)


def test_first_and_last_layer_keep_their_precision_in_bf16() -> None:
    net = discriminator(layers=1).float()
    z, product = torch.randn(2, 20, 2, generator=torch.Generator().manual_seed(0))
    z.requires_grad_()
    exact = net.odds_and_loss(z, product)
    with torch.autocast("cpu", torch.bfloat16):
        half = net.odds_and_loss(z, product)
    for a, b, of in zip(half, exact, ([z], list(net.parameters())), strict=True):
        assert torch.equal(a, b)
        for slopes in zip(*(torch.autograd.grad(t.sum(), of) for t in (a, b)), strict=True):
            assert torch.equal(*slopes)


def test_in_bf16_loss_and_gradient_are_those_of_float32_within_rounding() -> None:
    """The second batch is encoded without gradient in the same region, and must leave the encoder its own."""
    model = toy_model(condition_dim=0, dtype=torch.float32, jitter=0.2)
    objective, batch, second = prepared(FactorVAE(**TOY), model), toy_batch(model), toy_batch(model, seed=7)
    exact, _ = objective.loss(model, batch, toy_context(batch, second=second))
    with torch.autocast("cpu", torch.bfloat16):
        half, terms = objective.loss(model, batch, toy_context(batch, second=second))
    assert all(t.dtype == torch.float32 for t in (*half.values(), *terms.values()))
    for player, parameters in objective.players(model).items():
        assert half[player].item() == pytest.approx(exact[player].item(), rel=0.02)
        flat = [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss[player], parameters, retain_graph=True)])
            for loss in (exact, half)
        ]
        assert torch.nn.functional.cosine_similarity(*flat, dim=0) > 0.99, player


@pytest.mark.slow
def test_trained_factor_vae_has_less_tc_than_the_vae_at_equal_reconstruction() -> None:
    seed = 0
    parent = trained_on_two_factors(VAE(), seed)
    ours = trained_on_two_factors(FactorVAE(gamma=5, **TOY), seed)
    assert parent.tc() > 0.1
    assert ours.tc() < parent.tc() / 2
    assert ours.error == pytest.approx(parent.error, rel=0.05)
