"""What is kept of the pass that judges images, so that showing them needs no second one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from knowngood.data import ImageSet
from knowngood.data.conditions import Expanded
from knowngood.data.tiling.tiles import Tiles
from knowngood.detector.decide import Judgement
from knowngood.detector.maps import Mapped, Whole, mapped
from knowngood.detector.rows import Chunk, Items, take
from knowngood.representations.alignment.warping import Transform
from knowngood.scores import ScoreResult

if TYPE_CHECKING:
    from knowngood.detector.pipeline import Pipeline

HELD = 32  # images at most
Each = Callable[[int, Mapped], None]  # the number of an image, and its map


class Held(NamedTuple):
    """What the nets were given of one image, and its anomaly score."""

    score: float
    x: Tensor
    lay: Transform | None


class Watch:
    """Looks on as images are judged: hands their maps on, and holds what the nets were given of the oddest.

    Where conditions are unknown it is known only after judging what to show: then maps take a pass of their own, and
    nothing is held. Nor is it of images in tiles.

    Args:
        each: are called with the number of each image that could be read, in order, and its map.
        oddest: how many images to hold, at most 32.
    """

    def __init__(self, each: Sequence[Each] = (), oddest: int = 0) -> None:
        self.each, self.oddest = each, min(oddest, HELD)
        self.held: dict[int, Held] = {}

    def start(self, pipeline: Pipeline, items: Items, expanded: Expanded, first: int) -> PartWatch | None:
        """For items that are numbered from `first`; None if they have more than one row each."""
        if not np.array_equal(expanded.item, np.arange(len(items))):
            return None
        return PartWatch(self, pipeline, items, expanded, first)

    def finish(self, pipeline: Pipeline, items: Items, judged: Judgement, first: int) -> None:
        """The maps of items that nobody looked on at."""
        if not self.each:
            return
        assert isinstance(items, ImageSet)
        read = np.array([i for i in range(len(items)) if i not in judged.errors], dtype=np.int64)
        for i, one in zip(read.tolist(), mapped(pipeline, items[read], take(judged.best, read)), strict=True):
            self.show(first + i, one)

    def show(self, i: int, one: Mapped) -> None:
        """Hand a map on."""
        for each in self.each:
            each(i, one)

    def chunk(self, chosen: np.ndarray, best: Expanded, pipeline: Pipeline) -> Chunk | None:
        """The chosen images (M,) as the nets were given them, under their rows of `best`; None unless all are held."""
        if not all(int(i) in self.held for i in chosen):
            return None
        held, device = [self.held[int(i)] for i in chosen], pipeline.device
        c = torch.from_numpy(best.c).to(device) if pipeline.conditional else None
        stratum = torch.from_numpy(best.stratum).to(device)
        x = torch.stack([one.x for one in held])
        return Chunk(slice(0, len(held)), x, c, stratum, [one.lay for one in held])


class PartWatch:
    """Looks on at items of one row each."""

    def __init__(self, watch: Watch, pipeline: Pipeline, items: Items, expanded: Expanded, first: int) -> None:
        self.watch, self.pipeline, self.items, self.expanded, self.first = watch, pipeline, items, expanded, first
        self.whole: Whole | None = None
        self.want_map = bool(watch.each)

    def see(self, tiles: Tiles | None, chunk: Chunk, result: ScoreResult, errors: dict[int, str]) -> None:
        """The next rows: of the items, or of their tiles."""
        watch = self.watch
        if watch.oddest and tiles is None:
            self._hold(chunk, result, errors)
        if watch.each:
            assert isinstance(self.items, ImageSet)
            self.whole = self.whole or Whole(self.pipeline, self.items, self.expanded, tiles)
            for i, one in self.whole.add(chunk, result, errors):
                watch.show(self.first + i, one)

    def _hold(self, chunk: Chunk, result: ScoreResult, errors: dict[int, str]) -> None:
        held, oddest = self.watch.held, self.watch.oddest
        calibration = self.pipeline.calibrated()
        scores = calibration.anomaly_score(result.values.cpu().numpy(), chunk.stratum.cpu().numpy())
        start = chunk.rows.start
        for k in np.argsort(-scores, kind="stable").tolist():
            if start + k in errors:
                continue
            if len(held) >= oddest:
                least = min(held, key=lambda i: held[i].score)
                if held[least].score >= scores[k]:
                    break
                del held[least]
            held[self.first + start + k] = Held(float(scores[k]), chunk.x[k].clone(), chunk.lay[k])
