"""Linear probes: how much of the factors a linear map reads from the codes, and of the codes from the factors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.factor_metrics.inputs import (
    Factors,
    Floats,
    Ints,
    checked_codes,
    checked_factors,
    halves,
    standardised,
)


class LinearProbe(NamedTuple):
    factors_from_codes: Floats  # (K,) R², or balanced accuracy above chance for a category
    codes_from_factors: Floats  # (D,) R²


def linear_probe(
    codes: ArrayLike, factors: ArrayLike, *, categorical: Iterable[int] = (), seed: int = 0
) -> LinearProbe:
    """Linear prediction both ways, learnt on one random half and judged on the other. At most 1, higher better.

    Codes → factors: least squares and R² for an amount; for a category logistic regression and balanced accuracy above
    chance, (accuracy − 1/C) / (1 − 1/C). Factors → codes: least squares on the amounts and the categories (one-hot), R²
    of each code. 0 is no better than the mean or a guess; below 0 is worse. A constant code has 0.

    It does not see how the factors lie in the codes: any invertible linear mix of the codes does as well. Nor what is
    bent: an angle is better given as its sine and cosine, two factors.

    Args:
        codes: (N, D) posterior means.
        factors: (N, K) or (N,), numbers (continuous ones too) or text.
        categorical: columns of factors that are categories; text always is.
        seed: of the halves.

    Raises:
        DataError: shapes do not fit, values are not finite, a factor is constant, or a category is too rare.
    """
    z = checked_codes(codes, least=4)
    known = checked_factors(factors, len(z), categorical)
    learn, judge = halves(len(z), seed, known.levels[:, known.categorical])
    features = standardised(z, z[learn])
    found = _r2(features, known.values, learn, judge)
    for k in np.flatnonzero(known.categorical):
        found[k] = _accuracy(features, known.levels[:, k], learn, judge)
    return LinearProbe(found, _r2(_design(known), z, learn, judge))


def _r2(inputs: Floats, targets: Floats, learn: Ints, judge: Ints) -> Floats:
    """(T,) R² on `judge` of least squares fitted on `learn`: inputs (N, P), targets (N, T); 0 for a constant target."""
    design = np.column_stack([inputs, np.ones(len(inputs))])
    targets = standardised(targets, targets[learn])
    weights = np.linalg.lstsq(design[learn], targets[learn], rcond=None)[0]
    left = ((targets[judge] - design[judge] @ weights) ** 2).sum(axis=0)
    total = ((targets[judge] - targets[judge].mean(axis=0)) ** 2).sum(axis=0)
    return np.where(total > 0, 1 - left / np.where(total > 0, total, 1), 0.0)


def _accuracy(features: Floats, category: Ints, learn: Ints, judge: Ints) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score

    classifier = LogisticRegression(max_iter=1000, class_weight="balanced").fit(features[learn], category[learn])
    return float(balanced_accuracy_score(category[judge], classifier.predict(features[judge]), adjusted=True))


def _design(known: Factors) -> Floats:
    """(N, P): amounts as they are, standardised, and categories one-hot."""
    amounts = standardised(known.values, known.values)[:, ~known.categorical]
    one_hot = [np.eye(int(column.max()) + 1)[column] for column in known.levels[:, known.categorical].T]
    return np.column_stack([amounts, *one_hot])
