"""Verdicts by condition beside what calibration guarantees there, and how many false alarms are to be expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from knowngood.calibration import alarm_rank
from knowngood.data.select import natural
from knowngood.evaluation.results import INFERRED, Results


@dataclass(frozen=True)
class ConditionRow:
    """One condition, or one Mondrian group.

    `expected` is the 95 % interval of the number of false alarms. It is known where the condition was given and has a
    guarantee of its own: that holds in the true condition, not among images that were inferred to be of one.
    `calibrated`, `own` and `threshold` are None where calibration does not know the condition.
    """

    name: str
    images: int
    flagged: int
    normals: int
    false_alarms: int
    expected: tuple[int, int] | None
    anomalies: int
    detected: int
    calibrated: int | None
    own: bool | None
    threshold: float | None
    inferred: bool

    @property
    def over(self) -> bool:
        """More false alarms than expected."""
        return self.expected is not None and self.false_alarms > self.expected[1]


def by_condition(results: Results) -> list[ConditionRow]:
    """One row a condition of the table or of the calibration; names in natural order ('class=10' after 'class=9')."""
    known = {str(stratum["name"]): stratum for stratum in results.calibration.get("strata", ())}
    names = results.strata()
    present = set(names[results.scored])
    absent = set(known) - {name.removesuffix(INFERRED) for name in present}
    rows = []
    for name in sorted(present | absent, key=natural):
        member, inferred = results.scored & (names == name), name.endswith(INFERRED)
        normal, anomalous = (member & (results.labels == label) for label in (0, 1))
        normals, flagged = int(normal.sum()), results.flagged
        own = calibrated = threshold = expected = None
        if (stratum := known.get(name.removesuffix(INFERRED))) is not None:
            own, calibrated, threshold = bool(stratum.get("own", True)), int(stratum["n"]), stratum.get("threshold")
            if own and normals and not inferred:
                expected = expected_false_alarms(results.alpha, [calibrated], [normals])
        row = ConditionRow(
            name=name or "unknown",
            images=int(member.sum()),
            flagged=int(flagged[member].sum()),
            normals=normals,
            false_alarms=int(flagged[normal].sum()),
            expected=expected,
            anomalies=int(anomalous.sum()),
            detected=int(flagged[anomalous].sum()),
            calibrated=calibrated,
            own=own,
            threshold=None if threshold is None else float(threshold),
            inferred=inferred,
        )
        rows.append(row)
    return rows


def sharing_groups(rows: Sequence[ConditionRow], pooled: int | None) -> tuple[list[int], list[int]]:
    """Calibration images and tested normals of each set of images that shares a threshold.

    Args:
        pooled: calibration images that conditions without a guarantee of their own are compared with.
    """
    rows = [row for row in rows if not row.inferred]
    own = [row for row in rows if row.own and row.normals]
    calibrated, tested = [row.calibrated or 0 for row in own], [row.normals for row in own]
    shared = sum(row.normals for row in rows if row.own is False)
    if shared and pooled:
        return [*calibrated, int(pooled)], [*tested, shared]
    return calibrated, tested


def expected_false_alarms(alpha: float, calibrated: Sequence[int], tested: Sequence[int]) -> tuple[int, int]:
    """How many of the tested normals are flagged at rate `alpha`: the central interval of probability .95 or more.

    With n calibration images and k = ⌊α(n+1)⌋ the rate is Beta(k, n+1−k), so m tested normals give a beta-binomial
    count (arXiv:1209.2673). That is exact for one group; the sum over several is approximated by the beta-binomial of
    the same mean and variance.

    Args:
        calibrated: calibration images of each group that has its own threshold.
        tested: normals tested in each of these groups.
    """
    from scipy.stats import betabinom

    n, m = np.asarray(calibrated, float), np.asarray(tested, float)
    p = np.array([alarm_rank(int(size), alpha) for size in calibrated]) / (n + 1)
    total = m.sum()
    mean = (m * p).sum() / total if total else 0.0
    if not 0 < mean < 1:
        return (0, 0) if mean == 0 else (int(total), int(total))
    binomial = total * mean * (1 - mean)
    excess = (m * p * (1 - p) * (n + 1 + m) / (n + 2)).sum() - binomial
    # Groups with unlike rates may vary less than a binomial; they are then taken for one. A single draw is a Bernoulli
    # whatever its concentration.
    concentration = (total - 1) * binomial / max(excess, 1e-4 * binomial) - 1 if total > 1 else 1.0
    low, high = betabinom.interval(0.95, int(total), mean * concentration, (1 - mean) * concentration)
    return int(low), int(high)


def expected_band(calibrated: Sequence[int], tested: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same as shares of the tested normals, for rates of 1 to 99 %: (alpha, low, high), (99,) each."""
    grid = np.arange(1, 100) / 100
    low, high = np.array([expected_false_alarms(alpha, calibrated, tested) for alpha in grid]).T / sum(tested)
    return grid, low, high


def natural_order(names: np.ndarray) -> np.ndarray:
    """Indices that put equal names together, names in natural order."""
    rank = {name: i for i, name in enumerate(sorted(set(names.tolist()), key=natural))}
    return np.argsort([rank[name] for name in names.tolist()], kind="stable")
