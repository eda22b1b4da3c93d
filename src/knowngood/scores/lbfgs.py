"""Many small maximisations at once: L-BFGS in which every row ascends by itself, and stops when it has converged."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

MEMORY = 20
FIRST_STEP = 0.3  # times the gradient, until a step has measured the curvature
FLAT = 1e-4  # slopes that fall by less than this along a step do not say how long the next should be
ENOUGH = 1e-3  # a row whose next step promises less than this has converged


class Curvature:
    """Second derivatives of B objectives, estimated from steps: L-BFGS, Nocedal, Math. Comp. 35, 1980."""

    def __init__(self, like: Tensor) -> None:
        # (step s, fall y of the gradient along s, 1 / s·y or 0 in rows without information): (B, D), (B, D), (B, 1)
        self.pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=MEMORY)
        self.scale = torch.full_like(like[:, :1], FIRST_STEP)

    def learn(self, step: Tensor, fall: Tensor) -> Tensor:
        """Take in a step and the fall of the gradient along it, (B, D). Returns (B, 1): where that was informative."""
        product = (step * fall).sum(1, keepdim=True)
        informative = product > FLAT * step.square().sum(1, keepdim=True)
        self.pairs.append((step, fall, torch.where(informative, 1 / product, 0)))
        self.scale = torch.where(informative, product / fall.square().sum(1, keepdim=True), self.scale)
        return informative

    def newton(self, gradient: Tensor) -> Tensor:
        """The step (B, D) that leads up a gradient (B, D) to where it is 0."""
        step, shares = gradient, []
        for s, y, weight in reversed(self.pairs):
            shares.append(weight * (s * step).sum(1, keepdim=True))
            step = step - shares[-1] * y
        step = self.scale * step
        for s, y, weight in self.pairs:
            step = step + s * (shares.pop() - weight * (y * step).sum(1, keepdim=True))
        return step


def maximise(
    objective: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], start: Tensor, evaluations: int, radius: float
) -> tuple[Tensor, Curvature]:
    """The highest point (B, D) each row has found, and the curvature it met.

    Every evaluation is a step, there is no line search: a step that does not lead up is taken back, but what it says
    of the curvature is kept, and the next one is at most half as long. Rows do not depend on each other.

    Args:
        objective: values (N,) and gradients (N, D) at points (N, D) of the rows (N,), those that have not converged.
        start: (B, D), in units in which the objective curves about alike in all directions.
        evaluations: of the objective at most, the start among them.
        radius: length of the longest first step.
    """
    point = start
    value, gradient = objective(point, torch.arange(len(point), device=point.device))
    curvature = Curvature(like=point)
    longest = torch.full_like(point[:, :1], radius)
    ascending = torch.ones_like(longest, dtype=torch.bool)
    for _ in range(evaluations - 1):
        step = within(longest, curvature.newton(gradient))
        ascending = ascending & ((gradient * step).sum(1, keepdim=True) > 2 * ENOUGH)  # half of it on a parabola
        rows = ascending[:, 0].nonzero()[:, 0]
        if not len(rows):
            break
        step = torch.where(ascending, step, 0)
        there = point + step
        found, slope = objective(there[rows], rows)
        value_there = value.index_copy(0, rows.to(value.device), found)
        gradient_there = gradient.index_copy(0, rows, slope)
        informative = curvature.learn(step, gradient - gradient_there)
        up = (value_there > value)[:, None].to(point.device)
        length = step.norm(dim=1, keepdim=True)
        longest = torch.where(up, longest.maximum(2 * length), torch.where(informative, length / 2, length / 4))
        point, gradient = torch.where(up, there, point), torch.where(up, gradient_there, gradient)
        value = torch.maximum(value, value_there)
    return point, curvature


def within(longest: Tensor | float, step: Tensor) -> Tensor:
    """Steps (B, D), shortened where they are longer than `longest`."""
    length = step.norm(dim=1, keepdim=True)
    return torch.where(length > longest, step * (longest / length), step)
