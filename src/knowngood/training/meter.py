"""Per-step values kept on the device until someone looks, and the look that finds what is not finite."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from knowngood.errors import TrainingError
from knowngood.training.engine import Engine


class Meter:
    """Scalars of each step since the last look. Adding never waits for the device; looking does, once."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.pending: list[tuple[int, tuple[str, ...], Tensor]] = []

    def add(self, step: int, values: dict[str, Tensor]) -> None:
        """Take in the scalars of `step`; names may change from step to step."""
        self.pending.append((step, tuple(values), torch.stack([v.detach() for v in values.values()])))

    def look(self) -> dict[str, float]:
        """Mean of each value over the steps that had it, then forget them.

        Raises:
            TrainingError: a value was not finite; names the first such step, the value and its player.
        """
        pending, self.pending = self.pending, []
        flat = torch.cat([values for _, _, values in pending]).float()
        self.engine.mean_([flat])
        numbers = iter(flat.tolist())
        values_by_name: dict[str, list[float]] = {}
        for step, names, _ in pending:
            row = {name: next(numbers) for name in names}
            if not all(map(math.isfinite, row.values())):
                raise TrainingError(_not_finite(f"step {step}", row))
            for name, value in row.items():
                values_by_name.setdefault(name, []).append(value)
        return {name: math.fsum(values) / len(values) for name, values in values_by_name.items()}


def check_held_out(step: int, values: dict[str, float]) -> None:
    """Raise TrainingError if an evaluation after `step` steps gave a value that is not finite."""
    if not all(map(math.isfinite, values.values())):
        raise TrainingError(_not_finite(f"held-out normals after step {step}", values))


def _not_finite(where: str, row: dict[str, float]) -> str:
    bad = {name: value for name, value in row.items() if not math.isfinite(value)}
    players = [name.partition("/")[2] for name in bad if "/" in name]
    terms = [name for name in bad if "/" not in name] or list(bad)
    player = f", player '{players[0]}'" if players else ""
    listed = ", ".join(f"'{name}' = {bad[name]}" for name in terms)
    return f"{where}{player}: {listed} is not finite; a lower lr, a smaller clip or precision='float32' may mend it"
