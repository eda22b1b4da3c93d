"""The training loop: batches in, gradients by player, weights out. Devices and processes are those of `engine`."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from knowngood.config import TrainingOptions
from knowngood.config.words import for_caller
from knowngood.data.interruption import deferred
from knowngood.errors import TrainingError
from knowngood.files import make_folder
from knowngood.models.base import Batch, BatchSource
from knowngood.models.objectives.base import Context, Objective
from knowngood.training.engine import Engine, compiled, keep_freed_memory, make_engine
from knowngood.training.evaluation import HeldOut, in_layout, make_samplers, paired, step_values
from knowngood.training.log import Line, Meter, Row, RunLog, means, not_finite, write_run
from knowngood.training.memory import out_of_memory
from knowngood.training.optimisers import rate
from knowngood.training.sampler import PlainSampler, Sampler, rows_of, steps_an_epoch
from knowngood.training.state import FREE, NAME, RunState, read_state, refuse_to_overwrite

DEFAULT_STEPS = 4000
EPOCHS = (10, 300)
ANOMALIES_BESIDE = 4  # normals for each labelled anomaly of a step, at least


@dataclass(frozen=True)
class History:
    """What happened in a run.

    `steps` holds rows {step, epoch, split: "train" | "held_out", loss/<player>, terms…}; training rows are means over
    the steps since the row before and also have lr, gradient_norm/<player> (before clipping) and images_per_s.
    """

    steps: list[Row]
    best_step: int  # step whose weights were kept
    seconds: float  # spent in steps, without evaluations and checkpoints
    images_seen: int
    images_per_second: float  # over steps only, without the first one, which warms up
    stopped_early: bool
    objective_state: dict[str, Tensor]  # the objective's own parameters and buffers, after training


def train(
    model: nn.Module,
    objective: Objective,
    source: BatchSource,
    held_out: BatchSource | None,
    options: TrainingOptions,
    *,
    seed: int,
    device: str = "auto",
    run_dir: Path | str | None = None,
    resume: bool = False,
    progress: bool = False,
    anomalies: BatchSource | None = None,
    on_step: Callable[[int], None] | None = None,
    on_evaluation: Callable[[int, nn.Module], None] | None = None,
    fingerprint: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> History:
    """Train `model` (and the objective's own parameters) in place.

    Afterwards the model is in evaluation mode, on the device it was trained on, and holds the averaged weights: those
    of the best evaluation on `held_out` if `options.patience` is set, else the last. The global random state is as
    before; all draws follow from `seed`. The same seed, machine and number of threads give the same bits, with or
    without an interruption in between.

    Args:
        device: "auto", "cpu", "gpu", "cuda" or "mps".
        source: normals to learn from; held_out: normals for evaluations.
        anomalies: labelled ones; each step has some beside its normals, at most a quarter as many. With them training
            does not stop early: the loss of normal items alone does not say which weights are best.
        run_dir: folder for run.json, log.csv and checkpoints; it is made if need be.
        resume: go on from the checkpoint in `run_dir`, if there is one.
        on_step: called after each step with the number of steps done.
        on_evaluation: called with the steps done and the averaged model, at the start and at each evaluation.
        fingerprint, settings: of the data, and what else shapes the run; recorded, and compared on resume.

    Raises:
        TrainingError: a loss, term or gradient is not finite, or memory ran out, and again at half the batch size. The
            checkpoint written before stays.
        SettingsError: the device is not there; `run_dir` holds another run, or an unfinished one without `resume`.
    """
    engine = make_engine(options, device)
    folder = None if run_dir is None else Path(run_dir)
    if folder is not None:
        make_folder(folder)
        refuse_to_overwrite(folder, resume)

    def complete(options: TrainingOptions) -> History:
        with torch.random.fork_rng(devices=engine.cuda_devices):
            torch.manual_seed(seed + engine.rank)
            run = Run(model, objective, source, options, engine, seed, held_out, anomalies)
            if on_evaluation is not None and engine.leads:
                run.watch = on_evaluation
            if folder is not None:
                run.record_in(folder, resume, fingerprint, settings or {})
            with compiled(model, options.compile, engine.device):
                return run.complete(progress, on_step)

    resumed = folder is not None and resume and (folder / NAME).exists()
    once = resumed or engine.processes > 1 or options.batch_size == 1
    before = None if once else ({name: t.cpu().clone() for name, t in model.state_dict().items()}, deepcopy(objective))
    try:
        return complete(options)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        if before is None:
            raise _too_large(options.batch_size) from error
    half = options.model_copy(update={"batch_size": options.batch_size // 2})
    warnings.warn(
        f"out of memory at batch_size = {options.batch_size}: training starts again at batch_size = {half.batch_size}; "
        "give that to resume this run",
        stacklevel=2,
    )
    model.load_state_dict(before[0])
    vars(objective).clear()
    vars(objective).update(vars(before[1]))
    if folder is not None:
        (folder / NAME).unlink(missing_ok=True)
    try:
        return complete(half)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise _too_large(half.batch_size) from error


def _too_large(batch_size: int) -> TrainingError:
    smaller = for_caller("batch_size", "--batch-size")
    return TrainingError(
        f"out of memory at batch_size = {batch_size}; give a smaller {smaller}, a smaller net or smaller images"
    )


class Run:
    """One run: the state, and the steps that change it."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        source: BatchSource,
        options: TrainingOptions,
        engine: Engine,
        seed: int,
        held_out: BatchSource | None = None,
        anomalies: BatchSource | None = None,
    ) -> None:
        convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
        self.layout = torch.channels_last if convolves else torch.contiguous_format
        self.model = model.to(engine.device, memory_format=self.layout)  # type: ignore[call-overload]
        objective.stratum_counts = source.facts.stratum_counts
        objective.prepare(self.model)  # type: ignore[arg-type]
        self.objective = objective.to(engine.device)
        self.source = source.to(engine.device)
        self.anomalies = None if anomalies is None else anomalies.to(engine.device)
        self.options, self.engine, self.seed = options, engine, seed
        self.folder: Path | None = None
        self.samplers = make_samplers(objective, source, options.batch_size, seed)
        if anomalies is not None:
            beside = max(1, options.batch_size // ANOMALIES_BESIDE)
            self.anomaly_sampler = PlainSampler(len(anomalies), beside, seed=seed, stream=len(self.samplers))
        self.steps_an_epoch = steps_an_epoch(self.samplers[0], engine.processes)
        self.total = self.steps_an_epoch * (options.epochs or default_epochs(self.steps_an_epoch))
        self.chooses = held_out is not None and options.patience is not None and anomalies is None
        self.held_out = None if held_out is None else HeldOut(objective, held_out, options.batch_size, seed, engine)
        # Steps between looks at the losses, evaluations and checkpoints; the last two are multiples of the first.
        self.log_every = max(1, min(self.total // 100, 200))
        between = max(self.steps_an_epoch, self.total // (50 if self.chooses else 10))
        self.evaluate_every = self.log_every * math.ceil(between / self.log_every)
        self.save_every = self.log_every * math.ceil(self.total / 20 / self.log_every)
        self.state = RunState(self.model, objective, options, engine, seed, self.chooses)
        self.meter = Meter(engine)
        self.log = RunLog(None)
        self.watch: Callable[[int, nn.Module], None] = lambda step, model: None

    def record_in(self, folder: Path, resume: bool, fingerprint: str | None, settings: Mapping[str, Any]) -> None:
        """Keep log and checkpoints in a folder, and go on from its checkpoint if asked to."""
        engine, options, items = self.engine, self.options, len(self.source)
        self.folder = folder
        shaping = {**settings, **options.model_dump(mode="json", exclude=FREE)}
        where = {"device": engine.device.type, "bf16": engine.bf16}
        data = {"seed": self.seed, "training items": items, "data fingerprint": fingerprint}
        self.identity = {**shaping, **where, **data}  # must agree with the run that is resumed
        rows, unlogged = self.state.load(folder, self.identity) if resume else (0, [])
        self.meter.restore(unlogged, engine.device)
        if not engine.leads:
            return
        if not rows:
            (folder / NAME).unlink(missing_ok=True)
        given = {"settings": dict(settings), "training": options.model_dump(mode="json")}
        run = {"training_items": items, "total_steps": self.total, "device": str(engine.device)}
        more = {"processes": engine.processes, "precision": "bf16" if engine.bf16 else "float32"}
        write_run(folder, {"seed": self.seed, "data_fingerprint": fingerprint, **given, **run, **more})
        self.log = RunLog(folder, keep=rows)

    def complete(self, progress: bool, on_step: Callable[[int], None] | None) -> History:
        line = Line(self.total, progress and self.engine.leads)
        try:
            with self.state.averaged():
                self.watch(self.state.step, self.model)
            if not self.state.stopped_early:
                # Several processes would have to agree on the step after which they end.
                with deferred() if self.engine.processes == 1 else nullcontext(lambda: False) as asked_to_end:
                    self._steps(line, on_step, asked_to_end)
        finally:
            line.close()
            self.log.close()
        self.state.finish()
        self.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.model.eval()
        self.objective.eval()
        return self._history()

    def _steps(self, line: Line, on_step: Callable[[int], None] | None, asked_to_end: Callable[[], bool]) -> None:
        """All steps that are left, or those until a signal asks to end; what was done is then saved."""
        keep_freed_memory()
        self.model.train()
        self.objective.train()
        state, images, started = self.state, 0, time.perf_counter()
        for (batch, second), anomalies in zip(self.batches(), self._anomalies(), strict=False):
            self._step(in_layout(batch, self.layout), second, anomalies)
            state.step += 1
            images += len(batch.x) * self.engine.processes
            if state.step == 1 or state.step % self.log_every == 0 or state.step == self.total:
                self._look(images, started, line)
                state.stopped_early = self._evaluate_if_due()
                self._save_if_due()
                images, started = 0, time.perf_counter()
            if on_step is not None:
                on_step(state.step)
            if state.stopped_early:
                break
            if asked_to_end():
                for step, names, values in self.meter.state():
                    self._check(f"step {step}", dict(zip(names, values, strict=True)))
                state.images_seen += images
                self._save_if_due(now=True)
                break

    def batches(self) -> Iterator[tuple[Batch, Batch | None]]:
        """From the present step on, each with a second one if the objective wants it."""
        return paired(self.source, zip(*map(self._rows, self.samplers), strict=True))

    def _anomalies(self) -> Iterator[Batch | None]:
        """Labelled anomalies for each step, or None for ever."""
        if self.anomalies is None:
            return repeat(None)
        batches = self.anomalies.batches(self._rows(self.anomaly_sampler))
        return (in_layout(batch, self.layout) for batch in batches)

    def _rows(self, sampler: Sampler) -> Iterator[Tensor]:
        where = {"rank": self.engine.rank, "processes": self.engine.processes}
        return rows_of(sampler, self.state.step, self.total, **where)

    def _step(self, batch: Batch, second: Batch | None, anomalies: Batch | None) -> None:
        state, facts = self.state, self.source.facts
        ctx = Context(state.step, self.total, state.noise, len(self.source), facts.stratum_counts, second, anomalies)
        with self.engine.autocast():
            losses, terms = self.objective.training_loss(self.model, batch, ctx)  # type: ignore[arg-type]
        values = step_values(losses, terms)
        gradients = self.gradients(losses)
        share = rate(state.step, self.total, self.options)
        for player in state.players:
            norm = player.step(losses[player.name], gradients[player.name], share)
            values[f"gradient_norm/{player.name}"] = norm
        if state.average is not None:
            state.average.update(state.step)
        self.meter.add(state.step + 1, values)

    def gradients(self, losses: dict[str, Tensor]) -> dict[str, list[Tensor | None]]:
        """Each player's gradient of its own loss, the mean over processes."""
        players = self.state.players
        missing = [player.name for player in players if player.name not in losses]
        if missing:
            raise TrainingError(
                f"{type(self.objective).__name__}: no loss for player '{missing[0]}'; losses: {', '.join(losses)}"
            )
        spread = self.engine.processes > 1
        found = {
            player.name: player.gradients(losses[player.name], retain_graph=player is not players[-1], fill=spread)
            for player in players
        }
        if spread:
            self.engine.mean_([g for gradients in found.values() for g in gradients if g is not None])
        return found

    def _look(self, images: int, started: float, line: Line) -> None:
        """Log the values of the steps since the last look, and stop if one is not finite."""
        state, rows = self.state, self.meter.look()
        for step, values in rows:
            self._check(f"step {step}", values)
        seconds = time.perf_counter() - started
        state.images_seen += images
        if state.step > 1:
            state.seconds += seconds
            state.timed_images += images
        lr = self.options.lr * rate(state.step - 1, self.total, self.options)
        averages = means([values for _, values in rows])
        row = {**self._place("train"), **averages, "lr": lr, "images_per_s": images / seconds}
        self.log.add(row)
        line.show(row)

    def _place(self, split: str) -> Row:
        return {"step": self.state.step, "epoch": self.state.step / self.steps_an_epoch, "split": split}

    def _due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.total

    def _evaluate_if_due(self) -> bool:
        """Evaluate the averaged weights on held-out normals; true if there was no gain for too long."""
        state = self.state
        if not self._due(self.evaluate_every):
            return False
        if self.held_out is None:
            return False
        state.align_buffers()
        with state.averaged():
            values = self.held_out.evaluate(self.model, self.total, self.layout)
            if state.best is not None:
                state.best.offer(values["loss/model"], state.step)
            self.watch(state.step, self.model)
        self._check(f"held-out normals after step {state.step}", values)
        self.log.add({**self._place("held_out"), **values})
        return state.best is not None and state.best.since >= (self.options.patience or 0)

    def _save_if_due(self, now: bool = False) -> None:
        finished = self.state.stopped_early or self.state.step == self.total
        if self.folder is not None and (now or finished or self._due(self.save_every)):
            self.state.align_buffers()
            self.state.save(self.folder, self.identity, len(self.log.rows), finished, self.meter.state())

    def _check(self, where: str, values: dict[str, float]) -> None:
        """Raise TrainingError if a value is not finite; it says which, and what remains of the run."""
        if not (what := not_finite(values)):
            return
        remains = "No checkpoint was written; give a run_dir to keep some"
        if self.folder is not None and (self.folder / NAME).exists():
            remains = f"The checkpoint of step {read_state(self.folder)['step']} is kept in {self.folder}"
        raise TrainingError(f"{where}{what}. {remains}")

    def _history(self) -> History:
        state = self.state
        return History(
            steps=self.log.rows,
            best_step=state.best.step if state.best is not None and state.best.step else state.step,
            seconds=state.seconds,
            images_seen=state.images_seen,
            images_per_second=state.timed_images / state.seconds if state.seconds else 0.0,
            stopped_early=state.stopped_early,
            objective_state={name: t.detach().clone() for name, t in self.objective.state_dict().items()},
        )


def default_epochs(steps_an_epoch: float, steps: int = DEFAULT_STEPS) -> int:
    """About so many steps, within 10 and 300 epochs."""
    fewest, most = EPOCHS
    return min(most, max(fewest, round(steps / steps_an_epoch)))
