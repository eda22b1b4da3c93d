"""Everything a run must remember to go on with the same bits, and its way to and from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from knowngood.config import TrainingOptions
from knowngood.errors import SettingsError
from knowngood.models.objectives.base import Objective
from knowngood.training.checkpoint import put_into, read_checkpoint, write_checkpoint
from knowngood.training.ema import Average, Best
from knowngood.training.engine import Engine
from knowngood.training.optimisers import make_players

FREE = {"workers", "memory_gb"}  # options that do not change what is learned: a run may be resumed with others


class RunState:
    """Weights, averages, optimisers, generators and counters of one run."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        options: TrainingOptions,
        engine: Engine,
        seed: int,
        keep_best: bool,
    ) -> None:
        self.engine = engine
        self.players = make_players(objective, model, options)
        self.named = {
            f"{owner}/{name}": t
            for owner, module in (("model", model), ("objective", objective))
            for name, t in (*module.named_parameters(), *module.named_buffers())
        }
        engine.from_first_([t.detach() for t in self.named.values()])
        self.buffers = [t for t in (*model.buffers(), *objective.buffers()) if t.is_floating_point()]
        main = [p for player in self.players if player.name == "model" for p in player.parameters]
        averaged = dict.fromkeys([*model.parameters(), *main])
        self.average = Average([p for p in averaged if p.requires_grad], options.ema) if options.ema else None
        self.best = Best(list(self.named.values())) if keep_best else None
        self.noise = torch.Generator(engine.device).manual_seed(seed + engine.rank)
        self.step = 0
        self.images_seen = 0
        self.timed_images = 0
        self.seconds = 0.0
        self.stopped_early = False

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the model has the averaged weights."""
        if self.average is not None:
            self.average.swap()
        yield
        if self.average is not None:
            self.average.swap()

    def align_buffers(self) -> None:
        """Make buffers such as batch-norm statistics, which each process gathers by itself, the same everywhere."""
        self.engine.mean_(self.buffers)

    def counters(self) -> dict[str, Any]:
        names = ("step", "images_seen", "timed_images", "seconds", "stopped_early")
        return {name: getattr(self, name) for name in names}

    def save(self, folder: Path, identity: dict[str, Any], rows: int, finished: bool) -> None:
        """Write a checkpoint; every process takes part, the first one writes."""
        tensors = dict(self.named)
        for player in self.players:
            tensors |= {f"optimiser/{player.name}/{name}": t for name, t in player.state().items()}
        if self.average is not None:
            tensors |= {f"average/{i}": t for i, t in enumerate(self.average.values)}
        best = None
        if self.best is not None:
            best = {"value": self.best.value, "step": self.best.step, "since": self.best.since}
            if self.best.step:
                tensors |= {f"best/{i}": t for i, t in enumerate(self.best.kept)}
        tensors |= {f"random/{name}": self.engine.gathered(t) for name, t in self._random().items()}
        if self.engine.leads:
            about = {"best": best, "rows": rows, "finished": finished, "identity": identity}
            write_checkpoint(folder, tensors, {**self.counters(), **about})
        self.engine.fabric.barrier()

    def load(self, folder: Path, identity: dict[str, Any]) -> int:
        """Go on from the checkpoint in `folder`, if there is one; returns the logged rows that belong to it.

        Raises:
            SettingsError: the checkpoint is of a run with other settings, data or seed.
        """
        found = read_checkpoint(folder)
        if found is None:
            return 0
        tensors, state = found
        _check_same_run(folder, state["identity"], identity)
        put_into(self.named, tensors, "")
        for player in self.players:
            prefix = f"optimiser/{player.name}/"
            player.restore({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        if self.average is not None:
            put_into({str(i): t for i, t in enumerate(self.average.values)}, tensors, "average/")
        if self.best is not None:
            self.best.value, self.best.step, self.best.since = (state["best"][k] for k in ("value", "step", "since"))
            if self.best.step:
                put_into({str(i): t for i, t in enumerate(self.best.kept)}, tensors, "best/")
        self._set_random({name: tensors[f"random/{name}"][self.engine.rank].clone() for name in self._random()})
        for name in self.counters():
            setattr(self, name, state[name])
        return state["rows"]

    def _random(self) -> dict[str, Tensor]:
        states = {"noise": self.noise.get_state(), "cpu": torch.get_rng_state()}
        for device in self.engine.cuda_devices:
            states["cuda"] = torch.cuda.get_rng_state(device)
        return states

    def _set_random(self, states: dict[str, Tensor]) -> None:
        self.noise.set_state(states["noise"])
        torch.set_rng_state(states["cpu"])
        for device in self.engine.cuda_devices:
            torch.cuda.set_rng_state(states["cuda"], device)

    def finish(self) -> None:
        """Leave the weights that are kept in the model: the best if evaluations chose, else the averaged ones."""
        if self.average is not None:
            self.average.swap()
        if self.best is not None:
            self.best.put_back()


def identity_of(
    options: TrainingOptions,
    settings: Mapping[str, Any],
    engine: Engine,
    seed: int,
    items: int,
    fingerprint: str | None,
) -> dict[str, Any]:
    """What must agree between a checkpoint and the run that resumes it."""
    shaping = {**settings, **options.model_dump(mode="json", exclude=FREE)}
    where = {"device": engine.device.type, "bf16": engine.bf16}
    return {**shaping, **where, "seed": seed, "training items": items, "data fingerprint": fingerprint}


def _check_same_run(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for name in dict.fromkeys((*before, *now)):
        if before.get(name) != now.get(name):
            raise SettingsError(
                f"{folder} holds a run with {name} = {before.get(name)}, this one has {now.get(name)}; "
                "resume with the same, or take another run_dir"
            )
