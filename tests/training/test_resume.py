"""Interrupted, killed, finished and broken runs: what is kept, and that going on gives the same bits."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from knowngood.config import DCVAE, VAE, TrainingOptions
from knowngood.errors import Interrupted, SettingsError, TrainingError
from knowngood.training.log import read_log
from knowngood.training.state import read_checkpoint, read_state
from training_helpers import Overfits, TwoPlayers, options, same_bits, source, trained


class Stop(Exception):
    pass


def stop_at(step: int):
    def on_step(done: int) -> None:
        if done == step:
            raise Stop

    return on_step


# Interruptions ------------------------------------------------------------------------------------------------------


def setups():
    chosen = options(epochs=12, patience=100)
    conv = {"name": "conv", "channels": (4, 4), "dense": 8}
    half = options(epochs=12, batch_size=64, precision="bf16")
    return {
        "vae": lambda: {"options": chosen, "held_out": source(30, seed=2)},
        "no average": lambda: {"options": options(epochs=12, ema=None)},
        "players, dropout, batch norm": lambda: {"options": chosen, "objective": TwoPlayers(), "held_out": source(30)},
        "strata": lambda: {"options": options(epochs=12), "objective": DCVAE().build()},
        "conv in bf16": lambda: {"options": half, "net": conv},
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", setups())
def test_an_interrupted_run_ends_with_the_same_bits(name, tmp_path):
    make = setups()[name]
    whole, history = trained(**make(), run_dir=tmp_path / "whole")
    assert same_bits(whole, trained(**make())[0])  # a run_dir does not matter
    folder = tmp_path / "interrupted"
    for resume, step in enumerate((5, 6, 23)):  # checkpoints are at multiples of 3 or 2
        with pytest.raises(Stop):
            trained(**make(), run_dir=folder, resume=bool(resume), on_step=stop_at(step))
    again, resumed = trained(**make(), run_dir=folder, resume=True)
    assert same_bits(whole, again)
    comparable = [{k: v for k, v in row.items() if k != "images_per_s"} for row in history.steps]
    assert [{k: v for k, v in row.items() if k != "images_per_s"} for row in resumed.steps] == comparable
    assert (resumed.best_step, resumed.images_seen) == (history.best_step, history.images_seen)
    assert read_log(folder / "log.csv") == resumed.steps


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 5])  # losses are logged every second step
def test_a_signal_ends_a_run_after_its_step_and_it_goes_on_with_the_same_bits(step, tmp_path):
    def ends(number, frame):
        raise Interrupted(number)

    def make():
        return {"options": options(epochs=120, batch_size=64), "objective": TwoPlayers()}

    seen, before = [], signal.signal(signal.SIGTERM, ends)

    def on_step(done):
        seen.append(done)
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        whole, history = trained(**make())
        with pytest.raises(Interrupted) as ended:
            trained(**make(), run_dir=tmp_path, on_step=on_step)
        assert signal.getsignal(signal.SIGTERM) is ends
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (ended.value.exit_code, seen[-1], read_state(tmp_path)["step"]) == (143, step, step)
    again, resumed = trained(**make(), run_dir=tmp_path, resume=True)
    assert same_bits(whole, again)
    rows = [[{k: v for k, v in row.items() if k != "images_per_s"} for row in one.steps] for one in (history, resumed)]
    assert rows[0] == rows[1]
    assert resumed.images_seen == history.images_seen


def test_ctrl_c_ends_a_run_after_its_step(tmp_path):
    def on_step(done):
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trained(options=options(epochs=3), run_dir=tmp_path, on_step=on_step)
    assert read_state(tmp_path)["step"] == 2


KILLED = """
    import os, sys
    sys.path.insert(0, sys.argv[2])
    from knowngood.training.engine import make_engine
    from training_helpers import options, source, trained

    def on_step(done):
        if done == int(sys.argv[3]):
            os.kill(os.getpid(), 9)

    if __name__ == "__main__":
        make_engine(options(), "cpu")  # imported once, before the children
        for resume, step in enumerate(map(int, sys.argv[3:])):
            child = os.fork()
            if child == 0:
                sys.argv[3] = str(step)
                chosen = options(epochs=20, patience=50)
                trained(options=chosen, held_out=source(30, seed=2), run_dir=sys.argv[1], resume=bool(resume),
                        on_step=on_step)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 9
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_with_signal_9_ends_with_the_same_bits(tmp_path):
    """Killed before the first checkpoint, between two, and right after one (they are written every 4 of 80 steps)."""
    folder = tmp_path / "run"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(folder), str(Path(__file__).parents[1])]
    subprocess.run([*command, "3", "29", "32", "78"], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found = read_checkpoint(folder)
    assert found is not None
    assert found[1]["step"] == 76
    chosen = options(epochs=20, patience=50)
    whole, _ = trained(options=chosen, held_out=source(30, seed=2))
    again, history = trained(options=chosen, held_out=source(30, seed=2), run_dir=folder, resume=True)
    assert same_bits(whole, again)
    steps = [row["step"] for row in history.steps if row["split"] == "train"]
    assert steps == list(range(1, 81))


@pytest.mark.slow
def test_a_finished_run_is_given_back(tmp_path):
    chosen = options(epochs=50, lr=0.05, patience=4, schedule="constant", warmup=0)
    arguments = {"held_out": source(20), "options": chosen, "run_dir": tmp_path}
    first, history = trained(Overfits(VAE()), **arguments)
    seen = []
    again, repeated = trained(Overfits(VAE()), **arguments, resume=True, on_step=seen.append)
    assert same_bits(first, again)
    assert seen == []
    assert repeated.stopped_early
    assert repeated.steps == history.steps
    assert repeated.images_per_second == history.images_per_second


@pytest.mark.slow
def test_resuming_nothing_starts_from_the_beginning(tmp_path):
    assert same_bits(trained()[0], trained(run_dir=tmp_path, resume=True)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": options(lr=0.5)}, r"with lr = 0.001, this one has 0.5"),
        ({"seed": 5}, "with seed = 1, this one has 5"),
        ({"data": source(99)}, "with training items = 100, this one has 99"),
        ({"fingerprint": "b"}, "with data fingerprint = a, this one has b"),
        ({"settings": {"score": "kl"}}, "with score = elbo, this one has kl"),
    ],
)
def test_another_run_is_not_resumed(tmp_path, change, message):
    with pytest.raises(Stop):
        trained(run_dir=tmp_path, fingerprint="a", settings={"score": "elbo"}, on_step=stop_at(9))
    same = {"run_dir": tmp_path, "resume": True, "fingerprint": "a", "settings": {"score": "elbo"}}
    with pytest.raises(SettingsError, match=message):
        trained(**{**same, **change})


