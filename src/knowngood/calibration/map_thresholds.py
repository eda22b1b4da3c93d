"""Thresholds for maps: one that few normal images exceed anywhere, and one that few normal pixels exceed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knowngood.calibration.conformal import Floats
from knowngood.calibration.state import Calibration
from knowngood.errors import ArtifactError, DataError, SettingsError

Map = NDArray[np.float32]

# The false-positive pixel rates whose thresholds are kept, in falling order: 1, then two significant digits to 1e-6.
RATES: Floats = np.array([1.0, *(float(f"{m}e-{k}") for k in range(2, 8) for m in range(99, 9, -1))])
_SHIFT = np.uint32(12)  # float32 without its last 12 bits: bins 2^-11 of their value wide, 2^20 of them
_SIGN = np.uint32(1 << 31)
_AT_ONCE = 1 << 21  # pixels


@dataclass(frozen=True, eq=False)
class MapCalibration:
    """What the maps of calibration normals say about thresholds, by stratum as in `Calibration`.

    A region in a normal image is a false alarm. So a map's conformal score is its maximum: a normal image has a pixel
    above `threshold(alpha)` with probability at most α (within its stratum, or over the pool where the stratum is too
    small, as in `Calibration`). A region's p-value compares its peak with the maxima of normal images. It holds for all
    regions of an image at once: the smallest of them is the image's conformal p-value.

    `pixel_threshold(rate)` is for drawing: the share of pixels of calibration normals above it is at most `rate`. It
    estimates the false-positive pixel rate to expect, and guarantees nothing about images.

    Maps are taken as float32; NaN marks pixels to ignore. Calibration and later images must ignore the same regions.
    """

    calibration: Calibration  # of the largest value of each map
    pixels: NDArray[np.float32]  # (S+1, len(RATES)) thresholds by stratum, the last is the pool's; NaN without normals

    @classmethod
    def fit(
        cls,
        maps: Iterable[ArrayLike],
        strata: ArrayLike | None = None,
        stratum_names: Sequence[str] = ("all",),
        *,
        alpha: float = 0.05,
    ) -> MapCalibration:
        """From maps (H, W) of calibration normals, of any sizes, read once and one at a time.

        Pixels are counted in bins 1/2048 of their value wide; memory is at most 8 MB a stratum, however many maps.

        Args:
            maps: n maps, for example from a generator.
            strata: (n,) numbers into `stratum_names`, −1 for none of them.
            alpha: share of normal images that may have a region.

        Raises:
            NotEnoughNormals: there are no maps.
            DataError: a map has an infinite value or nothing but NaN, or strata do not fit.
        """
        codes = None if strata is None else np.asarray(strata, dtype=np.int64)
        maxima: list[float] = []
        counts: dict[int, _Counts] = {}
        for i, one in enumerate(maps):
            values = checked_map(one)
            values = values[~np.isnan(values)]
            if not len(values) or not np.isfinite(values).all():
                what = "an infinite value" if len(values) else "nothing but NaN"
                raise DataError(f"map {i} of the calibration images has {what}; expected finite values, NaN to ignore")
            if codes is not None and i >= len(codes):
                raise DataError(f"strata: expected one a map, got {len(codes)} and more maps than that")
            maxima.append(float(values.max()))
            counts.setdefault(0 if codes is None else int(codes[i]), _Counts()).add(values)
        calibration = Calibration.fit(maxima, codes, stratum_names, alpha=alpha)
        everything = _Counts()
        for one in counts.values():
            everything.merge(one)
        rows = [counts[s].thresholds() if s in counts else _NONE for s in range(len(stratum_names))]
        return cls(calibration, np.stack([*rows, everything.thresholds()]))

    def threshold(self, alpha: float | None = None, stratum: int = -1) -> float:
        """What the map of a normal image exceeds anywhere with probability ≤ α; +inf if α cannot be guaranteed."""
        return self.calibration.threshold(alpha, stratum)

    def maxima(self, alpha: float | None = None, stratum: int = -1) -> Floats:
        """(n,) the maxima that a map of this stratum is compared with at this α: its own stratum's, or the pool's."""
        known = self.calibration
        if stratum >= 0 and known.own(alpha)[stratum]:
            return known.scores[known.strata == stratum]
        return known.scores

    def pixel_threshold(self, rate: float, stratum: int = -1) -> float:
        """The value that at most a share `rate` of the pixels of calibration normals exceed (strictly).

        Exact up to the width of a bin (1/2048 of the value, upwards) for rates of two significant digits from 1e-6;
        others are rounded down to these. Below 1e-6 it is the largest pixel. A stratum that is too small for the α of
        `fit` has the pool's.
        """
        if not 0 < rate < 1:
            raise SettingsError(f"pixel rate = {rate!r}; expected a share of pixels above 0 and below 1, e.g. 0.001")
        row = stratum if stratum >= 0 and self.calibration.own()[stratum] else -1
        below = np.flatnonzero(rate >= RATES)
        return float(self.pixels[row, below[0]]) if len(below) else float(self.maxima(stratum=stratum).max())

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """The state as plain arrays, for safetensors; `metadata` holds the rest."""
        return {**self.calibration.to_tensors(), "pixels": self.pixels}

    def metadata(self) -> dict[str, Any]:
        """The state's names and numbers, for JSON."""
        return self.calibration.metadata()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, ArrayLike], metadata: Mapping[str, Any]) -> MapCalibration:
        """The state that `to_tensors` and `metadata` gave.

        Raises:
            ArtifactError: a part is missing or does not fit the rest.
        """
        calibration = Calibration.from_tensors(tensors, metadata)
        if "pixels" not in tensors:
            raise ArtifactError("map calibration: no 'pixels' in the saved state; the model is damaged")
        pixels = np.asarray(tensors["pixels"], dtype=np.float32)
        expected = (len(calibration.stratum_names) + 1, len(RATES))
        if pixels.shape != expected:
            raise ArtifactError(f"map calibration: 'pixels' has shape {pixels.shape}, expected {expected}")
        return cls(calibration, pixels)


