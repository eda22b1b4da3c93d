"""The objective on held-out normals, in a way that makes one evaluation comparable with the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from knowngood.models.base import Batch, BatchSource
from knowngood.models.objectives.base import Context, Objective
from knowngood.training.engine import Engine
from knowngood.training.sampler import PlainSampler, Sampler, StratifiedSampler


def make_samplers(objective: Objective, source: BatchSource, batch_size: int, seed: int) -> tuple[Sampler, ...]:
    """The sampler an objective asks for, and a second, independent one if it wants second batches."""
    streams = range(2 if objective.second_batch else 1)
    if objective.stratified and source.facts.n_strata > 1:
        return tuple(StratifiedSampler(source.facts.stratum, batch_size, seed=seed, stream=s) for s in streams)
    return tuple(PlainSampler(len(source), batch_size, seed=seed, stream=s) for s in streams)


def paired(source: BatchSource, rows: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Batch, Batch | None]]:
    """A batch a step, with an independent second one where a step has two rows; both are fetched as one."""
    sizes: list[int] = []

    def joined() -> Iterator[Tensor]:
        for first, *second in rows:
            sizes.append(len(first))
            yield torch.cat((first, *second)) if second else first

    for batch in source.batches(joined()):
        size = sizes.pop(0)
        if len(batch.x) == size:
            yield batch, None
        else:
            yield batch.rows(slice(None, size)), batch.rows(slice(size, None))


def step_values(losses: dict[str, Tensor], terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scalars by name: `loss/<player>` and the mean of each per-sample term."""
    return {f"loss/{name}": loss for name, loss in losses.items()} | {n: t.detach().mean() for n, t in terms.items()}


class HeldOut:
    """Mean losses and terms over held-out normals.

    Every evaluation uses the same batches, the same noise and the objective as it is at the end of the schedule, so
    that a difference between two evaluations is a difference between weights.
    """

    def __init__(self, objective: Objective, source: BatchSource, batch_size: int, seed: int, engine: Engine) -> None:
        self.objective, self.engine, self.seed = objective, engine, seed
        self.source = source.to(engine.device)
        samplers = make_samplers(objective, source, batch_size, seed)
        epochs = [sampler.epoch(0) for sampler in samplers]
        rows = list(zip(*epochs, strict=True))
        self.rows = rows[engine.rank :: engine.processes] if len(rows) >= engine.processes else rows
        self.generator = torch.Generator(engine.device)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, total_steps: int, layout: torch.memory_format) -> dict[str, float]:
        """`loss/<player>` and terms, means over the items; the model is in training mode before and after.

        Items that fill up the last batch count twice.
        """
        model.eval()
        self.objective.eval()
        facts = self.source.facts
        sums: dict[str, Tensor] = {"items": torch.zeros((), device=self.engine.device)}
        for position, (batch, second) in enumerate(paired(self.source, self.rows)):
            self.generator.manual_seed(self.seed + position * self.engine.processes + self.engine.rank)
            ctx = Context(total_steps, total_steps, self.generator, len(self.source), facts.stratum_counts, second)
            with self.engine.autocast():
                losses, terms = self.objective.training_loss(model, in_layout(batch, layout), ctx)  # type: ignore[arg-type]
            for name, value in step_values(losses, terms).items():
                sums[name] = sums.get(name, 0) + value.float() * len(batch.x)
            sums["items"] += len(batch.x)
        model.train()
        self.objective.train()
        self.engine.mean_(list(sums.values()))
        numbers = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
        items = numbers.pop("items")
        return {name: value / items for name, value in numbers.items()}


def in_layout(batch: Batch, layout: torch.memory_format) -> Batch:
    """The batch with its images in the given memory layout."""
    if layout is torch.channels_last:
        batch.x = batch.x.contiguous(memory_format=layout)
    return batch
