"""Several processes: each player's gradient is the exact mean of theirs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from knowngood.training.state import read_state
from training_helpers import Plain, TwoPlayers, model, options, source, trained

pytestmark = pytest.mark.slow

WORKER = """
    import os, sys
    sys.path.insert(0, sys.argv[2])
    import torch
    from safetensors.torch import save_file
    from training_helpers import Plain, TwoPlayers, model, same_bits, options, source, trained
    from knowngood.models.objectives import Context
    from knowngood.training.engine import make_engine
    from knowngood.training.loop import Run

    child = os.fork()  # both ranks with one import
    os.environ["LOCAL_RANK"] = str(int(child == 0))
    chosen = options(devices=2, epochs=4, patience=50)
    engine = make_engine(chosen, "cpu")
    rank = engine.rank
    torch.manual_seed(rank)
    run = Run(model(seed=rank), TwoPlayers(), source(100), chosen, engine, 0)
    run.model.eval(), run.objective.eval()
    losses = {"model": 0, "critic": 0}
    batch, second = next(iter(run.batches()))
    facts = run.source.facts
    ctx = Context(0, 1, run.state.noise, 100, facts.stratum_counts, second)
    losses, _ = run.objective.loss(run.model, batch, ctx)
    own = [p.gradients(losses[p.name], retain_graph=True, fill=True) for p in run.state.players]
    mean = run.gradients(losses)
    tensors = {"index": batch.index}
    for player, alone in zip(run.state.players, own):
        for i, (a, b) in enumerate(zip(alone, mean[player.name])):
            tensors[f"own/{player.name}/{i}"], tensors[f"mean/{player.name}/{i}"] = a.clone(), b.contiguous()

    both, history = trained(TwoPlayers(), options=chosen, data=source(100), held_out=source(30, seed=1),
                            model=model(seed=rank), run_dir=sys.argv[1] + "/run")
    def stop(done):
        if done == 7:
            raise KeyboardInterrupt
    again = {"options": chosen, "data": source(100), "held_out": source(30, seed=1), "run_dir": sys.argv[1] + "/stop"}
    try:
        trained(TwoPlayers(), model=model(), on_step=stop, **again)
    except KeyboardInterrupt:
        pass
    resumed, _ = trained(TwoPlayers(), model=model(), resume=True, **again)
    tensors["resumed alike"] = torch.tensor(same_bits(both, resumed))
    tensors |= {f"weights/{name}": t for name, t in both.items()}

    plain = Run(model(), Plain(), source(100), chosen, engine, 0)
    batch, _ = next(iter(plain.batches()))
    losses, _ = plain.objective.loss(plain.model, batch, None)
    tensors |= {f"joined/{i}": g.contiguous() for i, g in enumerate(plain.gradients(losses)["model"])}
    tensors["joined index"] = batch.index

    here = {**again, "run_dir": sys.argv[1] + "/two"}
    try:
        trained(TwoPlayers(), model=model(), on_step=stop, **here)
    except KeyboardInterrupt:
        pass
    more, _ = trained(TwoPlayers(), model=model(), resume=True, **{**again, "run_dir": sys.argv[1] + "/one"})
    tensors |= {f"more/{name}": t for name, t in more.items()}
    save_file(tensors, f"{sys.argv[1]}/{rank}.safetensors")
    if child:
        assert os.waitpid(child, 0)[1] == 0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(folder) -> list[dict[str, torch.Tensor]]:
    """What two gloo processes on the CPU saw."""
    one = {"options": options(epochs=4, patience=50), "data": source(100), "held_out": source(30, seed=1)}

    def stop(done: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(TwoPlayers(), model=model(), on_step=stop, run_dir=folder / "one", **one)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    command = [sys.executable, "-c", textwrap.dedent(WORKER), str(folder), str(Path(__file__).parents[1])]
    done = subprocess.run(
        command, env={**os.environ, **shared, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return [load_file(folder / f"{rank}.safetensors") for rank in (0, 1)]


def test_processes_see_different_items(ranks):
    assert not set(ranks[0]["index"].tolist()) & set(ranks[1]["index"].tolist())


@pytest.mark.parametrize("player", ["model", "critic"])
def test_the_gradient_is_the_mean_of_the_processes(ranks, player):
    names = [name.removeprefix("own/") for name in ranks[0] if name.startswith(f"own/{player}/")]
    assert len(names) > 3
    for name in names:
        mean = (ranks[0][f"own/{name}"] + ranks[1][f"own/{name}"]) / 2
        assert torch.equal(ranks[0][f"mean/{name}"], mean)
        assert torch.equal(ranks[1][f"mean/{name}"], mean)
    assert any((ranks[0][f"own/{name}"] != ranks[1][f"own/{name}"]).any() for name in names)


def test_processes_end_with_the_same_weights(ranks):
    """Although they start from different ones, and see different items."""
    names = [name for name in ranks[0] if name.startswith("weights/")]
    assert names
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in names)


def test_a_run_of_two_processes_resumes_with_the_same_bits(ranks):
    assert all(rank["resumed alike"] for rank in ranks)


def test_the_gradient_is_that_of_one_process_on_the_joined_batch(ranks):
    trainee, objective, data = model(), Plain(), source(100)
    batch = data.batch(torch.cat([rank["joined index"] for rank in ranks]))
    losses, _ = objective.loss(trainee, batch, None)
    alone = torch.autograd.grad(losses["model"], list(trainee.parameters()), allow_unused=True)
    compared = 0
    for i, gradient in enumerate(alone):
        for rank in ranks:
            if gradient is not None:
                torch.testing.assert_close(rank[f"joined/{i}"], gradient, rtol=0, atol=1e-6)
                compared += 1
    assert compared > 4


def test_a_run_of_one_process_goes_on_in_two(ranks):
    names = [name for name in ranks[0] if name.startswith("more/")]
    assert names
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in names)


def test_a_run_of_two_processes_goes_on_in_one(ranks, folder):
    before = read_state(folder / "two")
    assert before["processes"] == 2
    one = {"options": options(epochs=4, patience=50), "data": source(100), "held_out": source(30, seed=1)}
    _, history = trained(TwoPlayers(), model=model(), resume=True, run_dir=folder / "two", **one)
    after = read_state(folder / "two")
    assert after["processes"] == 1
    assert after["step"] == after["finished"] * 16  # 4 epochs of 4 batches, of which two were seen at a time
    steps = [row["step"] for row in history.steps if row["step"] > 2 * before["step"]]
    assert steps[0] > 2 * before["step"]
