"""What must change in an image for the model to find it normal."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from knowngood.errors import DataError, SettingsError
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Batches, Condition, ScoreResult, State, item_sum, pixel_sum, wide
from knowngood.scores.elbo import DrawnScore

FIRST_MOVE = 0.1  # of the pixel that moves most, on the range 0…1
LONGER, SHORTER = 1.5, 0.5  # the step after one that lowered the objective, and after one that did not
INNER = 10  # iterations of the dual of total variation
SMALLEST = 1e-6

Objective = Callable[[Tensor], tuple[Tensor, Tensor]]


class RestorationScore(DrawnScore):
    """Σ |x − x̂| for x̂ = argmin −ELBO(x̂|c) + λ·TV(x̂ − x), found from x̂ = x; the map is |x − x̂|, channels added up.

    Chen, You, Tezcan and Konukoglu 2020, arXiv:2005.00031: the most probable normal image, given that it differs from
    the given one by something of small total variation. TV is the sum of absolute differences of neighbouring pixels
    in rows and columns (anisotropic), and outside the image the difference counts as 0, so that a change of the whole
    image costs its outline. λ = `weight` / ρ, with ρ the root mean square of x − x̂ over the normal items fitted on (x̂
    the mean at z = μ here): the same weight means the same on clean and on noisy data.

    Proximal gradient steps, a fixed number of them: down the gradient of −ELBO, then TV by its dual. The step of each
    image is its own; one that does not lower the objective of an image is not taken, and the next is shorter. All in
    float64, else rounding would decide some of these and an image's value would depend on its batch. Where x lies
    within 0…1, so does x̂.
    """

    has_map = True

    def check(self, model: ConditionalVAE) -> None:
        if len(model.shape) != 3:
            raise SettingsError(
                f"score 'restoration' needs images, for their total variation; the items here have {model.shape[0]} "
                "features. Take scoring='elbo', or representation='pixels'."
            )

    @torch.no_grad()
    def fit(self, model: ConditionalVAE, batches: Batches) -> State:
        """{"residual": ρ, a scalar in float64} and the state of the ELBO."""
        squares, n = 0.0, 0
        for batch in batches:
            squares += float(item_sum((batch.x - model.reconstruct(batch.x, batch.c)).square()).sum())
            n += batch.x.numel()
        if not n:
            raise DataError("score 'restoration' takes its scale from normals; no normals were given")
        residual = torch.tensor(squares / n, dtype=torch.float64).sqrt().clamp_min(SMALLEST)
        return {"residual": residual, **super().fit(model, ())}

    def score(
        self, model: ConditionalVAE, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        exact_x, exact_c = wide(x), None if c is None else wide(c)
        exact = copy.deepcopy(model).to(exact_x.device, torch.float64).requires_grad_(False)

        def cost(restored: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                leaf = restored.detach().requires_grad_()
                values = self.negative_elbo(exact, state, leaf, exact_c).values
                (gradient,) = torch.autograd.grad(values.sum(), leaf)
            return values.detach(), gradient

        restored, _ = restore(cost, exact_x, self.options.weight / float(state["residual"]), self.options.steps)
        change = (exact_x - restored).abs()
        return ScoreResult(item_sum(change), pixel_sum(change) if want_map else None, {})


def restore(cost: Objective, x: Tensor, weight: float, steps: int) -> tuple[Tensor, Tensor]:
    """x̂ (B, C, H, W) that lowers cost(x̂) + weight·TV(x̂ − x) from x̂ = x on, and the objective there (B,).

    `cost` gives values (B,) and their gradient (B, C, H, W), each item's by itself.
    """
    low, high = x.clamp(max=0), x.clamp(min=1)
    change = torch.zeros_like(x)
    value, gradient = cost(x)  # total variation is 0 here
    step = FIRST_MOVE / gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(SMALLEST)
    dual = differences(change)
    for _ in range(steps):
        moved, dual = smoothed(change - step * gradient, step * weight, dual)
        moved = (x + moved).clamp(low, high) - x
        cost_there, gradient_there = cost(x + moved)
        there = cost_there + weight * total_variation(moved)
        lower = there < value
        value = torch.where(lower, there, value)
        taken = lower[:, None, None, None]
        change, gradient = torch.where(taken, moved, change), torch.where(taken, gradient_there, gradient)
        step = step * torch.where(taken, LONGER, SHORTER)
    return x + change, value


def differences(r: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H+1, W) and (B, C, H, W+1): of pixels of r (B, C, H, W) below and beside each other, 0 all around."""
    return F.pad(r, (0, 0, 1, 1)).diff(dim=2), F.pad(r, (1, 1)).diff(dim=3)


def total_variation(r: Tensor) -> Tensor:
    """(B,): sum of the absolute differences of r (B, C, H, W)."""
    return sum(d.abs().sum((1, 2, 3)) for d in differences(r))  # type: ignore[return-value]


def smoothed(
    v: Tensor, weight: Tensor, dual: tuple[Tensor, Tensor], iterations: int = INNER
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """r = argmin ½‖r − v‖² + weight·TV(r), about, and the dual that it comes from, with which to go on next time.

    Accelerated projected gradient on the dual: r = v − Dᵀp with |p| ≤ weight, D the differences (Beck and Teboulle
    2009, IEEE TIP 18, algorithm FGP). v is (B, C, H, W), the weight (B, 1, 1, 1), `dual` where to start.
    """
    p = ahead = tuple(d.clamp(-weight, weight) for d in dual)
    t = 1.0
    for _ in range(iterations):
        slopes = differences(v - _adjoint(*ahead))
        new = tuple((a + slope / 8).clamp(-weight, weight) for a, slope in zip(ahead, slopes, strict=True))
        t_new = (1 + (1 + 4 * t * t) ** 0.5) / 2
        ahead = tuple(n + (t - 1) / t_new * (n - o) for n, o in zip(new, p, strict=True))
        p, t = new, t_new
    return v - _adjoint(*p), (p[0], p[1])


def _adjoint(rows: Tensor, columns: Tensor) -> Tensor:
    """Dᵀ of what `differences` gives."""
    return -rows.diff(dim=2) - columns.diff(dim=3)