@pytest.mark.slow
def test_options_that_shape_nothing_may_change_on_resume(tmp_path):
    assert TrainingOptions.model_fields.keys() >= {"workers", "memory_gb"}
    with pytest.raises(Stop):
        trained(run_dir=tmp_path, on_step=stop_at(9))
    resumed, _ = trained(options=options(workers=5, memory_gb=0.1), run_dir=tmp_path, resume=True)
    assert same_bits(trained()[0], resumed)


@pytest.mark.slow
def test_an_unfinished_run_is_not_overwritten(tmp_path):
    with pytest.raises(Stop):
        trained(run_dir=tmp_path, on_step=stop_at(9))
    with pytest.raises(SettingsError, match="unfinished run, at step 8; pass resume=True"):
        trained(run_dir=tmp_path)
    trained(run_dir=tmp_path, resume=True)
    trained(run_dir=tmp_path)  # a finished one may be


@pytest.mark.slow
def test_a_run_records_itself(tmp_path):
    trained(run_dir=tmp_path / "new" / "folder", fingerprint="abc", settings={"model": "vae"})
    record = json.loads((tmp_path / "new" / "folder" / "run.json").read_text())
    assert (record["seed"], record["data_fingerprint"], record["total_steps"]) == (1, "abc", 24)
    assert record["training"]["batch_size"] == 32
    assert record["settings"] == {"model": "vae"}
    assert record["precision"] == "float32"


