"""Corrections of a score, applied in the order of a list: given the illumination, or by labelled anomalies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor

from knowngood.models.base import Model
from knowngood.models.distributions import wide
from knowngood.scores.base import Batches, Condition, Score, ScoreResult, State
from knowngood.scores.codes import codes
from knowngood.scores.marginal import Floats, Rows

LEAST_SIDE = 8  # of images that are described by their HOG
FLATTEST = 0.1  # smallest standard deviation of a code, as a share of the mean one: others are nearly constant

Scoring = Callable[[Tensor, Tensor | None, Tensor], Tensor]  # values (B,) of x, c and stratum


class Adjustment:
    """A correction of a score's result. Its tensors lie in the common state under `<name>.<tensor>`.

    Class attributes:
        name: prefix of its state.
        additive: it adds a part named like itself, ≥ 0 and the same under every condition. Then what is a likelihood
            bounds one still, and the score is marginalised as before.
    """

    name: ClassVar[str]
    additive: ClassVar[bool] = False

    def check(self, model: Model) -> None:
        """Raise SettingsError if it is not defined for such a model; asked before anything is trained."""

    def fit(self, model: Model, scoring: Scoring, held_out: Batches, fitted: Batches) -> State:
        """Its own state, without the prefix, from the values of what comes before it; see `Score.fit_held_out`."""
        return {}

    def adjust(
        self, model: Model, state: State, x: Tensor, c: Condition, stratum: Tensor, result: ScoreResult
    ) -> ScoreResult:
        """The corrected result. `state` is its own, without the prefix."""
        raise NotImplementedError


def scored(
    model: Model,
    score: Score,
    adjustments: Sequence[Adjustment],
    state: State,
    x: Tensor,
    c: Condition,
    stratum: Tensor,
    *,
    want_map: bool = False,
) -> ScoreResult:
    """The score of x (B, *shape), corrected by the adjustments in their order."""
    result = score.score(model, state, x, c, stratum, want_map=want_map)
    for adjustment in adjustments:
        result = adjustment.adjust(model, of_adjustment(state, adjustment), x, c, stratum, result)
    return result


def fit_adjustments(
    model: Model, score: Score, adjustments: Sequence[Adjustment], state: State, held_out: Batches, fitted: Batches
) -> State:
    """The state of a fitted score with that of the adjustments, each fitted to what comes before it."""
    for i, adjustment in enumerate(adjustments):
        before, known = adjustments[:i], state

        def scoring(
            x: Tensor, c: Condition, stratum: Tensor, before: Sequence[Adjustment] = before, known: State = known
        ) -> Tensor:
            return scored(model, score, before, known, x, c, stratum).values

        state = {**state, **prefixed(adjustment, adjustment.fit(model, scoring, held_out, fitted))}
    return state


def of_adjustment(state: State, adjustment: Adjustment) -> State:
    """Its own tensors, without the prefix."""
    prefix = f"{adjustment.name}."
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


def prefixed(adjustment: Adjustment, own: State) -> State:
    """Its own tensors as they lie in the common state."""
    return {f"{adjustment.name}.{name}": t for name, t in own.items()}


def marginal(score: Score, adjustments: Sequence[Adjustment], state: State, rows: Rows) -> Floats:
    """(N,) the corrected score of items of unknown condition: what is added is the same under every condition."""
    added = sum((rows.parts[adjustment.name] for adjustment in adjustments), start=0 * rows.values)
    return score.marginal(state, rows._replace(values=rows.values - added)) + added[rows.first]


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
        self, model: Model, state: State, x: Tensor, c: Condition, stratum: Tensor, result: ScoreResult
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
