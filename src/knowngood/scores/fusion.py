"""Several scores as one: each turned into its surprise within the condition, then weighed and added up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knowngood.calibration import Calibration
from knowngood.config import Fusion, Options
from knowngood.errors import DataError, SettingsError
from knowngood.models.objectives.base import Batch
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Score, ScoreResult
from knowngood.scores.hidden import Cells
from knowngood.scores.marginal import Floats, Rows, hard, soft
from knowngood.scores.trial import AT_ONCE, FEWEST, Trial, evenly, fitted_weights

ITEMS, VALUES = 4096, 1 << 27  # good items that tails are taken from, and values of these at most
HIDDEN_ROWS, FEWEST_HIDDEN = 1 << 15, 256  # good items times conditions for tails without these, and items at least
ALONE = 0.05  # a stratum of at least 1/.05 − 1 = 19 good items has tails of its own, smaller ones those of all


class FusionScore(Score):
    """S(x) = Σ_k w_k · U_k(x), w_k ≥ 0, Σ w_k = 1; U_k = −log P(S_k ≥ S_k(x) | condition) is the surprise of score k.

    Scores of different units and conditions of different spread so become comparable before they are added. The tail
    probability is that among good items the model was not fitted on (those that select, at most 4,096), within the
    stratum where that has 19 of them, else among all; beyond the largest seen it goes on as an exponential, see
    `calibration.surprise`. So S never ties and has no upper end.

    Weights are as given, or `auto`: fitted on the same good images and synthetic anomalies of these (`scores.trial`),
    as near to equal as is within one standard error of the best mean AUROC over kinds. With fewer than 30 good items
    that the model was not fitted on tails come from those it was, and `auto` weights are equal, as they are for tables.

    Where no condition of an item is known, every score is summed out by its own rule before they are added: a
    likelihood averaged over conditions, of any other the smallest. The surprise is then that among good items whose
    conditions were hidden too. So a condition whose good items vary much gives an unknown kind no room of its own.

    Parts: each score by its `<name>`, its `<name>_surprise`, and its own parts. The map is that of the score with the
    largest weight among those that have one, in its own unit. S is no likelihood: tails of different scores at the same
    item are not independent.
    """

    sums_out = True

    def __init__(self, options: Fusion, build: Callable[[Options], Score] = lambda options: options.build()) -> None:
        super().__init__(options)
        self.inners = [build(inner) for inner in options.scores]
        self.names = _told_apart([inner.name for inner in options.scores])
        self.weighting = options.weighting
        self.has_map = any(inner.has_map for inner in self.inners)

    def check(self, model: ConditionalVAE) -> None:
        if model.patches is not None:
            raise SettingsError(
                "score 'fusion' weighs scores of whole images, and with features these are of places; name one score, "
                "or leave scoring='auto'"
            )
        for inner in self.inners:
            inner.check(model)

    def fit(self, model: ConditionalVAE, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """The states of all scores, `<position>.<name>`. Tails and weights come with `settle`, which must follow."""
        batches = _again(batches)
        return _numbered([inner.fit(model, batches) for inner in self.inners])

    @torch.no_grad()
    def settle(
        self, model: ConditionalVAE, state: dict[str, Tensor], held_out: Iterable[Batch], fitted: Iterable[Batch]
    ) -> dict[str, Tensor]:
        held_out, fitted = _again(held_out), _again(fitted)
        states = [inner.settle(model, self._of(state, k), held_out, fitted) for k, inner in enumerate(self.inners)]
        normals, new = compared_with(held_out, fitted, ITEMS)
        trial = Trial.of(held_out) if new and self.weighting == "auto" else None
        values = [values_of(inner, model, own, normals) for inner, own in zip(self.inners, states, strict=True)]
        state = self.joined(states, torch.stack(values), normals.stratum, self._given())
        if trial is not None:
            tails = self._tails(state)
            found = [
                trial.values(lambda x, c, stratum, k=k: self._surprise(model, state, tails, k, x, c, stratum)[0])
                for k in range(len(self.inners))
            ]
            weights = fitted_weights({kind: np.stack([each[kind] for each in found]) for kind in trial.x})
            state["weights"] = torch.from_numpy(weights)
        return state

    @torch.no_grad()
    def settle_hidden(
        self,
        model: ConditionalVAE,
        state: dict[str, Tensor],
        held_out: Iterable[Batch],
        fitted: Iterable[Batch],
        cells: Cells,
    ) -> dict[str, Tensor]:
        normals, _ = compared_with(held_out, fitted, max(FEWEST_HIDDEN, HIDDEN_ROWS // len(cells)))
        given = normals.c is not None
        values: list[Floats] = []
        for k, inner in enumerate(self.inners):
            own = self._of(state, k)

            def scored(x: Tensor, c: Tensor | None, stratum: Tensor, inner: Score = inner, own: Any = own) -> Tensor:
                return inner.score(model, own, x, c, stratum).values.cpu()

            values.append(cells.under_each(scored, normals.x, seen=given).double().numpy())
        return {**state, "hidden": torch.from_numpy(self.each_summed_out(cells, values))}

    def each_summed_out(self, cells: Cells, values: list[Floats]) -> Floats:
        """(K, n) what each score says of n items of unknown condition, from its values (n, R) under every one."""
        n, r = values[0].shape
        of_all, item = np.tile(cells.stratum.cpu().numpy(), n), np.repeat(np.arange(n), r)
        log_weight = np.tile(cells.log_weight.cpu().numpy(), n)
        parts = dict(zip(self.names, (each.ravel() for each in values), strict=True))
        return self._each(Rows(item * 0.0, parts, of_all, item, log_weight))

    def surprises_hidden(self, state: dict[str, Tensor], summed: Floats) -> Floats:
        """(K, n) surprises of what each score says (K, n) of items of unknown condition."""
        known = state["hidden"].cpu().numpy()
        return np.stack([surprise_by(tail(good), each) for good, each in zip(known, summed, strict=True)])

    def summed_out(self, state: dict[str, Tensor], rows: Rows) -> Floats:
        """(N,) Σ_k w_k · U_k, U_k the surprise of what score k says with conditions summed out by its own rule."""
        weights = state["weights"].cpu().numpy()
        surprises = self.surprises_hidden(state, self._each(rows))
        return weights[weights > 0] @ surprises[weights > 0]  # +inf counts where it has weight

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
        weights, tails = state["weights"].tolist(), self._tails(state)
        shown = max((k for k, inner in enumerate(self.inners) if inner.has_map), key=weights.__getitem__, default=-1)
        values: Tensor | None = None
        parts: dict[str, Tensor] = {}
        found: Tensor | None = None
        for k, (name, weight) in enumerate(zip(self.names, weights, strict=True)):
            surprise, one = self._surprise(model, state, tails, k, x, c, stratum, want_map and k == shown)
            parts |= {name: one.values, f"{name}_surprise": surprise}
            for part, value in one.parts.items():  # of two scores with parts of one name the second says whose it is
                parts[f"{name}_{part}" if part in parts else part] = value
            if weight:  # +inf counts where it has weight
                values = weight * surprise if values is None else values + weight * surprise
            found = one.map if k == shown else found
        assert values is not None
        return ScoreResult(values, found, parts)

    # Inside ---------------------------------------------------------------------------------------------------------

    def _given(self) -> Tensor:
        weights = [1.0] * len(self.inners) if isinstance(self.weighting, str) else list(self.weighting)
        return torch.tensor(weights, dtype=torch.float64) / sum(weights)

    def joined(
        self, states: list[dict[str, Tensor]], tails: Tensor, strata: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        """The state of a fusion from those of its scores, what these give n good items (K, n), and strata (n,)."""
        return {**_numbered(states), "weights": weights, "tails": tails, "strata": strata.cpu()}

    def _of(self, state: dict[str, Tensor], k: int) -> dict[str, Tensor]:
        """The state of one score."""
        return {name.removeprefix(f"{k}."): t for name, t in state.items() if name.startswith(f"{k}.")}

    def _each(self, rows: Rows) -> Floats:
        """(K, N) what each score says of items of unknown condition."""
        found = []
        for name, inner in zip(self.names, self.inners, strict=True):
            values = rows.parts[name]
            found.append(soft(values, rows.item, rows.log_weight) if inner.is_likelihood else hard(values, rows.item))
        return np.stack(found)

    def _tails(self, state: dict[str, Tensor]) -> list[Calibration]:
        strata = state["strata"].cpu().numpy()
        return [tail(values, strata) for values in state["tails"].cpu().numpy()]

    def _surprise(
        self,
        model: ConditionalVAE,
        state: dict[str, Tensor],
        tails: list[Calibration],
        k: int,
        x: Tensor,
        c: Tensor | None,
        stratum: Tensor,
        want_map: bool = False,
    ) -> tuple[Tensor, ScoreResult]:
        """Surprise (B,) of score k, NaN where the score is."""
        one = self.inners[k].score(model, self._of(state, k), x, c, stratum, want_map=want_map)
        surprise = surprise_by(tails[k], one.values.cpu().numpy(), stratum.cpu().numpy())
        return torch.from_numpy(surprise).to(one.values.device), one


def compared_with(held_out: Iterable[Batch], fitted: Iterable[Batch], most: int) -> tuple[Batch, bool]:
    """Good items that tails are taken from, and whether the model was not fitted on them: there must be 30 of these."""
    normals = evenly(held_out, most, VALUES)
    new = normals is not None and len(normals.x) >= FEWEST
    if not new:
        normals = evenly(fitted, most, VALUES)
    if normals is None:
        raise DataError("score 'fusion' compares with good items; none were given")
    return normals, new


def values_of(score: Score, model: ConditionalVAE, state: dict[str, Tensor], normals: Batch) -> Tensor:
    """(n,) float64 on the CPU: what a score gives n items."""
    found = []
    for rows in torch.arange(len(normals.x), device=normals.x.device).split(AT_ONCE):
        x, c = normals.x[rows], None if normals.c is None else normals.c[rows]
        found.append(score.score(model, state, x, c, normals.stratum[rows]).values.cpu())
    return torch.cat(found)


def tail(values: np.ndarray, strata: np.ndarray | None = None) -> Calibration:
    """What surprise is measured against: values (n,) of good items in strata (n,), or of all together."""
    strata = np.zeros(len(values), np.int64) if strata is None else strata
    names = [str(s) for s in range(int(strata.max(initial=0)) + 1)]
    return Calibration.fit(values, strata, names, alpha=ALONE)


def surprise_by(known: Calibration, values: np.ndarray, strata: np.ndarray | None = None) -> np.ndarray:
    """Surprise (m,) of values (m,) in strata (m,); one that is not known is compared with all, and NaN stays NaN."""
    strata = np.full(len(values), -1) if strata is None else strata
    strata = np.where(strata < len(known.stratum_names), strata, -1)
    surprise, read = np.full(len(values), np.nan), ~np.isnan(values)
    surprise[read] = known.surprise(values[read], strata[read])
    return surprise


def _numbered(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{k}.{name}": t for k, own in enumerate(states) for name, t in own.items()}


def _again(batches: Iterable[Batch]) -> Iterable[Batch]:
    """What can be read more than once."""
    return list(batches) if isinstance(batches, Iterator) else batches


def _told_apart(names: list[str]) -> list[str]:
    """The names, with a number behind those that occur before: elbo, elbo_2."""
    return [name if (n := names[:i].count(name)) == 0 else f"{name}_{n + 1}" for i, name in enumerate(names)]
