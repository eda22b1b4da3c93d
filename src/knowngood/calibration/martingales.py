"""Conformal test martingales: online p-values of a stream of scores, and a wealth that bets against their uniformity.

While calibration scores and stream are exchangeable, the smoothed online p-values are independent and uniform (Vovk,
Gammerman and Shafer 2005, theorem 8.2), so the wealth is a nonnegative martingale that starts at 1, and by Ville's
inequality P(it ever reaches T) ≤ 1/T. P-values against a fixed calibration set do not have this property: given the
set they are not uniform, and a bet against them grows for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knowngood.calibration.conformal import Floats, finite_scores, judged_scores

MOST = 1000  # bounds of cells that are kept; from then on scores are counted by cell
EXPONENTS = np.linspace(0.1, 1.0, 10)  # ε of the power martingales
JUMPS = np.array([1e-4, 1e-3, 1e-2])  # jump rates J of the simple jumpers
SLOPES = np.array([-1.0, 0.0, 1.0])  # their bets 1 + slope·(p − ½); −1 bets on small p-values


@dataclass
class OnlineRanks:
    """Where scores lie among all scores before them: cells between bounds, and how many scores each cell holds.

    A tie is broken by a uniform number that every score carries, so the bounds are pairs (score, number), kept as
    complex numbers, which NumPy sorts in that order. Of N scores so far the next one lies in each of the N + 1 gaps
    between them with equal probability. A cell with k scores inside holds k + 1 gaps. So an item's cell has a known
    law given the cells of all before it (a Pólya urn that starts with the calibration counts), however many scores
    share a cell, and memory is bounded.

    bounds: (m,) ascending. counts: (m + 1,) scores strictly between the bounds. most: bounds are added up to this.
    """

    bounds: NDArray[np.complex128] = field(default_factory=lambda: np.zeros(0, np.complex128))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    most: int = MOST

    @classmethod
    def of(cls, scores: ArrayLike, seed: int | Sequence[int] = 0, most: int = MOST) -> OnlineRanks:
        """Start with the scores (n,) of calibration items; of more than `most` a part, evenly spaced, are bounds.

        `seed` gives the numbers that break their ties; it must not be that of the draws of `p_values`.
        """
        values = finite_scores(scores)
        keys = np.sort(values + 1j * np.random.default_rng(seed).random(len(values)))
        at = np.arange(len(keys))
        if len(keys) > most:
            at = np.linspace(0, len(keys) - 1, most).round().astype(np.int64)
        return cls(keys[at], np.diff(np.r_[-1, at, len(keys)]) - 1, most)

    @classmethod
    def fixed(cls, bounds: ArrayLike) -> OnlineRanks:
        """Start with one calibration score at each bound (m,), and only count by cell: where a p-value is all there is.

        A p-value k/(n + 1) says between which calibration scores an item lies, and nothing else.
        """
        keys = np.sort(finite_scores(bounds)).astype(np.complex128)
        return cls(keys, np.zeros(len(keys) + 1, np.int64), len(keys))

    def p_values(self, scores: ArrayLike, draws: Floats) -> Floats:
        """(m,) p-values of the next scores (m,), each compared with all before it; small: a high score.

        Args:
            draws: (m, 2) independent and uniform on [0, 1): one breaks ties, one smooths.
        """
        values = judged_scores(scores)
        p = np.empty(len(values))
        for i, (key, draw) in enumerate(zip(values + 1j * draws[:, 0], 1 - draws[:, 1], strict=True)):
            cell = int(np.searchsorted(self.bounds, key))
            gaps, above = self.counts[cell] + 1, self.counts[cell + 1 :].sum() + len(self.bounds) - cell
            p[i] = (above + draw * gaps) / (self.counts.sum() + len(self.counts))
            if len(self.bounds) < self.most:  # then every score so far is a bound
                self.bounds, self.counts = np.insert(self.bounds, cell, key), np.zeros(len(self.counts) + 1, np.int64)
            else:
                self.counts[cell] += 1
        return p

    def to_record(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        ties = {"scores": self.bounds.real.tolist(), "numbers": self.bounds.imag.tolist()}
        return {**ties, "counts": self.counts.tolist(), "most": self.most}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> OnlineRanks:
        """What `to_record` gave."""
        bounds = np.array(record["scores"], float) + 1j * np.array(record["numbers"], float)
        counts = np.array(record["counts"], np.int64)
        if len(counts) != len(bounds) + 1:
            raise ValueError(f"{len(bounds)} bounds and {len(counts)} counts")
        return cls(bounds, counts, int(record["most"]))


class Wealth:
    """The average of a mixture of power martingales and of simple jumpers: again a martingale, for streams (*shape).

    A power martingale multiplies by ε·p^(ε−1) (Vovk, Nouretdinov and Gammerman 2003); the mixture is uniform over ε =
    0.1, 0.2, … 1. A simple jumper (Vovk et al., arXiv:2102.10439) shares its capital among the bets 1 + s·(p − ½), s =
    −1, 0, 1, and before each bet moves the share J of it evenly among them, so that it follows a change at any time;
    three jump rates from 10⁻⁴ to 10⁻² are averaged, since a high one loses on long streams without a change. Mixtures
    over ε gain by a few very small p-values, jumpers by many that are a little too small or too large.

    power: (*shape, 10) and jumper: (*shape, 3, 3), logarithms of the capital of each part.
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.power = np.full((*shape, len(EXPONENTS)), -np.log(2 * len(EXPONENTS)))
        parts = len(JUMPS) * len(SLOPES)
        self.jumper = np.full((*shape, len(JUMPS), len(SLOPES)), -np.log(2 * parts))

    @property
    def log(self) -> NDArray[np.float64]:
        """(*shape) natural logarithm of the wealth; 0 at the start."""
        power, jumper = np.logaddexp.reduce(self.power, -1), np.logaddexp.reduce(self.jumper, (-2, -1))
        return np.logaddexp(power, jumper)

    def bet(self, p: ArrayLike) -> None:
        """Bet on the next p-values (*shape), in (0, 1]."""
        p = np.asarray(p, np.float64)[..., None]
        self.power = self.power + np.log(EXPONENTS) + (EXPONENTS - 1) * np.log(p)
        most = self.jumper.max((-2, -1), keepdims=True)
        capital, jumps = np.exp(self.jumper - most), JUMPS[:, None]
        capital = (1 - jumps) * capital + jumps * capital.mean(-1, keepdims=True)
        self.jumper = most + np.log(capital * (1 + SLOPES * (p[..., None] - 0.5)))

    def to_record(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"power": self.power.tolist(), "jumper": self.jumper.tolist()}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Wealth:
        """What `to_record` gave."""
        wealth = cls()
        for name in ("power", "jumper"):
            values = np.array(record[name], float)
            if values.shape != getattr(wealth, name).shape:
                raise ValueError(f"{name} has shape {values.shape}")
            setattr(wealth, name, values)
        return wealth


def log_wealth(p_values: ArrayLike) -> NDArray[np.float64]:
    """(…, T) natural logarithm of the wealth after each of the p-values (…, T) of streams, in (0, 1]."""
    p = np.asarray(p_values, np.float64)
    wealth, path = Wealth(p.shape[:-1]), np.empty(p.shape)
    for t in range(p.shape[-1]):
        wealth.bet(p[..., t])
        path[..., t] = wealth.log
    return path
