"""Several scores as one: each turned into its surprise within the condition, then weighted and added up."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from knowngood.calibration import Calibration
from knowngood.config import Fusion
from knowngood.errors import DataError
from knowngood.models.base import Batch, Model
from knowngood.scores.base import Batches, Condition, Score, ScoreResult, State
from knowngood.scores.marginal import Cells, Floats, Rows, hard, soft

ITEMS = 4096  # normal items that tails are taken from
MARGINAL_ROWS, FEWEST_MARGINAL = 1 << 15, 256  # normal items times conditions for marginal tails, and items at least
FEWEST = 30  # held-out normals; with fewer those that the model was fitted on are taken
VALUES = 1 << 27  # of all normal items together, at most
AT_ONCE = 128  # items scored at a time
ALONE = 0.05  # a stratum of at least 1/.05 − 1 = 19 normal items has tails of its own, smaller ones those of all


class FusionScore(Score):
    """S(x) = Σ_k w_k · U_k(x), w_k ≥ 0, Σ w_k = 1; U_k = −log P(S_k ≥ S_k(x) | condition) is the surprise of score k.

    Scores of different units and conditions of different spread so become comparable before they are added. The tail
    probability is that among held-out normal items (those of the select split, at most 4,096), within the stratum where
    that has 19 of them, else among all; beyond the largest one it is extrapolated as an exponential, see
    `calibration.surprise`. So S never ties and has no upper end. With fewer than 30 held-out items tails come from
    those that the model was fitted on, each scored without itself where a score can (`Score.leave_one_out`).

    Where no condition of an item is known, every score is marginalised by its own rule before they are added: a
    likelihood is averaged over conditions, of any other the smallest counts. The surprise is then that among normal
    items whose conditions were unknown too.

    Parts: each score by its `<name>`, its `<name>_surprise`, and its own parts. The map is that of the score with the
    largest weight among those that have one, in its own unit.
    """

    marginalises = True

    def __init__(self, options: Fusion) -> None:
        super().__init__(options)
        self.inners: list[Score] = [inner.build() for inner in options.scores]
        self.names = _distinct([inner.name for inner in options.scores])
        weights = np.ones(len(self.inners)) if options.weights is None else np.asarray(options.weights, np.float64)
        self.weights = weights / weights.sum()
        self.has_map = any(inner.has_map for inner in self.inners)

    def parted(self, state: State) -> list[tuple[str, Score, State]]:
        """The scores, each with its name among the parts and its own state."""
        each = zip(self.names, self.inners, strict=True)
        return [(name, inner, _of(state, k)) for k, (name, inner) in enumerate(each)]

    def check(self, model: Model) -> None:
        for inner in self.inners:
            inner.check(model)

    def fit(self, model: Model, batches: Batches) -> State:
        """The states of all scores, `<position>.<name>`. Tails come with `fit_held_out`, which must follow."""
        batches = _reread(batches)
        return _numbered([inner.fit(model, batches) for inner in self.inners])

    @torch.no_grad()
    def fit_held_out(self, model: Model, state: State, held_out: Batches, fitted: Batches) -> State:
        """Adds "tails" (K, n), what the scores give normal items, and their "strata" (n,)."""
        held_out, fitted = _reread(held_out), _reread(fitted)
        states = [inner.fit_held_out(model, _of(state, k), held_out, fitted) for k, inner in enumerate(self.inners)]
        normals, known = compared_with(held_out, fitted, ITEMS)
        tails = [values_of(inner, model, own, normals, known) for inner, own in zip(self.inners, states, strict=True)]
        return {**_numbered(states), "tails": torch.stack(tails), "strata": normals.stratum.cpu()}

    @torch.no_grad()
    def fit_marginal(self, model: Model, state: State, held_out: Batches, fitted: Batches, cells: Cells) -> State:
        """Adds "marginal_tails" (K, n), what the scores give normal items whose conditions are unknown."""
        normals, known = compared_with(held_out, fitted, max(FEWEST_MARGINAL, MARGINAL_ROWS // len(cells)))
        conditional = normals.c is not None
        parts = {}
        for k, (name, inner) in enumerate(zip(self.names, self.inners, strict=True)):
            own = _of(state, k)

            def values(x: Tensor, c: Condition, stratum: Tensor, inner: Score = inner, own: State = own) -> Tensor:
                return valuing(inner, known)(model, own, x, c, stratum).cpu()

            parts[name] = cells.under_each(values, normals.x, conditional=conditional).double().numpy().ravel()
        n, item = len(normals.x), np.repeat(np.arange(len(normals.x)), len(cells))
        stratum, log_weight = (np.tile(t.cpu().numpy(), n) for t in (cells.stratum, cells.log_weight))
        rows = Rows(np.zeros(len(item)), parts, stratum, item, log_weight)
        return {**state, "marginal_tails": torch.from_numpy(self.each_marginal(rows))}

    def each_marginal(self, rows: Rows) -> Floats:
        """(K, N) what each score gives items of unknown condition, by its own rule."""
        each = ((rows.parts[name], inner) for name, inner in zip(self.names, self.inners, strict=True))
        given = rows.item, rows.log_weight
        return np.stack([soft(v, *given) if inner.is_likelihood else hard(v, rows.item) for v, inner in each])

    def marginal(self, state: State, rows: Rows) -> Floats:
        """(N,) Σ_k w_k · U_k, U_k the surprise of score k, marginalised over conditions by its own rule."""
        normals = state["marginal_tails"].cpu().numpy()
        each = zip(normals, self.each_marginal(rows), strict=True)
        surprises = np.stack([surprise_by(tail(of_normals), values) for of_normals, values in each])
        counts = self.weights > 0  # +inf counts where it has weight
        return self.weights[counts] @ surprises[counts]

    def score(
        self, model: Model, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        strata = state["strata"].cpu().numpy()
        mapped = [k for k, inner in enumerate(self.inners) if inner.has_map]
        shown = max(mapped, key=self.weights.__getitem__, default=-1)
        total, shown_map = torch.zeros(len(x), dtype=torch.float64), None
        parts: dict[str, Tensor] = {}
        for k, (name, inner) in enumerate(zip(self.names, self.inners, strict=True)):
            one = inner.score(model, _of(state, k), x, c, stratum, want_map=want_map and k == shown)
            known = tail(state["tails"][k].cpu().numpy(), strata)
            surprise = surprise_by(known, one.values.cpu().numpy(), stratum.cpu().numpy())
            parts |= {name: one.values, f"{name}_surprise": torch.from_numpy(surprise).to(one.values.device)}
            for part, value in one.parts.items():  # of two scores with parts of one name the second says whose it is
                parts[f"{name}_{part}" if part in parts else part] = value
            if self.weights[k]:  # +inf counts where it has weight
                total = total + self.weights[k] * torch.from_numpy(surprise)
            shown_map = one.map if k == shown else shown_map
        return ScoreResult(total.to(parts[self.names[0]].device), shown_map, parts)


def compared_with(held_out: Batches, fitted: Batches, most: int) -> tuple[Batch, bool]:
    """At most so many held-out normals; where there are fewer than 30, normals that were fitted on, and True."""
    normals = evenly(held_out, most)
    known = normals is None or len(normals.x) < FEWEST
    if known:
        normals = evenly(fitted, most)
    if normals is None:
        raise DataError("scores are compared with those of normal items; none were given")
    return normals, known


def evenly(batches: Batches, most: int, values: int = VALUES) -> Batch | None:
    """At most so many items and values of these, but at least 30 items if there are so many; None of none.

    They are the first of every so many, the same ones whatever the batches.
    """
    kept: list[Batch] = []
    count, every = 0, 1
    for batch in batches:
        if not len(batch.x):
            continue
        most = max(2 * FEWEST, min(most, values // batch.x[0].numel()))
        kept.append(batch.rows(slice(-count % every, None, every)))
        count += len(batch.x)
        while -(-count // every) > most:  # twice as sparse from here on
            kept, every = [Batch.cat(kept).rows(slice(None, None, 2))], 2 * every
    return Batch.cat(kept) if kept else None


def values_of(score: Score, model: Model, state: State, normals: Batch, known: bool) -> Tensor:
    """(n,) float64 on the CPU: what a score gives n items, or would without each of them where it is `known`."""
    values = valuing(score, known)
    parts = [normals.rows(rows) for rows in torch.arange(len(normals.x), device=normals.x.device).split(AT_ONCE)]
    return torch.cat([values(model, state, some.x, some.c, some.stratum).cpu() for some in parts])


def valuing(score: Score, known: bool) -> Callable[..., Tensor]:
    """What gives the values (B,) of items by model, state, x, c and stratum, see `values_of`."""
    return score.leave_one_out if known else lambda *given: score.score(*given).values


def tail(values: np.ndarray, strata: np.ndarray | None = None) -> Calibration:
    """What surprise is measured against: values (n,) of normal items in strata (n,), or of all together."""
    strata = np.zeros(len(values), np.int64) if strata is None else strata
    names = [str(s) for s in range(int(strata.max(initial=0)) + 1)]
    return Calibration.fit(values, strata, names, alpha=ALONE)


def surprise_by(known: Calibration, values: np.ndarray, strata: np.ndarray | None = None) -> np.ndarray:
    """Surprise (m,) of values (m,) in strata (m,); one that is not known is compared with all, and NaN stays NaN."""
    strata = np.full(len(values), -1) if strata is None else strata
    strata = np.where(strata < len(known.stratum_names), strata, -1)
    surprise, valid = np.full(len(values), np.nan), ~np.isnan(values)
    surprise[valid] = known.surprise(values[valid], strata[valid])
    return surprise


def _reread(batches: Batches) -> Batches:
    """What can be read more than once."""
    return list(batches) if isinstance(batches, Iterator) else batches


def _numbered(states: list[State]) -> State:
    return {f"{k}.{name}": t for k, own in enumerate(states) for name, t in own.items()}


def _of(state: State, k: int) -> State:
    """The state of one score."""
    return {name.removeprefix(f"{k}."): t for name, t in state.items() if name.startswith(f"{k}.")}


def _distinct(names: list[str]) -> list[str]:
    """The names, with a number behind those that occur before: elbo, elbo_2."""
    return [name if (n := names[:i].count(name)) == 0 else f"{name}_{n + 1}" for i, name in enumerate(names)]