# What is not finite -------------------------------------------------------------------------------------------------


class Breaks(TwoPlayers):
    """From step 15 on (counted from 1) one value is not finite."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def loss(self, model, batch, ctx):
        losses, terms = super().loss(model, batch, ctx)
        if ctx.step < 14 or (self.where == "held_out") == self.training:
            return losses, terms
        if self.where == "critic":
            losses["critic"] = losses["critic"] * math.inf
        elif self.where == "gradient":  # the loss stays finite, its gradient does not
            zero = next(model.parameters()).flatten()[0] * 0
            losses["model"] = losses["model"] + zero.sqrt()
        else:
            terms["kl"] = terms["kl"].log() * math.nan
            losses["model"] = losses["model"] + terms["kl"].mean()
        return losses, terms


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("kl", r"step 15, player 'model': 'kl' = nan is not finite.*checkpoint of step 14"),
        ("critic", r"step 15, player 'critic': 'loss/critic' = inf.*checkpoint of step 14"),
        ("gradient", r"step 15, player 'model': 'gradient_norm/model' = nan.*checkpoint of step 14"),
        ("held_out", r"held-out normals after step 4, player 'model': 'kl' = nan.*No checkpoint|checkpoint of step"),
    ],
)
def test_what_is_not_finite_stops_the_run(tmp_path, where, message):
    arguments = {"run_dir": tmp_path, "options": options(epochs=10), "held_out": source(20)}
    with pytest.raises(TrainingError, match=message):
        trained(Breaks(where), **arguments)
    found = read_checkpoint(tmp_path)
    if where == "held_out":
        return
    assert found is not None
    assert all(t.isfinite().all() for t in found[0].values())
    mended, _ = trained(TwoPlayers(), **arguments, resume=True)
    assert same_bits(mended, trained(TwoPlayers(), options=options(epochs=10), held_out=source(20))[0])


@pytest.mark.slow
def test_without_a_run_dir_the_error_says_that_nothing_is_kept():
    with pytest.raises(TrainingError, match="No checkpoint was written; give a run_dir"):
        trained(Breaks("kl"))


# Memory -------------------------------------------------------------------------------------------------------------


class Hungry(TwoPlayers):
    """Runs out of memory with more than so many items in a batch."""

    most: int

    def training_loss(self, model, batch, ctx):
        if len(batch.x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().training_loss(model, batch, ctx)


def hungry(most):
    objective = Hungry()
    objective.most = most
    return objective


@pytest.mark.slow
def test_out_of_memory_halves_the_batch_size_once(tmp_path):
    with pytest.warns(UserWarning, match="out of memory at batch_size = 32: training starts again at batch_size = 16"):
        halved, _ = trained(hungry(16), options=options(epochs=2), run_dir=tmp_path)
    assert same_bits(halved, trained(TwoPlayers(), options=options(epochs=2, batch_size=16))[0])


def test_out_of_memory_twice_names_the_setting(tmp_path):
    with (
        pytest.warns(UserWarning, match="batch_size = 16"),
        pytest.raises(TrainingError, match=r"out of memory at batch_size = 16; give a smaller batch_size"),
    ):
        trained(hungry(8), options=options(epochs=2), run_dir=tmp_path)


def test_a_resumed_run_that_is_out_of_memory_keeps_its_checkpoint(tmp_path):
    with pytest.raises(Stop):
        trained(hungry(32), options=options(epochs=6), run_dir=tmp_path, on_step=stop_at(4))
    kept = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(TrainingError, match="out of memory at batch_size = 32"):
        trained(hungry(8), options=options(epochs=6), run_dir=tmp_path, resume=True)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == kept
