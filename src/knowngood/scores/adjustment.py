"""Corrections of a score, applied in the order of a list: given the illumination, or by labelled anomalies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from torch import Tensor

from knowngood.models.base import Batch, Model
from knowngood.scores.base import Score, ScoreResult, State
from knowngood.scores.marginal import Floats, Rows

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

    def fit(self, model: Model, scoring: Scoring, held_out: Iterable[Batch], fitted: Iterable[Batch]) -> State:
        """Its own state, without the prefix, from the values of what comes before it; see `Score.fit_held_out`."""
        return {}

    def adjust(
        self, model: Model, state: State, x: Tensor, c: Tensor | None, stratum: Tensor, result: ScoreResult
    ) -> ScoreResult:
        """The corrected result. `state` is its own, without the prefix."""
        raise NotImplementedError


def scored(
    model: Model,
    score: Score,
    adjustments: Sequence[Adjustment],
    state: State,
    x: Tensor,
    c: Tensor | None,
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
    model: Model,
    score: Score,
    adjustments: Sequence[Adjustment],
    state: State,
    held_out: Iterable[Batch],
    fitted: Iterable[Batch],
) -> State:
    """The state of a fitted score with that of the adjustments, each fitted to what comes before it."""
    for i, adjustment in enumerate(adjustments):
        before, known = adjustments[:i], state

        def scoring(
            x: Tensor, c: Tensor | None, stratum: Tensor, before: Sequence[Adjustment] = before, known: State = known
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
