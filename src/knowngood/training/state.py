"""Everything a run must remember to go on with the same bits, and its checkpoint on disk.

That is one safetensors file whose header carries a JSON state, replaced atomically.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from knowngood.config import TrainingOptions
from knowngood.errors import ArtifactError, SettingsError
from knowngood.files import explained, whole
from knowngood.models.objectives.base import Objective
from knowngood.training.engine import Engine
from knowngood.training.optimisers import Average, Best, make_players

NAME = "checkpoint.safetensors"
VERSION = 1
_ANEW = "remove it to start the run anew"
COUNTERS = ("step", "images_seen", "timed_images", "seconds", "stopped_early")
FREE = {
    "workers",
    "memory_gb",
    "devices",
    "nodes",
}  # options that do not change what is learned: a run may be resumed with others


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

    def save(self, folder: Path, identity: dict[str, Any], rows: int, finished: bool, unlogged: list[Any]) -> None:
        """Write a checkpoint; every process takes part, the first one writes. unlogged: what the meter holds."""
        tensors = self._kept()
        for player in self.players:
            tensors |= {f"optimiser/{player.name}/{name}": t for name, t in player.state().items()}
        best = None if self.best is None else {name: getattr(self.best, name) for name in ("value", "step", "since")}
        tensors |= {f"random/{name}": self.engine.gathered(t) for name, t in self._random().items()}
        if self.engine.leads:
            about = {"best": best, "rows": rows, "finished": finished, "identity": identity, "unlogged": unlogged}
            about["processes"] = self.engine.processes
            write_checkpoint(folder, tensors, {**{name: getattr(self, name) for name in COUNTERS}, **about})
        self.engine.barrier()

    def load(self, folder: Path, identity: dict[str, Any]) -> tuple[int, list[Any]]:
        """Go on from the checkpoint in `folder`, if there is one; returns how many logged rows belong to it, and what
        the meter held.

        With another number of processes a step is another number of batches: the run goes on after the batches that
        were seen, of which some less than a step may be seen again. Processes that are new draw noise of their own.

        Raises SettingsError: the checkpoint is of a run with other settings, data or seed.
        """
        found = read_checkpoint(folder)
        if found is None:
            return 0, []
        tensors, state = found
        before = state["identity"]
        for name in dict.fromkeys((*before, *identity)):
            if before.get(name) != identity.get(name):
                raise SettingsError(
                    f"{folder} holds a run with {name} = {before.get(name)}, this one has {identity.get(name)}; "
                    "resume with the same, or take another run_dir"
                )
        if self.best is not None:
            vars(self.best).update(state["best"])
        with torch.no_grad():
            for name, target in self._kept().items():
                target.copy_(tensors[name])
        for player in self.players:
            prefix = f"optimiser/{player.name}/"
            player.restore({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        drawn = {name: tensors[f"random/{name}"] for name in self._random()}
        if all(self.engine.rank < len(states) for states in drawn.values()):
            self._set_random({name: states[self.engine.rank].clone() for name, states in drawn.items()})
        for name in COUNTERS:
            setattr(self, name, state[name])
        processes = state.get("processes", self.engine.processes)
        if processes != self.engine.processes:
            self.step = self.step * processes // self.engine.processes
            if self.best is not None and self.best.step:
                self.best.step = max(1, self.best.step * processes // self.engine.processes)
            return state["rows"], []
        return state["rows"], state.get("unlogged", [])

    def _kept(self) -> dict[str, Tensor]:
        """Weights, averages and best weights, by their names in a checkpoint."""
        kept = dict(self.named)
        if self.average is not None:
            kept |= {f"average/{i}": t for i, t in enumerate(self.average.values)}
        if self.best is not None and self.best.step:
            kept |= {f"best/{i}": t for i, t in enumerate(self.best.kept)}
        return kept

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


def write_checkpoint(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write both so that `folder` holds the previous checkpoint or this one, whole, whenever the process dies."""
    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    text = json.dumps({"version": VERSION, "tensors": _digest(contiguous), **state})
    metadata = {"state": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    with whole(folder / NAME) as draft, explained(folder / NAME):
        try:
            save_file(contiguous, draft, metadata=metadata)
        except SafetensorError as error:  # so it calls what the operating system refuses
            raise OSError(str(error)) from error


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors on the CPU and the state, or None if there is no checkpoint.

    Raises ArtifactError: the file is damaged or was written by a newer version.
    """
    path = folder / NAME
    if not path.exists():
        return None
    state = read_state(folder)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if _digest(tensors) != state.pop("tensors"):
        raise ArtifactError(f"{path} is not a whole checkpoint (its tensors were changed); {_ANEW}")
    return tensors, state


def read_state(folder: Path) -> dict[str, Any]:
    """The JSON state alone. Raises ArtifactError as `read_checkpoint` does."""
    path = folder / NAME
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
            state = json.loads(found["state"])
            version = state["version"]
    except Exception as error:  # whatever a damaged file leads to
        raise ArtifactError(f"{path} is not a whole checkpoint ({error}); {_ANEW}") from None
    if isinstance(version, int) and version > VERSION:
        raise ArtifactError(f"{path} has version {version}, this knowngood reads up to {VERSION}; update it")
    if hashlib.sha256(found["state"].encode("utf-8", "replace")).hexdigest() != found.get("sha256"):
        raise ArtifactError(f"{path} is not a whole checkpoint (its state was changed); {_ANEW}")
    return state


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, t in sorted(tensors.items()):
        digest.update(f"{name} {t.dtype} {list(t.shape)}\n".encode("utf-8", "replace"))
        digest.update(t.reshape(-1).clone(memory_format=torch.contiguous_format).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def refuse_to_overwrite(folder: Path, resume: bool) -> None:
    """Raise SettingsError if a run that starts anew in `folder` would replace an unfinished one."""
    if resume or not (folder / NAME).exists():
        return
    state = read_state(folder)
    if not state["finished"]:
        raise SettingsError(
            f"run_dir {folder} holds an unfinished run, at step {state['step']}; pass resume=True to go on with it, "
            "or remove the folder"
        )
