"""What would become of items if labelled anomalies taught the score: of good ones, and of labelled ones held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from knowngood.data.conditions import Expanded
from knowngood.detector.fit.discriminant import logistic
from knowngood.detector.rows import Items, refuse_unread
from knowngood.scores.marginal import hard, segment_starts
from knowngood.scores.patches import bounded
from knowngood.scores.taught import described, usual

if TYPE_CHECKING:
    from knowngood.detector.fit.plan import Plan
    from knowngood.detector.pipeline import Pipeline

FOLDS = 5  # of labelled anomalies and of good items, each held out once
GOOD = 2000  # of the items fitted on, and as many of those that select, are learned against
FEWEST = 10  # good items that select, or of a stratum, for scores to be compared with them alone


class Line(NamedTuple):
    """How far codes (n, V) lie on the side of labelled anomalies."""

    direction: Tensor  # (V,)
    intercept: float

    def __call__(self, codes: Tensor) -> Tensor:
        return codes @ self.direction + self.intercept


class Offset(NamedTuple):
    """Where the term begins: beyond all good items but a share, and by so many of their standard deviations more."""

    share: float
    margin: float = 0.0

    def of(self, sides: Tensor) -> float:
        return float(sides.quantile(1 - self.share)) + self.margin * float(sides.std())


class Pair(NamedTuple):
    """A value of each labelled anomaly and of each good item that these are compared with."""

    odd: Tensor
    good: Tensor


@dataclass(frozen=True)
class Trial:
    """Good items and labelled anomalies in folds: what is judged was not learned from."""

    good: Tensor  # (N, V) bounded codes; those that anomalies are compared with come last
    odd: Tensor  # (n, V)
    good_fold: np.ndarray  # (N,)
    odd_fold: np.ndarray  # (n,)
    scores: Pair  # without the term, less what is usual in the stratum
    usually: tuple[Tensor, Tensor]  # mean and standard deviation (V,) of codes
    unit: float  # standard deviation of the scores of good items

    @classmethod
    def of(cls, pipeline: Pipeline, plan: Plan, labelled: Items, rng: np.random.Generator) -> Trial:
        """An anomaly that could have several conditions has the lowest score of these.

        Compared with are the good items that select, which the model was not fitted on, or all if these are few.
        """
        fit, select = (_evenly(plan.split[name]) for name in ("fit", "select"))
        apart, compared = (fit, select) if len(select) >= FEWEST else (fit[:0], np.concatenate([fit, select]))
        items = plan.normals[compared]
        own, under = pipeline.expand(items, "error"), pipeline.expand(labelled, "infer")
        (codes, good), (rows, odd) = _scored(pipeline, items, own), _scored(pipeline, labelled, under)
        codes = torch.cat([_codes(pipeline, plan.normals[apart]), codes]) if len(apart) else codes
        usually, folds = usual(codes[: len(fit)]), min(FOLDS, len(labelled))
        centres = _centres(good, own.stratum, len(pipeline.schema.stratum_names))
        good, odd = good - centres[own.stratum], odd - centres[under.stratum]
        return cls(
            good=_bound(codes, usually),
            odd=_bound(rows[segment_starts(under.item)], usually),
            good_fold=rng.permutation(len(codes)) % folds,
            odd_fold=rng.permutation(len(labelled)) % folds,
            scores=Pair(torch.from_numpy(hard(odd.numpy(), under.item)), good),
            usually=usually,
            unit=float(good.std()),
        )

    def line(self, ridge: float, without: int = -1) -> Line:
        """Learned from all but one fold. All labelled anomalies together weigh what all good items do."""
        odd, good = (
            codes[torch.from_numpy(fold != without)]
            for codes, fold in ((self.odd, self.odd_fold), (self.good, self.good_fold))
        )
        sign = torch.cat([torch.ones(len(odd)), -torch.ones(len(good))]).double()
        weight = torch.cat([torch.full((len(some),), 0.5 / len(some)).double() for some in (odd, good)])
        return Line(*logistic(torch.cat([odd, good]), sign, weight, ridge))

    def sides(self, ridge: float) -> Pair:
        """How far each anomaly, and each of all good items, lies on the odd side, by the line without its fold."""
        lines = [self.line(ridge, k) for k in range(int(self.odd_fold.max()) + 1)]
        found = []
        for codes, fold in ((self.odd, self.odd_fold), (self.good, self.good_fold)):
            each = torch.stack([line(codes) for line in lines], 1)
            found.append(each[torch.arange(len(codes)), torch.from_numpy(fold)])
        return Pair(*found)

    def terms(self, sides: Pair, offset: Offset) -> Pair:
        """The term for weight 1, of all good items; it begins where good items of the other folds say."""
        folds = range(int(self.odd_fold.max()) + 1)
        begins = torch.tensor([offset.of(sides.good[torch.from_numpy(self.good_fold != k)]) for k in folds])
        factor = self.factor(sides)
        return Pair(
            factor * (sides.odd - begins[self.odd_fold]).clamp_min(0),
            factor * (sides.good - begins[self.good_fold]).clamp_min(0),
        )

    def factor(self, sides: Pair) -> float:
        """What gives sides the spread that scores of good items have."""
        return self.unit / max(float(sides.good.std()), 1e-12)

    def raised(self, terms: Pair, weight: float) -> Pair:
        """Scores with the term."""
        compared = terms.good[len(terms.good) - len(self.scores.good) :]
        return Pair(self.scores.odd + weight * terms.odd, self.scores.good + weight * compared)


# Items ----------------------------------------------------------------------------------------------------------------


def _evenly(index: np.ndarray) -> np.ndarray:
    """At most 2,000 of them, spread evenly."""
    return index[np.linspace(0, len(index) - 1, min(GOOD, len(index))).round().astype(int)]


def _bound(codes: Tensor, usually: tuple[Tensor, Tensor]) -> Tensor:
    return bounded((codes - usually[0]) / usually[1])


def _codes(pipeline: Pipeline, items: Items) -> Tensor:
    """(n, V) of good items."""
    errors: dict[int, str] = {}
    rows = pipeline.rows(items, pipeline.expand(items, "error"), errors)
    found = torch.cat([described(pipeline.model, chunk.x).cpu() for chunk in rows])
    refuse_unread(items, errors)
    return found


def _scored(pipeline: Pipeline, items: Items, rows: Expanded) -> tuple[Tensor, Tensor]:
    """Codes (M, V) and scores (M,) of rows."""
    errors: dict[int, str] = {}
    codes, scores = [], []
    for chunk, found in pipeline.scored(items, rows, errors):
        codes.append(described(pipeline.model, chunk.x).cpu())
        scores.append(found.values.cpu())
    refuse_unread(items, errors)
    return torch.cat(codes), torch.cat(scores)


def _centres(scores: Tensor, stratum: np.ndarray, strata: int) -> Tensor:
    """(strata,) medians of good items' scores (n,), that of all where a stratum has fewer than 10."""
    centres = scores.median().repeat(strata)
    for s in range(strata):
        own = torch.from_numpy(stratum == s)
        if own.sum() >= FEWEST:
            centres[s] = scores[own].median()
    return centres
