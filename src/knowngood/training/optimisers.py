"""What moves weights and keeps them: players with their AdamW, averaged weights, and the best weights so far."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from knowngood.config import TrainingOptions
from knowngood.errors import SettingsError
from knowngood.models.objectives.base import Objective

STRIDE, EVERY_STEP_UNTIL = 4, 100  # of the average
BETA1 = 0.9
MOMENTS = ("exp_avg", "exp_avg_sq")


def rate(step: int, total_steps: int, options: TrainingOptions) -> float:
    """Share of the full learning rate at `step` (0-based): linear warm-up, then half a cosine to 0, or constant."""
    warmup = math.ceil(options.warmup * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if options.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))


class Player:
    """Parameters that take gradient from one loss only (Objective.players).

    A step whose loss or gradient is not finite changes nothing; no step waits for the device.
    """

    def __init__(
        self,
        name: str,
        parameters: list[nn.Parameter],
        options: TrainingOptions,
        betas: tuple[float, float] | None = None,
    ) -> None:
        self.name, self.parameters, self.clip = name, parameters, options.clip
        self.lr = options.lr if name == "model" else options.lr_secondary or options.lr
        self.optimiser = torch.optim.AdamW(
            parameters, lr=self.lr, betas=betas or (BETA1, options.beta2), weight_decay=options.weight_decay, fused=True
        )
        for p in parameters:  # made now, so that a checkpoint holds the same tensors at any step
            state = self.optimiser.state[p]
            state["step"] = torch.zeros((), device=p.device)
            for moment in MOMENTS:
                state[moment] = torch.zeros_like(p, memory_format=torch.preserve_format)

    def gradients(self, loss: Tensor, *, retain_graph: bool, fill: bool = False) -> list[Tensor | None]:
        """∂loss/∂parameters in the parameters' memory layout; None, or with `fill` zeros, for those not in the loss."""
        found = torch.autograd.grad(
            loss, self.parameters, retain_graph=retain_graph, allow_unused=True, materialize_grads=fill
        )
        return [
            g if g is None or g.stride() == p.stride() else torch.empty_like(p).copy_(g)  # the fused kernel needs it
            for p, g in zip(self.parameters, found, strict=True)
        ]

    def step(self, loss: Tensor, gradients: list[Tensor | None], share: float) -> Tensor:
        """Follow the gradients at `share` of the full rate; returns their norm before clipping, a scalar."""
        present = [g for g in gradients if g is not None]
        if not present:
            return loss.new_zeros(())
        norms = torch._foreach_norm(present)  # pyright: ignore[reportPrivateImportUsage]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        bad = (norm + loss.detach()).isfinite().logical_not()
        # AdamW's fused kernel divides by grad_scale and skips the step where found_inf is 1: no pass over memory and no
        # look from the host is needed for either.
        self.optimiser.grad_scale = None if self.clip is None else (norm / self.clip).clamp(min=1.0)  # type: ignore[attr-defined]
        self.optimiser.found_inf = bad.float()  # type: ignore[attr-defined]
        for p, g in zip(self.parameters, gradients, strict=True):
            p.grad = g
        self.optimiser.param_groups[0]["lr"] = self.lr * share
        self.optimiser.step()
        for p in self.parameters:
            p.grad = None
        return norm

    def state(self) -> dict[str, Tensor]:
        """Optimiser state as a few flat tensors."""
        states = [self.optimiser.state[p] for p in self.parameters]
        flat = {moment: torch.cat([s[moment].reshape(-1) for s in states]) for moment in MOMENTS}
        return {**flat, "step": torch.stack([s["step"] for s in states])}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave, bit for bit."""
        sizes = [p.numel() for p in self.parameters]
        for moment in MOMENTS:
            for p, part in zip(self.parameters, state[moment].split(sizes), strict=True):
                self.optimiser.state[p][moment].copy_(part.view_as(p))
        for p, step in zip(self.parameters, state["step"], strict=True):
            self.optimiser.state[p]["step"].copy_(step)


def make_players(objective: Objective, model: nn.Module, options: TrainingOptions) -> list[Player]:
    """The objective's players with something to train. Raises SettingsError: none has, or two share a parameter."""
    owner: dict[int, str] = {}
    players = []
    for name, parameters in objective.players(model).items():  # type: ignore[arg-type]
        trainable = [p for p in parameters if p.requires_grad]
        for p in trainable:
            if owner.setdefault(id(p), name) != name:
                raise SettingsError(
                    f"{type(objective).__name__}: players '{owner[id(p)]}' and '{name}' share a parameter of shape "
                    f"{tuple(p.shape)}; each parameter belongs to one player"
                )
        if trainable:
            players.append(Player(name, trainable, options, objective.betas(name)))
    if not players:
        raise SettingsError(f"{type(objective).__name__}: no player has a parameter that can be trained")
    return players


class Average:
    """Exponential moving average of weights, with decay min(decay, (1 + t)/(10 + t)) at step t to forget the start.

    After the first 100 steps weights are taken in every 4th step, with decay⁴: the same average but for how the weights
    move within 4 steps, and a quarter of the passes over memory.
    Only parameters are averaged; buffers such as batch-norm statistics are used as they are.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.live: list[Tensor] = list(parameters)
        self.values = [p.detach().clone(memory_format=torch.preserve_format) for p in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step t = `step` (0-based)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if step >= EVERY_STEP_UNTIL:
            if step % STRIDE:
                return
            decay **= STRIDE
        torch._foreach_lerp_(self.values, self.live, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the averaged and the live weights by their addresses, without a copy. Twice is as before."""
        for i, p in enumerate(self.parameters):
            p.data, self.values[i] = self.values[i], p.data


class Best:
    """What `tensors` held at the lowest value seen, and how many evaluations ago that was."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self.kept = [torch.empty_like(t, memory_format=torch.preserve_format) for t in tensors]
        self.value, self.step, self.since = math.inf, 0, 0

    @torch.no_grad()
    def offer(self, value: float, step: int) -> None:
        """Keep what the tensors hold now, if `value` is the lowest so far."""
        self.since += 1
        if value < self.value:
            self.value, self.step, self.since = value, step, 0
            for kept, t in zip(self.kept, self.tensors, strict=True):
                kept.copy_(t)

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the tensors their best values, if there was an evaluation."""
        if self.step:
            for kept, t in zip(self.kept, self.tensors, strict=True):
                t.copy_(kept)
