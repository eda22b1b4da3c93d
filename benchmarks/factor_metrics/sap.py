"""SAP, separated attribute predictability."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.factor_metrics.gap import Gap, gap
from benchmarks.factor_metrics.inputs import Floats, Ints, checked_codes, checked_factors, halves, standardised


def sap(codes: ArrayLike, factors: ArrayLike, *, categorical: Iterable[int] = (), seed: int = 0) -> Gap:
    """SAP: how much better the best single code predicts a factor than the second best, mean over factors.

    From 0 to 1, higher better. arXiv:1711.00848, sec. 3. A code alone predicts an amount by a line: squared
    correlation; and a category by thresholds, one fewer than there are categories, set on one random half to balance
    the categories: balanced accuracy on the other, above chance, (accuracy − 1/C) / (1 − 1/C), at least 0.

    It sees only what a line or a few thresholds see: a code that is a bent function of its factor loses. It does not
    see whether one code holds several factors (see `modularity`). Dead codes change nothing.

    Args:
        codes: (N, D) posterior means.
        factors: (N, K) or (N,), numbers or text.
        categorical: columns of factors that are categories; text always is.
        seed: of the halves.

    Returns:
        The score, and for each factor its gap and its best code.

    Raises:
        DataError: shapes do not fit, values are not finite, a factor is constant, or a category is too rare.
    """
    z = checked_codes(codes, least=4)
    known = checked_factors(factors, len(z), categorical)
    learn, judge = halves(len(z), seed, known.levels[:, known.categorical])
    values = standardised(known.values, known.values)
    scores = (standardised(z, z).T @ values / len(z)) ** 2
    for k in np.flatnonzero(known.categorical):
        for j in range(z.shape[1]):
            scores[j, k] = _thresholds(z[:, [j]], known.levels[:, k], learn, judge)
    return gap(scores)


def _thresholds(code: Floats, category: Ints, learn: Ints, judge: Ints) -> float:
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    leaves = int(category.max()) + 1
    tree = DecisionTreeClassifier(max_leaf_nodes=leaves, class_weight="balanced", random_state=0)
    guess = tree.fit(code[learn], category[learn]).predict(code[judge])
    return max(0.0, float(balanced_accuracy_score(category[judge], guess, adjusted=True)))