def checked_map(values: ArrayLike) -> Map:
    """(H, W) float32, at least one pixel; the precision in which maps are calibrated and compared."""
    array = np.asarray(values, dtype=np.float32)
    if array.ndim != 2 or array.size == 0:
        raise DataError(f"anomaly map: expected shape (H, W) with at least one pixel, got {array.shape}")
    return array


_NONE = np.full(len(RATES), np.nan, dtype=np.float32)


class _Counts:
    """How many pixels fell into each bin. Bins are float32 bit patterns, put in the order of their values."""

    def __init__(self) -> None:
        self.lowest = 0  # bin of counts[0]
        self.counts: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.largest = np.float32(-np.inf)

    def add(self, values: Map) -> None:
        for start in range(0, len(values), _AT_ONCE):
            some = values[start : start + _AT_ONCE]
            bits = some.view(np.uint32)
            bins = (np.where(bits & _SIGN, ~bits, bits | _SIGN) >> _SHIFT).astype(np.int64)
            lowest = int(bins.min())
            self._count(lowest, np.bincount(bins - lowest), some.max())

    def merge(self, other: _Counts) -> None:
        self._count(other.lowest, other.counts, other.largest)

    def _count(self, lowest: int, counts: NDArray[np.int64], largest: np.float32) -> None:
        if not len(self.counts):
            self.lowest = lowest
        below = max(0, self.lowest - lowest)
        above = max(0, lowest + len(counts) - self.lowest - len(self.counts))
        self.lowest -= below
        self.counts = np.pad(self.counts, (below, above))
        self.counts[lowest - self.lowest :][: len(counts)] += counts
        self.largest = max(self.largest, largest)

    def thresholds(self) -> Map:
        """(len(RATES),) by rate: the upper end of the lowest bin above which at most that share of the pixels lies."""
        if not len(self.counts):
            return _NONE
        bins = np.flatnonzero(self.counts)[::-1]  # from the highest down
        share = np.cumsum(self.counts[bins])
        share = np.concatenate([[0], share[:-1]]) / share[-1]  # above each bin
        key = ((self.lowest + bins).astype(np.uint32) << _SHIFT) | np.uint32((1 << int(_SHIFT)) - 1)
        upper = np.where(key & _SIGN, key ^ _SIGN, ~key).astype(np.uint32).view(np.float32)
        return np.minimum(upper, self.largest)[np.searchsorted(share, RATES, side="right") - 1]
