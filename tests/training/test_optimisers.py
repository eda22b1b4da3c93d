"""Players: gradients of their own loss, clipping, the schedule, and steps that must not happen."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from knowngood.errors import SettingsError
from knowngood.models.objectives import Objective
from knowngood.training.optimisers import Player, make_players, rate
from training_helpers import TwoPlayers, model, options


def test_the_rate_rises_linearly_and_falls_as_half_a_cosine():
    chosen = options(warmup=0.1)
    rates = [rate(step, 1000, chosen) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[49] == pytest.approx(0.5)
    assert max(rates) == rates[99] == 1
    assert rates[550] == pytest.approx(0.5, abs=1e-6)
    assert 0 < rates[-1] < 1e-5
    assert all(a > b for a, b in pairwise(rates[100:]))


def test_without_warm_up_and_cosine_the_rate_is_constant():
    assert {rate(step, 50, options(warmup=0, schedule="constant")) for step in range(50)} == {1.0}


@pytest.mark.parametrize("clip", [None, 0.5, 1e6])
def test_steps_are_those_of_clipped_adamw(clip):
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    player = Player("model", list(ours.parameters()), options(lr=0.01, weight_decay=0.1, clip=clip))
    adamw = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1)
    for step in range(20):
        x = torch.randn(8, 5)
        loss = ours(x).square().sum()
        share = rate(step, 20, options())
        norm = player.step(loss, player.gradients(loss, retain_graph=False), share)
        theirs.zero_grad()
        theirs(x).square().sum().backward()
        expected = nn.utils.clip_grad_norm_(theirs.parameters(), clip or float("inf"))
        adamw.param_groups[0]["lr"] = 0.01 * share
        adamw.step()
        assert torch.allclose(norm, expected)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_player_has_the_decay_rates_its_objective_names():
    class Critics(TwoPlayers):
        def betas(self, player):
            return (0.5, 0.9) if player == "critic" else super().betas(player)

    players = {player.name: player for player in make_players(Critics(), model(), options())}
    assert players["critic"].optimiser.param_groups[0]["betas"] == (0.5, 0.9)
    assert players["model"].optimiser.param_groups[0]["betas"] == (0.9, 0.999)
    players = {p.name: p for p in make_players(Critics(), model(), options(beta2=0.98))}
    assert players["critic"].optimiser.param_groups[0]["betas"] == (0.5, 0.9)
    assert players["model"].optimiser.param_groups[0]["betas"] == (0.9, 0.98)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing(bad):
    layer = nn.Linear(2, 2)
    player = Player("model", list(layer.parameters()), options())
    loss = layer(torch.ones(1, 2)).square().sum()
    player.step(loss, player.gradients(loss, retain_graph=False), 1.0)
    before, state = [p.detach().clone() for p in layer.parameters()], player.state()
    loss = layer(torch.ones(1, 2)).sum() * bad
    player.step(loss, player.gradients(loss, retain_graph=False), 1.0)
    assert all(torch.equal(p, q) for p, q in zip(layer.parameters(), before, strict=True))
    assert all(torch.equal(state[name], value) for name, value in player.state().items())


def test_gradients_have_the_memory_layout_of_their_parameters():
    """The fused kernel walks through memory and would mix up elements of a transposed or expanded gradient."""
    square, conv = nn.Parameter(torch.randn(3, 4)), nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    player = Player("model", [square, conv.weight], options())
    loss = (square.t().contiguous() * torch.arange(12.0).view(4, 3)).sum() + conv.weight.sum()
    gradients = player.gradients(loss, retain_graph=False)
    for p, g in zip(player.parameters, gradients, strict=True):
        assert g is not None
        assert g.stride() == p.stride()
    assert torch.equal(gradients[0], torch.arange(12.0).view(4, 3).t())  # type: ignore[arg-type]
    before = square.detach().clone()
    player.step(loss, gradients, 1.0)
    moved = square != before
    assert moved.sum() == 11  # all but the element whose gradient is 0
    assert not moved[0, 0]


def test_each_player_follows_its_own_loss():
    vae, objective = model(), TwoPlayers()
    players = {player.name: player for player in make_players(objective, vae, options(lr=0.1, lr_secondary=0.2))}
    assert (players["model"].lr, players["critic"].lr) == (0.1, 0.2)
    shared = next(vae.parameters())
    critic = objective.critic[0].weight
    losses = {"model": (3 * shared).sum() + (5 * critic).sum(), "critic": (7 * shared).sum() + (2 * critic).sum()}
    of_model = players["model"].gradients(losses["model"], retain_graph=True)
    of_critic = players["critic"].gradients(losses["critic"], retain_graph=False)
    assert of_model[0] is not None
    assert of_critic[0] is not None
    assert (of_model[0] == 3).all()
    assert (of_critic[0] == 2).all()
    assert of_model[1] is None


def test_gradients_of_what_is_not_in_the_loss_can_be_zeros():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    found = Player("model", [a, b], options()).gradients(a.sum(), retain_graph=False, fill=True)
    assert [g.tolist() for g in found if g is not None] == [[1, 1], [0, 0, 0]]


def test_the_state_is_restored_bit_for_bit():
    torch.manual_seed(1)
    first = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    player = Player("model", list(first.parameters()), options())
    for _ in range(3):
        loss = first(torch.randn(4, 2, 4, 4)).square().sum()
        player.step(loss, player.gradients(loss, retain_graph=False), 1.0)
    again = Player("model", list(first.parameters()), options())
    again.restore(player.state())
    for p in first.parameters():
        for name, value in player.optimiser.state[p].items():
            assert torch.equal(again.optimiser.state[p][name], value)


def test_a_parameter_of_two_players_is_refused():
    class Greedy(Objective):
        def players(self, model):
            return {"model": list(model.parameters()), "other": [next(model.parameters())]}

    with pytest.raises(SettingsError, match="Greedy: players 'model' and 'other' share"):
        make_players(Greedy(), model(), options())


def test_nothing_to_train_is_refused():
    with pytest.raises(SettingsError, match="no player has a parameter"):
        make_players(Objective(), model().requires_grad_(False), options())
