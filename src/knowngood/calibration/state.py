"""Calibration: what the held-out normals scored, by stratum, and every answer that follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knowngood.calibration import conformal
from knowngood.calibration.conformal import Floats
from knowngood.errors import ArtifactError, DataError, NotEnoughNormals

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores of calibration normals, each stratum by itself where it is large enough for α.

    A stratum with at least `minimum_normals(alpha)` normals is calibrated by itself, and the false-alarm rate is
    guaranteed within it. A smaller one is compared with the normals of all strata together (the pool), without a
    per-condition guarantee. So which normals an item is compared with depends on α, and so may its p-value: methods
    take `alpha` and default to the one given to `fit`. Stratum −1 stands for "none of them" and is always pooled.

    Offsets bring all strata to one scale, so that a single number serves as threshold. The anomaly score is
    s − offset[c] with offset[c] = t_c − t_pool, t the thresholds at the α of `fit`; it keeps the score's own unit, and
    with one stratum it is s itself. Subtraction rounds, so a score within rounding of its threshold could land on the
    wrong side of t_pool. `anomaly_score` puts such values back (by one unit in the last place at most):
    `anomaly_score > pooled_threshold` holds exactly when p ≤ α. If even the pool is too small for α the threshold is
    +inf, nothing is flagged, and offsets are differences of medians.
    """

    scores: Floats  # (n,) sorted by stratum, then by score
    strata: Ints  # (n,)
    stratum_names: tuple[str, ...]
    alpha: float
    _starts: Ints = field(init=False, repr=False)  # (S+1,) where each stratum begins in `scores`
    _pool: Floats = field(init=False, repr=False)  # (n,) all scores, sorted

    def __post_init__(self) -> None:
        starts = np.searchsorted(self.strata, np.arange(len(self.stratum_names) + 1))
        object.__setattr__(self, "_starts", starts)
        object.__setattr__(self, "_pool", np.sort(self.scores))

    @classmethod
    def fit(
        cls,
        scores: ArrayLike,
        strata: ArrayLike | None = None,
        stratum_names: Sequence[str] = ("all",),
        *,
        alpha: float = 0.05,
    ) -> Calibration:
        """From the scores (n,) of calibration normals and their strata (n,), numbers into `stratum_names`.

        Raises:
            NotEnoughNormals: there are none at all. Too few for α is no error here, see `refuse`.
            DataError: a score is not finite, or a stratum has no name.
        """
        conformal.alarm_rank(1, alpha)
        values = conformal.finite_scores(scores)
        if len(values) == 0:
            raise NotEnoughNormals(
                "no calibration normals: p-values compare with normals that were not trained on. "
                "Give more normal images, or calibrate on a larger share of them: the option fraction, such as 0.2.",
                missing=conformal.minimum_normals(alpha),
            )
        codes = _codes(strata, len(values), len(stratum_names))
        order = np.lexsort((values, codes))
        return cls(values[order], codes[order], tuple(stratum_names), float(alpha))

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def counts(self) -> Ints:
        """(S,) calibration normals of each stratum."""
        return np.diff(self._starts)

    def own(self, alpha: float | None = None) -> NDArray[np.bool_]:
        """(S,) True where the stratum is calibrated by itself at this α; the others have no guarantee of their own."""
        return self.counts >= conformal.minimum_normals(self.alpha if alpha is None else alpha)

    def refuse(self, alpha: float | None = None, tests: int = 1) -> None:
        """Raise NotEnoughNormals, with the number that is missing, if even the pool cannot guarantee this α.

        Args:
            tests: among which α is shared.
        """
        alpha = self.alpha if alpha is None else alpha
        needed = conformal.minimum_normals(alpha / tests)
        if len(self) < needed:
            missing = needed - len(self)
            smallest = smallest_alpha(len(self), tests)
            least = f", or ask for an alpha of at least {smallest}" if smallest else ""
            raise NotEnoughNormals(
                f"alpha = {alpha:g} needs {needed} calibration normals, there are {len(self)}: {missing} missing. "
                f"Give more normal images{least}.",
                missing=missing,
            )

    def p_values(self, scores: ArrayLike, strata: ArrayLike | None = None, *, alpha: float | None = None) -> Floats:
        """(m,) conformal p-values of scores (m,) in strata (m,); each compared with its stratum or the pool."""
        return self._per_reference(scores, strata, alpha, conformal.p_values)

    def surprise(self, scores: ArrayLike, strata: ArrayLike | None = None, *, alpha: float | None = None) -> Floats:
        """(m,) continuous −log tail probabilities within the stratum or the pool; see `calibration.surprise`."""
        return self._per_reference(scores, strata, alpha, conformal.surprise)

    def threshold(self, alpha: float | None = None, stratum: int = -1) -> float:
        """The raw score above which p ≤ α in this stratum; +inf when α cannot be guaranteed. −1: the pool's."""
        alpha = self.alpha if alpha is None else alpha
        return conformal.threshold(self.reference(alpha, stratum), alpha)

    def reference(self, alpha: float | None = None, stratum: int = -1) -> Floats:
        """(n,) sorted scores that an item of a stratum is compared with at this α: the stratum's own, or the pool."""
        return self._slice(stratum) if stratum >= 0 and self.own(alpha)[stratum] else self._pool

    @cached_property
    def thresholds(self) -> Floats:
        """(S+1,) raw thresholds at the α of `fit`, by stratum; the last (index −1) is the pool's."""
        return np.array([self.threshold(stratum=s) for s in [*range(len(self.stratum_names)), -1]])

    @property
    def pooled_threshold(self) -> float:
        """The one number that anomaly scores of all strata are compared with, at the α of `fit`."""
        return float(self.thresholds[-1])

    @cached_property
    def offsets(self) -> Floats:
        """(S+1,) finite, what `anomaly_score` takes off in each stratum; the last (index −1) is the pool's, 0."""
        if math.isfinite(self.pooled_threshold):
            return self.thresholds - self.pooled_threshold
        centre = np.median(self._pool)
        own = [self._slice(s) for s in range(len(self.stratum_names))]
        return np.array([np.median(scores) - centre if len(scores) else 0.0 for scores in own] + [0.0])

    def anomaly_score(self, scores: ArrayLike, strata: ArrayLike | None = None) -> Floats:
        """(m,) s − offset: comparable across strata, above `pooled_threshold` exactly when p ≤ α (that of `fit`)."""
        scores = conformal.judged_scores(scores)
        codes = _codes(strata, len(scores), len(self.stratum_names))
        limit = self.pooled_threshold
        shifted = scores - self.offsets[codes]
        if not math.isfinite(limit):
            return shifted
        flagged = scores > self.thresholds[codes]
        return np.where(flagged, np.maximum(shifted, np.nextafter(limit, np.inf)), np.minimum(shifted, limit))

    def summary(self, alpha: float | None = None) -> list[dict[str, Any]]:
        """One plain row a stratum: condition, normals, threshold, and what is guaranteed at this α."""
        alpha = self.alpha if alpha is None else alpha
        rows = []
        for stratum, (name, n, own) in enumerate(zip(self.stratum_names, self.counts, self.own(alpha), strict=True)):
            low, high = conformal.false_alarm_interval(int(n), alpha) if own else (None, None)
            rows.append(
                {
                    "condition": name,
                    "normals": int(n),
                    "threshold": self.threshold(alpha, stratum),
                    "calibrated": "by itself" if own else "pooled, no per-condition guarantee",
                    "false_alarm_low": low,
                    "false_alarm_high": high,
                }
            )
        return rows

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """The state as plain arrays, for safetensors; `metadata` holds the rest."""
        return {"scores": self.scores, "strata": self.strata}

    def metadata(self) -> dict[str, Any]:
        """The state's names and numbers, for JSON."""
        return {"stratum_names": list(self.stratum_names), "alpha": self.alpha}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, ArrayLike], metadata: Mapping[str, Any]) -> Calibration:
        """The state that `to_tensors` and `metadata` gave.

        Raises:
            ArtifactError: a part is missing or does not fit the rest.
        """
        try:
            return cls.fit(
                tensors["scores"], tensors["strata"], metadata["stratum_names"], alpha=float(metadata["alpha"])
            )
        except KeyError as error:
            raise ArtifactError(f"calibration: no {error} in the saved state; the model is damaged") from None
        except (ValueError, TypeError) as error:
            raise ArtifactError(f"calibration: the saved state is damaged: {error}") from None

    def _slice(self, stratum: int) -> Floats:
        return self.scores[self._starts[stratum] : self._starts[stratum + 1]]

    def _per_reference(self, scores: ArrayLike, strata: ArrayLike | None, alpha: float | None, function: Any) -> Floats:
        scores = conformal.judged_scores(scores)
        codes = _codes(strata, len(scores), len(self.stratum_names))
        result = np.empty(len(scores))
        for stratum in np.unique(codes):
            rows = codes == stratum
            result[rows] = function(self.reference(alpha, int(stratum)), scores[rows])
        return result


def _codes(strata: ArrayLike | None, n: int, n_strata: int) -> Ints:
    if strata is None:
        if n_strata != 1:
            raise DataError(f"strata are needed: this calibration has {n_strata} of them (−1: none, pooled)")
        return np.zeros(n, dtype=np.int64)
    codes = np.asarray(strata, dtype=np.int64)
    if codes.shape != (n,):
        raise DataError(f"strata: expected shape ({n},), one a score, got {codes.shape}")
    if n and (codes.min() < -1 or codes.max() >= n_strata):
        unknown = codes[(codes < -1) | (codes >= n_strata)][0]
        raise DataError(f"stratum {unknown} is unknown; expected 0 to {n_strata - 1}, or −1 for none of them")
    return codes


def smallest_alpha(n: int, tests: int = 1) -> str:
    """The smallest α that n calibration normals guarantee, rounded up; empty where there is none below 1."""
    share = tests / (n + 1)
    return _rounded_up(share) if share < 1 else ""


def _rounded_up(share: float) -> str:
    """Four digits, and never less than the number."""
    step = 10.0 ** (math.floor(math.log10(share)) - 3)
    return f"{math.ceil(share / step) * step:.4g}"
