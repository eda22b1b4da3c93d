"""Whether a penalty learned from labelled anomalies improves AUROC in cross-validation. Arrays in, the choice out.

The penalty of a bounded vector b is weight · max(0, direction · b − offset). `direction` comes from ridge-regularised
logistic regression of labelled anomalies against normal items, `offset` from the largest values of held-out normal
items. Ridge, offset and weight are chosen by K-fold cross-validation over both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

from knowngood.data.progress import track

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LEAST_COMPARED = 10  # normal items that scores are compared with; of a Mondrian group with a median of its own
FOLDS = 5
RIDGES = (1.0, 0.1, 0.01)  # 1 / C
OFFSETS = (
    (0.0, 1.0),
    (0.0, 0.0),
    (0.003, 0.0),
    (0.01, 0.0),
)  # share of normal items above it, standard deviations more
WEIGHTS = (0.3, 1.0, 3.0)  # the penalty has the standard deviation of what it is added to
ERRORS = 1.5  # standard errors that the gain has to exceed
HARM, PRICE = 0.005, 3.0  # AUROC that other anomalies may lose; gains that make up for as much of it
UNMOVED = 0.99  # least share of held-out normal items without a penalty


@dataclass(frozen=True, eq=False)
class Evidence:
    """N items as arrays: what the penalty is learned from, and how scores change with it.

    vectors (M, F): b(v), bounded. item (M,): whose vector; an item may have several, or none. label (N,): 1 for
    labelled anomalies, 0 for normal items. compared (N,): items whose scores count. centre (N,): typical normal score
    of the item's Mondrian group. spread: standard deviation of what the penalty is added to, over normal items.
    projected(direction (F,), at (n,)) → (n, L) direction · b(v) at the L locations of items, −inf where ignored.
    scores(penalty (n, L), at (n,)) → (n,) scores. state: tensors that go with the penalty. group (N,): the same for
    items that belong together, which lie in one fold; None where all are independent.
    """

    vectors: Floats
    item: Ints
    label: Ints
    compared: Bools
    centre: Floats
    spread: float
    projected: Callable[[Floats, Ints], Floats]
    scores: Callable[[Floats, Ints], Floats]
    state: dict[str, Tensor] = field(default_factory=dict)
    group: Ints | None = None


class Choice(NamedTuple):
    """The penalty, weight 0 for none; AUROC of held-out labelled anomalies before and after."""

    weight: float
    direction: Floats
    offset: float
    auroc: tuple[float, float]


def choose(evidence: Evidence, seed: int) -> Choice:
    """The penalty with the largest gain in held-out AUROC, minus its price; weight 0 if no gain is significant."""
    label, normal, n = evidence.label, evidence.label == 0, len(evidence.label)
    independent = len(np.flatnonzero(label)) if evidence.group is None else len(np.unique(evidence.group[~normal]))
    kind = StratifiedKFold if evidence.group is None else StratifiedGroupKFold
    folds = kind(min(FOLDS, independent), shuffle=True, random_state=seed)
    parts = list(folds.split(label, label, evidence.group))
    at = np.flatnonzero(evidence.compared)
    zero = np.zeros_like(evidence.projected(np.zeros(evidence.vectors.shape[1]), at))

    def scores_with(added: Floats) -> tuple[Floats, Floats]:
        values = evidence.scores(added, at) - evidence.centre[at]
        return values[label[at] == 1], values[label[at] == 0]

    before = scores_with(zero)
    auroc = float(shares_below(*before).mean())
    best, most = Choice(0.0, np.zeros(evidence.vectors.shape[1]), 0.0, (auroc, auroc)), 0.0
    every = [np.empty((n, zero.shape[1])) for _ in RIDGES]  # of each item, by the direction without its fold
    fits = [(sides, ridge, *part) for sides, ridge in zip(every, RIDGES, strict=True) for part in parts]
    for sides, ridge, train, test in track(fits, "learning from labelled anomalies", len(fits), "fits"):
        direction, intercept = logistic(evidence, train, ridge)
        sides[test] = evidence.projected(direction, test) + intercept
    for ridge, sides in zip(RIDGES, every, strict=True):
        largest, counted = sides.max(axis=1), sides[normal][np.isfinite(sides[normal])]
        std = max(float(counted.std()), 1e-12)
        for share, margin in OFFSETS:
            added = np.empty_like(sides)
            for train, test in parts:
                begins = np.quantile(largest[train][normal[train]], 1 - share) + margin * std
                added[test] = (sides[test] - begins).clip(0) * evidence.spread / std
            if (added[normal] == 0).all(axis=1).mean() < UNMOVED:
                continue
            for weight in WEIGHTS:
                after = scores_with(weight * added[at])
                (by, error), lost = gain(before, after), harm(before[1], after[1])
                if by > ERRORS * error and lost <= HARM and by - PRICE * lost > most + 1e-9:
                    direction, intercept = logistic(evidence, np.arange(n), ridge)
                    begins = np.quantile(largest[normal], 1 - share) + margin * std
                    offset, scale = float(begins) - intercept, evidence.spread / std
                    best = Choice(weight, scale * direction, scale * offset, (auroc, auroc + by))
                    most = by - PRICE * lost
    return best


def logistic(evidence: Evidence, items: Ints, ridge: float) -> tuple[Floats, float]:
    """Direction (F,) and intercept that minimise Σ w · log loss + ridge/2 · |direction|² over the vectors of `items`.

    Labelled anomalies together weigh as much as normal items, and each item as much as others of its label.
    """
    rows = np.flatnonzero(np.isin(evidence.item, items))
    item, y = evidence.item[rows], evidence.label[evidence.item[rows]]
    if len(np.unique(y)) < 2:  # no labelled anomaly among these items has a vector
        return np.zeros(evidence.vectors.shape[1]), 0.0
    weight = np.take(1 / np.bincount(item).clip(1), item)
    for label in (0, 1):
        weight[y == label] /= 2 * np.sum(weight[y == label])
    model = LogisticRegression(C=1 / ridge, tol=1e-8, max_iter=1000)
    model.fit(evidence.vectors[rows], y, sample_weight=weight)
    return model.coef_[0], float(np.atleast_1d(model.intercept_)[0])


def shares_below(values: Floats, others: Floats) -> Floats:
    """(n,) the share of `others` below each value, ties half. The mean over anomalies, of normal ones, is AUROC."""
    others = np.sort(others)
    return (np.searchsorted(others, values) + np.searchsorted(others, values, side="right")) / (2 * len(others))


def gain(before: tuple[Floats, Floats], after: tuple[Floats, Floats]) -> tuple[float, float]:
    """Gain in AUROC, from scores of (anomalies, normal items) before and after, and its standard error.

    The error is that of two AUROCs on the same items (DeLong et al. 1988).
    """
    anomalous = shares_below(*after) - shares_below(*before)
    normal = shares_below(before[1], before[0]) - shares_below(after[1], after[0])
    error = (anomalous.var() / len(anomalous) + normal.var() / len(normal)) ** 0.5
    return float(anomalous.mean()), float(error)


def harm(before: Floats, after: Floats) -> float:
    """The most AUROC that an anomaly of unchanged score can lose as normal items' scores (n,) rise.

    It is max_s of F(s) − G(s), F and G the shares of normal items that score at most s, before and after.
    """
    at = np.concatenate([before, after])
    below = [np.searchsorted(np.sort(scores), at, side="right") for scores in (before, after)]
    return float((below[0] - below[1]).max()) / len(before)


def centres(scores: Floats, group: Ints, groups: int) -> Floats:
    """(groups + 1,) medians of normal scores by Mondrian group; that of all for fewer than 10, and at the end."""
    own = [scores[group == g] for g in range(groups)]
    return np.array([np.median(some if len(some) >= LEAST_COMPARED else scores) for some in [*own, scores]])
