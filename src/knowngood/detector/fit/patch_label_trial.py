"""What would become of images if labelled defects taught the score: good ones, synthetic defects, labelled ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from knowngood.detector.fit.patch_defects import Known
from knowngood.detector.fit.patch_trial import (
    AT_ONCE,
    BAD,
    GOOD,
    Sample,
    bad_sample,
    good_sample,
    ignored_places,
    maps_of,
    smoothed,
)
from knowngood.scores.levels import Levels
from knowngood.scores.patches import POOLINGS, TOP_SHARE, bounded, pool

if TYPE_CHECKING:
    from knowngood.detector.fit.plan import Plan
    from knowngood.detector.pipeline import Pipeline

EXCEEDED = 0.01  # share of good images whose largest score is above that of a defect's place, where no mask says more
UNMOVED = 0.5  # share of good images that the term leaves as they are
KINDS = ("good", "bad", "labelled")  # of images in a trial


@dataclass
class Shown:
    """Images to judge: their inner maps (N, h, w), bounded whitened patches (N, P, F) in half precision, cells (N,)."""

    maps: Tensor
    rows: Tensor
    cell: Tensor
    own: Tensor | None = None  # maps (N, h, w) of the same images without a defect, if levels were taken from these

    def values(self, directions: Tensor) -> Tensor:
        """(N, P, D) float64 along directions (F, D)."""
        found = [some.float() @ directions.float() for some in self.rows.split(AT_ONCE)]
        return torch.cat(found).double()


@dataclass
class Trial:
    """Good images, left out in turn; these with synthetic defects, the first of them; and labelled ones."""

    pipeline: Pipeline
    good: Shown
    bad: Shown
    labelled: Shown
    scale: float  # standard deviation of the scores of good patches
    reached: float  # largest score that all but 1 % of good images keep below

    @classmethod
    def of(cls, pipeline: Pipeline, plan: Plan, known: Known, drawn: np.ndarray, seed: int) -> Trial:
        def shown(sample: Sample, own: Tensor | None = None) -> Shown:
            maps = maps_of(pipeline, pipeline.score.inner, sample)  # type: ignore[attr-defined]
            rows = torch.cat([bounded(white.float()).half() for white in sample.white])
            return Shown(maps, rows, sample.cell, own)

        good = shown(good_sample(pipeline, plan, drawn[:GOOD]))
        good.own = good.maps
        bad = shown(bad_sample(pipeline, plan, drawn[:BAD], seed + 1)[0], good.maps[:BAD])
        trial = cls(pipeline, good, bad, shown(known.sample), 1.0, 0.0)
        counted = ~ignored_places(pipeline)[good.cell]
        trial.scale = float(good.maps[counted].std())
        judged, ignored = trial.judged(good, 0.0)
        largest = judged.masked_fill(ignored, -torch.inf).flatten(1).amax(1)
        trial.reached = float(largest.quantile(1 - EXCEEDED))
        return trial

    def judged(self, shown: Shown, term: Tensor | float) -> tuple[Tensor, Tensor]:
        """Maps (N, h, w) as the score pools them, with a term added, and where they are ignored."""
        levels, maps = Levels.of_state(self.pipeline.state, ignored_places(self.pipeline)), shown.maps + term
        if shown.own is None:
            return smoothed(self.pipeline, levels.judged(maps, shown.cell), shown.cell)
        return smoothed(self.pipeline, levels.judged_without(shown.own, maps, shown.cell), shown.cell)

    def scores(self, shown: Shown, term: Tensor | float) -> Tensor:
        """(N,) of images."""
        maps, ignored = self.judged(shown, term)
        return pool(maps, POOLINGS[int(self.pipeline.state["pooling"])], ignored)

    def hit(self, i: int, mask: Tensor | None) -> Tensor:
        """(h, w) bool: the places of labelled image i that teach."""
        one = Shown(*(t[i : i + 1] for t in (self.labelled.maps, self.labelled.rows, self.labelled.cell)))
        maps, ignored = (t[0] for t in self.judged(one, 0.0))
        if mask is not None:
            return mask & ~ignored
        low = maps.masked_fill(ignored, -torch.inf)
        most = max(1, round(TOP_SHARE * int((~ignored).sum())))
        least = low.flatten().topk(most).values[-1]
        return (low >= least) & (low > self.reached)

    def scaled(self, values: Tensor, index: np.ndarray) -> tuple[float, float]:
        """Factor and offset of a direction, from its values (N, P) on good images, by those at `index`.

        Times the factor they spread as the scores do; then half of the images lie below the offset everywhere.
        """
        at = torch.from_numpy(index)
        ignored = ignored_places(self.pipeline)[self.good.cell[at]].flatten(1)
        mine = values[at]
        spread = float(mine[~ignored].std())
        factor = self.scale / spread if spread > 0 else 0.0
        return factor, factor * float(mine.masked_fill(ignored, -torch.inf).amax(1).quantile(1 - UNMOVED))

    def terms(self, directions: Tensor, folds: dict[str, np.ndarray]) -> dict[str, Tensor]:
        """Terms (N, h, w) by kind of image, each along the direction, of (F, K), that knew neither it nor its fold."""
        grid = self.good.maps.shape[1:]
        values = {name: getattr(self, name).values(directions) for name in KINDS}
        found = {name: torch.zeros(v.shape[:2], dtype=torch.float64) for name, v in values.items()}
        for k in range(directions.shape[1]):
            factor, offset = self.scaled(values["good"][..., k], np.flatnonzero(folds["good"] != k))
            for name, v in values.items():
                mine = torch.from_numpy(folds[name] == k)
                found[name][mine] = (factor * v[mine, :, k] - offset).clamp_min(0)
        return {name: term.unflatten(1, grid) for name, term in found.items()}
