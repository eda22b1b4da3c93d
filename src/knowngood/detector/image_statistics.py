"""Simple statistics of calibration images, by which the likely cause is named when other images do not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from knowngood.data import ImageSet
from knowngood.data.image_factors import measure

MOST = 256  # images measured, evenly spread
MEASURED = ("brightness", "contrast", "sharpness", "red", "blue")
GROUP = "group"
CAUSES = {
    "brightness": "the illumination or exposure",
    "contrast": "the illumination or exposure",
    "sharpness": "focus, scale or noise",
    "red": "the colour of the light or another camera",
    "blue": "the colour of the light or another camera",
    "size": "the resolution or scale",
}
WORDS = {"red": "share of red", "blue": "share of blue", "size": "image size in pixels"}
SIZE, ASPECT = "size", "aspect"  # of which `detector.remarks` speaks
CLEAR = 0.9  # probability that one image lies above, or below, another: it is named however few there are
SMALL = 0.02  # of the median of the calibration images: a smaller difference is not named
CERTAIN, VISIBLE = 1e-3, 0.65  # or a rank test rejects at this level, and the probability is at least this


class Change(NamedTuple):
    """One statistic of the images of a batch that is not as in the calibration images."""

    name: str
    median: float
    was: float  # median of the calibration images
    low: float  # and their 5 % and 95 % quantiles
    high: float

    def __str__(self) -> str:
        now, was, low, high = (f"{v:.0f}" if self.name == "size" else f"{v:.3g}" for v in self[1:])
        return f"{WORDS.get(self.name, self.name)} {now} instead of {f'{low} to {high}' if high != low else was}"

    @property
    def outside(self) -> bool:
        """Whether it is beyond what 9 of 10 calibration images have, and so can be a cause."""
        return not self.low <= self.median <= self.high


@dataclass(frozen=True, eq=False)
class ImageStatistics:
    """Of up to 256 images: values (N,) float32 by name, NaN where there is none, and the Mondrian group (N,) of each.

    `measure` defines brightness, contrast, sharpness and the shares of red and blue; size is the square root of the
    number of pixels, aspect the width over the height.
    """

    values: dict[str, np.ndarray]
    group: np.ndarray

    @classmethod
    def of(cls, images: ImageSet, group: np.ndarray) -> ImageStatistics:
        """Measured on images (n,) of these Mondrian groups, on an even sample where there are more than 256."""
        some = np.unique(np.linspace(0, len(images) - 1, min(MOST, len(images))).round().astype(int))
        images = images[some]
        values = measure(images, MEASURED)
        read = ~np.isnan(values["brightness"])
        size, aspect = np.full((2, len(images)), np.nan)
        height, width = images[read].shapes()[:, :2].astype(float).T
        size[read], aspect[read] = np.sqrt(height * width), width / height
        values |= {SIZE: size, ASPECT: aspect}
        return cls({name: column.astype(np.float32) for name, column in values.items()}, group[some])

    def range_of(self, name: str) -> tuple[float, float] | None:
        """The smallest and the largest value of a statistic; None where a model has none."""
        known = self.values.get(name, np.empty(0))
        known = known[~np.isnan(known)]
        return (float(known.min()), float(known.max())) if len(known) else None

    def changes(self, images: ImageSet, groups: Sequence[int]) -> list[Change]:
        """What differs between the images of a batch and those of these groups (all, if there are none), most first."""
        from scipy.stats import mannwhitneyu

        mine = np.isin(self.group, groups)
        mine = mine if mine.any() else np.ones_like(mine)
        batch, found = ImageStatistics.of(images, np.zeros(len(images), int)), []
        for name, column in self.values.items():
            if name == ASPECT:
                continue
            was, now = (v[~np.isnan(v)].astype(float) for v in (column[mine], batch.values[name]))
            if not len(was) or not len(now):
                continue
            middle = float(np.median(was))
            if abs(np.median(now) - middle) < SMALL * abs(middle):
                continue
            test = mannwhitneyu(now, was, method="asymptotic")
            above = float(test.statistic) / (len(now) * len(was))
            far = max(above, 1 - above)
            if far >= CLEAR or (far >= VISIBLE and test.pvalue <= CERTAIN):
                found.append((far, Change(name, *map(float, (np.median(now), *np.quantile(was, [0.5, 0.05, 0.95]))))))
        return [change for _, change in sorted(found, key=lambda one: -one[0])]

    def to_tensors(self) -> dict[str, np.ndarray]:
        """As plain arrays, for safetensors."""
        return {**self.values, GROUP: self.group}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> ImageStatistics | None:
        """What `to_tensors` gave; None where a model has none."""
        values = {name: array for name, array in tensors.items() if name != GROUP}
        return cls(values, tensors[GROUP]) if values else None
