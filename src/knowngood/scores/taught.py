"""Any score of whole items, raised where these look like labelled anomalies."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from knowngood.models.objectives.base import Batch
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Score, ScoreResult, wide
from knowngood.scores.codes import codes, has_edges
from knowngood.scores.hidden import Cells
from knowngood.scores.marginal import Floats, Rows
from knowngood.scores.patches import bounded

FLATTEST = 0.1  # smallest standard deviation of a code, as a share of the mean one: others are nearly constant
WEIGHT = "taught_weight"


class TaughtScore(Score):
    """S(x) + w · max(0, d·b(v(x)) − a), w ≥ 0: never below the score S, and equal to it where x looks like no anomaly.

    v are the oriented gradients of an image, of a table or an image of less than 8 pixels a side the item itself,
    standardised by good items; b(v) = v / √(1 + |v|²/V), so that no code counts without end. `teaching` says how d, a
    and w come about. What is added is a part, `labelled`; the map is that of S.

    State: that of S; `taught_mean`, `taught_std` and `taught_direction` (V,); `taught_offset`; `taught_weight`.

    What is added knows nothing of c and is not negative. So where S bounds −log p(x|c) the sum does too, and summing c
    out of it adds the same to what is summed out of S.
    """

    def __init__(self, inner: Score) -> None:
        super().__init__(inner.options)
        self.inner = inner
        self.has_map, self.is_likelihood, self.sums_out = inner.has_map, inner.is_likelihood, inner.sums_out

    def check(self, model: ConditionalVAE) -> None:
        self.inner.check(model)

    def fit(self, model: ConditionalVAE, batches: Iterable[Batch]) -> dict[str, Tensor]:
        return self.inner.fit(model, batches)

    def settle(
        self, model: ConditionalVAE, state: dict[str, Tensor], held_out: Iterable[Batch], fitted: Iterable[Batch]
    ) -> dict[str, Tensor]:
        return self.inner.settle(model, state, held_out, fitted)

    def settle_hidden(
        self,
        model: ConditionalVAE,
        state: dict[str, Tensor],
        held_out: Iterable[Batch],
        fitted: Iterable[Batch],
        cells: Cells,
    ) -> dict[str, Tensor]:
        return self.inner.settle_hidden(model, state, held_out, fitted, cells)

    def summed_out(self, state: dict[str, Tensor], rows: Rows) -> Floats:
        labelled = rows.parts["labelled"]
        return self.inner.summed_out(state, rows._replace(values=rows.values - labelled)) + labelled[rows.first]

    def score(
        self,
        model: ConditionalVAE,
        state: dict[str, Tensor],
        x: Tensor,
        c: Tensor | None,
        stratum: Tensor,
        *,
        want_map: bool = False,
    ) -> ScoreResult:
        found = self.inner.score(model, state, x, c, stratum, want_map=want_map)
        v = described(model, x)
        mean, std, d, offset, w = (
            state[f"taught_{name}"].to(v) for name in ("mean", "std", "direction", "offset", "weight")
        )
        term = (w * (bounded((v - mean) / std) @ d - offset).clamp_min(0)).to(found.values.device)
        return ScoreResult(found.values + term, found.map, {**found.parts, "labelled": term})


def described(model: ConditionalVAE, x: Tensor) -> Tensor:
    """(B, V) float64: what labelled anomalies are told by, of items x (B, *shape), whatever their conditions."""
    return wide(codes(model, x, None, "gradients" if has_edges(model) else "pixels"))


def usual(v: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (V,) of good items' codes (N, V), none much smaller than the others."""
    std = v.std(0, correction=0)
    return v.mean(0), std.clamp_min(max(FLATTEST * float(std.mean()), 1e-12))


def with_taught(score: Score, state: dict[str, Tensor]) -> Score:
    """The score that this state belongs to."""
    return TaughtScore(score) if WEIGHT in state else score


def taught_state(usually: tuple[Tensor, Tensor], direction: Tensor, offset: float, weight: float) -> dict[str, Tensor]:
    """What a taught score needs beside the state of its inner one."""
    return {
        "taught_mean": usually[0].cpu(),
        "taught_std": usually[1].cpu(),
        "taught_direction": direction.cpu(),
        "taught_offset": torch.tensor(offset, dtype=torch.float64),
        WEIGHT: torch.tensor(weight, dtype=torch.float64),
    }
