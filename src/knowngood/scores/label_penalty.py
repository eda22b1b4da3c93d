"""A penalty for what looks like the labelled anomalies, learned from a few of them."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from knowngood.models.base import Model
from knowngood.models.distributions import wide
from knowngood.scores.adjustment import Adjustment
from knowngood.scores.base import ScoreResult, State
from knowngood.scores.codes import codes

LEAST_SIDE = 8  # of images that are described by their HOG
FLATTEST = 0.1  # smallest standard deviation of a code, as a share of the mean one: others are nearly constant


class LabelPenalty(Adjustment):
    """S(x) + w · max(0, d·b(v(x)) − a), w ≥ 0: never below the score S, and equal to it where x looks like no anomaly.

    v is the HOG of an image, of a table or an image of less than 8 pixels a side the item itself, standardised by
    normal items; b is `bounded`. What is added is the part `label_penalty`; the map is that of S.

    State: `mean`, `std` and `direction` d (V,), `offset` a and `weight` w. They are learned above; here they are
    applied. A score of locations adds `penalty` to each of them instead.
    """

    name: ClassVar[str] = "label_penalty"
    additive: ClassVar[bool] = True

    def adjust(
        self, model: Model, state: State, x: Tensor, c: Tensor | None, stratum: Tensor, result: ScoreResult
    ) -> ScoreResult:
        v = described(model, x)
        added = penalty((v - state["mean"].to(v)) / state["std"].to(v), state).to(result.values.device)
        return ScoreResult(result.values + added, result.map, {**result.parts, self.name: added})


def penalty(v: Tensor, state: State) -> Tensor:
    """w · max(0, d·b(v) − a) ≥ 0 of standardised vectors v (..., V): (...)."""
    direction, offset, weight = (state[name].to(v) for name in ("direction", "offset", "weight"))
    return weight * (bounded(v) @ direction - offset).clamp_min(0)


def bounded(v: Tensor) -> Tensor:
    """v / √(1 + |v|²/V) of vectors (..., V): shorter than √V, however anomalous."""
    return v / (1 + v.square().mean(-1, keepdim=True)).sqrt()


def described(model: Model, x: Tensor) -> Tensor:
    """(B, V) float64: the vectors that labelled anomalies are learned by, of items x (B, *shape)."""
    large = len(model.shape) == 3 and min(model.shape[1:]) >= LEAST_SIDE
    return wide(codes(model, x, None, "hog" if large else "items"))


def moments(v: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (V,) of normal items' vectors (N, V), none much smaller than the others."""
    std = v.std(0, correction=0)
    return v.mean(0), std.clamp_min(max(FLATTEST * float(std.mean()), 1e-12))
