"""DCI: disentanglement, completeness and informativeness, from which codes a random forest uses for which factor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.factor_metrics.inputs import Floats, Ints, checked_codes, checked_factors, halves
from knowngood.errors import DataError

LEAF = 5  # items at least in a leaf: without a limit, trees that grow to the last item split on noise


class Dci(NamedTuple):
    disentanglement: float  # does a code serve one factor only?
    completeness: float  # is one code enough for a factor?
    informativeness: float  # mean of `per_factor`
    per_factor: Floats  # (K,) how well the codes together predict the factor, on held-out items
    importance: Floats  # (D, K) share of the forest's gain; a column sums to 1, or is 0 if nothing was learnt


def dci(
    codes: ArrayLike, factors: ArrayLike, *, categorical: Iterable[int] = (), trees: int = 50, seed: int = 0
) -> Dci:
    """DCI of Eastwood & Williams (ICLR 2018), all parts from 0 to 1, higher better.

    Importance is the impurity importance of scikit-learn's random forests (every split sees all codes), fitted on one
    random half. Informativeness is judged on the other: R² for amounts, balanced accuracy above chance for categories,
    (accuracy − 1/C) / (1 − 1/C), both 0 where no better than guessing; the paper gives an error instead. Much of the
    literature uses gradient boosting: compare numbers only within one choice.

    Disentanglement and completeness do not see whether the factors are predicted at all: read them with
    informativeness. They depend on the kind of predictor; a code that is an odd function of one factor is still good.

    Args:
        codes: (N, D) posterior means.
        factors: (N, K), K ≥ 2, numbers or text.
        categorical: columns of factors that are categories; text always is.
        trees: number of trees in each of the K forests.
        seed: of the halves and the forests; the same seed gives the same result.

    Raises:
        DataError: shapes do not fit, values are not finite, a factor is constant, or a category is too rare.
    """
    z = checked_codes(codes, least=4)
    known = checked_factors(factors, len(z), categorical, least=2)
    learn, judge = halves(len(z), seed, known.levels[:, known.categorical])
    columns = []
    for k, is_category in enumerate(known.categorical):
        target = known.levels[:, k] if is_category else known.values[:, k]
        columns.append(_forest(z, target, bool(is_category), learn, judge, trees, seed))
    importance = np.stack([shares for shares, _ in columns], axis=1)
    per_factor = np.array([max(0.0, quality) for _, quality in columns])
    return Dci(*dci_of(importance), float(per_factor.mean()), per_factor, importance)


def dci_of(importance: ArrayLike) -> tuple[float, float]:
    """Disentanglement and completeness from the importance (D, K), not negative, of every code for every factor.

    Disentanglement of a code: 1 − entropy over factors of its importances, in base K; the codes weighted by their share
    of all importance. Completeness of a factor: 1 − entropy over codes, in base D; the plain mean over factors, a
    factor of no importance counting 0, and 1 for a single code.
    """
    r = np.asarray(importance, dtype=np.float64)
    if r.ndim != 2 or r.shape[1] < 2 or (r < 0).any():
        raise DataError(f"importance has shape {r.shape}; expected (codes, factors ≥ 2), none negative")
    if r.sum() == 0:
        return 0.0, 0.0
    weights = r.sum(axis=1) / r.sum()
    return float(weights @ _peaked(r)), float(_peaked(r.T).mean())


def _peaked(rows: Floats) -> Floats:
    """1 − entropy of each row as shares, in the base of its length; 0 for a row of zeros."""
    total = rows.sum(axis=1, keepdims=True)
    shares = np.divide(rows, total, out=np.zeros_like(rows), where=total > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    base = np.log(rows.shape[1]) if rows.shape[1] > 1 else 1.0
    return np.where(total[:, 0] > 0, 1 + (shares * logs).sum(axis=1) / base, 0.0)


def _forest(
    z: Floats, target: np.ndarray, is_category: bool, learn: Ints, judge: Ints, trees: int, seed: int
) -> tuple[Floats, float]:
    """Importances (D,) and quality on the judging half."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.metrics import balanced_accuracy_score, r2_score

    kind = RandomForestClassifier if is_category else RandomForestRegressor
    options: dict[str, Any] = {"max_features": None, "min_samples_leaf": LEAF, "random_state": seed}
    forest = kind(trees, **options).fit(z[learn], target[learn])
    guess = forest.predict(z[judge])
    if is_category:
        return forest.feature_importances_, float(balanced_accuracy_score(target[judge], guess, adjusted=True))
    return forest.feature_importances_, float(r2_score(target[judge], guess))
