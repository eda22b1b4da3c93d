"""The loop: it learns, stops, goes on after an interruption, and ends with the same bits."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from knowngood.config import VAE, TrainingOptions
from knowngood.errors import SettingsError, TrainingError
from knowngood.models.objectives import Objective
from knowngood.training import train
from knowngood.training.engine import make_engine
from knowngood.training.evaluation import HeldOut
from knowngood.training.loop import default_epochs
from training_helpers import Overfits, TwoPlayers, model, options, same_bits, source, trained, weights


def column(history, name: str, split: str = "train") -> list[float]:
    return [row[name] for row in history.steps if row["split"] == split]


# Learning -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_loss_falls_and_the_history_records_it():
    _, history = trained(held_out=source(40, seed=1), options=options(epochs=60, lr=5e-3))
    losses = column(history, "loss/model")
    assert losses[-1] < losses[0] - 50
    assert column(history, "loss/model", "held_out")[-1] < losses[0] - 50
    steps = 60 * 4
    assert history.steps[-1]["step"] == history.best_step == steps
    assert history.images_seen == steps * 32
    assert history.images_per_second == pytest.approx((steps - 1) * 32 / history.seconds)
    assert not history.stopped_early
    row = history.steps[0]
    assert row["step"] == 1
    assert row["loss/model"] == pytest.approx(row["reconstruction"] + row["kl"], rel=1e-5)
    assert row["gradient_norm/model"] > 0
    assert [r["epoch"] for r in history.steps][-1] == 60


@pytest.mark.slow
def test_rows_are_means_over_the_steps_between_them():
    """100 steps and more a row: the row of one long interval is the mean of the rows of its steps."""
    every, _ = zip(*[(r["loss/model"], 0) for r in trained(options=options(epochs=2))[1].steps], strict=True)
    assert len(every) == 8  # few steps: each has its row
    long = options(epochs=60)  # 240 steps, a row every 2
    rows = trained(options=long)[1].steps
    assert [row["step"] for row in rows][:4] == [1, 2, 4, 6]


@pytest.mark.slow
def test_same_seed_same_bits_other_seed_other_bits():
    first, _ = trained(seed=1)
    again, _ = trained(seed=1)
    other, _ = trained(seed=2)
    assert same_bits(first, again)
    assert not same_bits(first, other)


@pytest.mark.slow
def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    trained(TwoPlayers())
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)
    assert same_bits(trained(TwoPlayers())[0], trained(TwoPlayers())[0])  # and does not matter


@pytest.mark.slow
def test_the_model_holds_the_average():
    averaged, _ = trained(options=options(ema=0.5, schedule="constant"))
    last, _ = trained(options=options(ema=None, schedule="constant"))
    assert not same_bits(averaged, last)


def test_the_default_number_of_epochs_aims_at_4000_steps():
    assert [default_epochs(n) for n in (1, 13, 40, 400, 5000)] == [300, 300, 100, 10, 10]
    assert [default_epochs(n, 1300) for n in (1, 4.5, 13, 5000)] == [300, 289, 100, 10]


@pytest.mark.slow
def test_two_players_train_side_by_side():
    both, history = trained(TwoPlayers(), options=options(epochs=40, lr=3e-3, lr_secondary=1e-2))
    assert column(history, "loss/model")[-1] < column(history, "loss/model")[0]
    critic = column(history, "loss/critic")
    assert sum(critic[-20:]) / 20 < 0.5 * critic[0]
    assert set(history.objective_state) == set(TwoPlayers().state_dict())
    assert all(torch.equal(both[f"objective.{name}"], t) for name, t in history.objective_state.items())


def test_a_player_without_a_loss_is_named():
    class Forgetful(TwoPlayers):
        def loss(self, model, batch, ctx):
            losses, terms = super().loss(model, batch, ctx)
            return {"model": losses["model"]}, terms

    with pytest.raises(TrainingError, match="Forgetful: no loss for player 'critic'; losses: model"):
        trained(Forgetful())


def test_convolutions_end_in_the_contiguous_layout():
    vae = model({"name": "conv", "channels": (8, 8), "dense": 16})
    trained(model=vae, options=options(epochs=1))
    assert all(p.is_contiguous() for p in vae.parameters())
    assert not vae.training


@pytest.mark.slow
@pytest.mark.parametrize("net", [{"name": "mlp", "hidden": [32]}, {"name": "conv", "channels": (4, 4), "dense": 8}])
def test_bf16_gives_the_same_objective_within_half_a_percent(net):
    """Of the same weights, and of weights trained by it; these stay float32."""
    exact = options(epochs=15, lr=5e-3)
    half = exact.model_copy(update={"precision": "bf16"})
    kept, values = None, []
    for trained_in, seen_in in ((exact, exact), (exact, half), (half, exact)):
        vae = model(net, likelihood="bernoulli")
        trained(model=vae, options=trained_in)
        assert all(p.dtype == torch.float32 for p in vae.parameters())
        held = HeldOut(VAE().build(), source(100, seed=3), 100, 0, make_engine(seen_in, "cpu"))
        values.append(held.evaluate(vae, 1, torch.contiguous_format)["loss/model"])
        kept = kept or values[0]
        assert values[-1] == pytest.approx(kept, rel=0.005)
    assert len(set(values)) == 3  # bf16 was used


# Held-out normals ---------------------------------------------------------------------------------------------------


def test_the_best_weights_are_kept_and_training_stops():
    chosen = options(epochs=50, lr=0.05, patience=4, schedule="constant", warmup=0)
    vae = model()
    _, history = trained(Overfits(VAE()), model=vae, held_out=source(20), options=chosen)
    held = {row["step"]: row["loss/model"] for row in history.steps if row["split"] == "held_out"}
    assert history.stopped_early
    assert history.best_step == min(held, key=lambda step: held[step])
    assert history.steps[-1]["step"] < 200
    assert len([step for step in held if step > history.best_step]) == 4
    weight = float(next(vae.parameters()).detach().flatten()[0])
    assert (weight - 1) ** 2 == pytest.approx(held[history.best_step])


@pytest.mark.slow
def test_without_patience_the_last_weights_are_kept():
    chosen = options(epochs=50, lr=0.05, schedule="constant", warmup=0, patience=None)
    vae = model()
    _, history = trained(Overfits(VAE()), model=vae, held_out=source(20), options=chosen)
    assert not history.stopped_early
    assert history.best_step == 200
    assert float(next(vae.parameters()).detach().flatten()[0]) > 3


def test_an_evaluation_is_the_same_twice_and_leaves_no_trace():
    vae, objective, engine = model(), VAE().build(), make_engine(options(), "cpu")
    held, before = HeldOut(objective, source(50), 16, 0, engine), weights(vae)
    first = held.evaluate(vae, 10, torch.contiguous_format)
    assert first == held.evaluate(vae, 10, torch.contiguous_format)
    assert vae.training
    assert same_bits(before, weights(vae))
    assert first["loss/model"] == pytest.approx(first["reconstruction"] + first["kl"], rel=1e-5)


@pytest.mark.slow
def test_evaluations_do_not_change_training():
    assert same_bits(trained()[0], trained(held_out=source(30, seed=4))[0])


def test_evaluations_see_the_averaged_weights():
    chosen = options(epochs=3, ema=0.9)
    vae = model()
    _, history = trained(model=vae, held_out=source(30, seed=4), options=chosen)
    held = HeldOut(VAE().build(), source(30, seed=4), 32, 1, make_engine(chosen, "cpu"))
    vae.train()
    last = held.evaluate(vae, 12, torch.contiguous_format)
    assert history.steps[-1]["loss/model"] == pytest.approx(last["loss/model"], rel=1e-6)


# Settings -----------------------------------------------------------------------------------------------------------


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    make_engine.__globals__["_engine"].cache_clear()
    with pytest.raises(SettingsError, match="device = 'gpu': this machine has none"):
        trained(device="gpu")


def test_several_processes_without_their_extra_are_refused_by_its_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)  # as if it were not installed
    with pytest.raises(SettingsError, match=r"devices = 3, nodes = 1.*pip install 'knowngood\[distributed\]'"):
        make_engine(TrainingOptions(devices=3), "cpu")


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "")
    with pytest.raises(SettingsError, match=r"needs a C\+\+ compiler"):
        trained(options=options(compile=True))


def test_compiling_wraps_encoder_and_decoder_for_the_run_only(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda f: compiled.append(f.__name__) or f)
    monkeypatch.setattr("shutil.which", lambda name: name)
    vae = model()
    trained(model=vae, options=options(compile=True))
    assert compiled == ["encode", "decode"]
    assert not {"encode", "decode"} & vae.__dict__.keys()


def test_an_objective_sees_the_step_and_the_training_set():
    seen = []

    class Looks(Objective):
        def loss(self, model, batch, ctx):
            if self.training:
                seen.append((ctx.step, ctx.total_steps, ctx.n_items, ctx.stratum_counts.sum().item(), ctx.second))
            loss = sum(p.square().sum() for p in model.parameters())
            assert isinstance(loss, torch.Tensor)
            return {"model": loss}, {}

    train(nn.Linear(2, 2), Looks(), source(70), None, options(epochs=1), seed=0, device="cpu")
    assert seen == [(step, 3, 70, 70, None) for step in range(3)]
