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

pytestmark = pytest.mark.slow

WORKER = """
    import os, sys
    sys.path.insert(0, sys.argv[2])
    import torch
    from safetensors.torch import save_file
    from training_helpers import TwoPlayers, model, same_bits, options, source, trained
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
    save_file(tensors, f"{sys.argv[1]}/{rank}.safetensors")
    if child:
        assert os.waitpid(child, 0)[1] == 0
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, torch.Tensor]]:
    """What two gloo processes on the CPU saw."""
    folder = tmp_path_factory.mktemp("ranks")
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
