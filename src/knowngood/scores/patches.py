"""Any score of a patch as a map over the image and one value an image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from knowngood.errors import SettingsError
from knowngood.models.objectives.base import Batch
from knowngood.models.patch_gaussian import Patches, smooth
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Score, ScoreResult, item_sum, wide
from knowngood.scores.levels import Levels

Pooling = Literal["max", "top", "soft"]
POOLINGS: tuple[Pooling, ...] = ("max", "top", "soft")
TOP_SHARE = 0.02  # of the cells
ROWS = 4096  # patches scored at a time
EXCESS = 1.0  # standard deviations from which on an image that is unusual as a whole counts


class PatchScore(Score):
    """`inner` on every patch under its position and conditions: the map, smoothed; and one value an image.

    Where good parts vary more, patches score higher and wider. The value of an image is pooled from the map, or with
    levels from (s − level) / spread, both of good images at the same place (`Levels`).

    A pooled value tells of a few odd places. Where the patches have a coarse grid, w is the mean over it of half the
    squared distance, large where much is odd by little, and the value is z(v) + max(0, z(w) − 1), v the pooled one and
    z in standard deviations of good images. z(w) is the part `whole`.

    State: that of `inner`; that of the levels by cell of the conditions, 0 and 1 without any; `pooling`, which of
    `POOLINGS`; with a coarse grid `pooled` and `whole` (K, 2), mean and standard deviation of v and w of good images;
    and where labelled defects teach `label_direction` (F,), `label_offset` and `label_weight`, see `label_term`.
    """

    has_map = True

    def __init__(self, inner: Score, smoothing: float) -> None:
        super().__init__(inner.options)
        self.inner, self.smoothing = inner, smoothing

    def check(self, model: ConditionalVAE) -> None:
        if self.inner.options.name == "reconstruction" and getattr(self.inner.options, "distance", "") == "ssim":
            raise SettingsError("scoring distance = 'ssim' compares pixels; with features take 'l2' or 'elbo'")
        self.inner.check(model)

    def fit(self, model: ConditionalVAE, batches: Iterable[Batch]) -> dict[str, Tensor]:
        assert model.patches is not None
        plain = Levels.none(model.patches.ignored_grid.cpu()).state()
        return {**self.inner.fit(model, batches), **plain, "pooling": torch.tensor(0)}

    def white(self, patches: Patches, x: Tensor, cell: Tensor) -> Tensor:
        """Whitened patches (B, P, F) of features x (B, F, h, w) in cells (B,)."""
        return patches.whiten(x, cell)

    def judged(self, levels: Levels, plain: Tensor, maps: Tensor, cell: Tensor) -> Tensor:
        """Maps (B, h, w) against the levels of their cells; `plain` are these without what labelled defects add."""
        return levels.judged(maps, cell)

    def whole(self, patches: Patches, x: Tensor, cell: Tensor) -> Tensor:
        """(B,) float64: how odd features (B, F, h, w) are on the coarse grid, on average."""
        coarse = patches.coarse
        assert coarse is not None
        white = self.white(coarse, patches.coarsen(x, cell), cell)
        values = 0.5 * item_sum(white.flatten(0, 1).square()).reshape(white.shape[:2])
        counted = (~coarse.ignored[cell]).to(values)
        return (values * counted).sum(1) / counted.sum(1)

    def of_patches(
        self, model: ConditionalVAE, state: dict[str, Tensor], white: Tensor, c: Tensor | None, stratum: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Inner scores (B, h, w) float64 of whitened patches (B, P, F), as they are, and the means of their parts (B,).

        c (B, W) and stratum (B,) are those of the images.
        """
        patches = model.patches
        assert patches is not None
        values: list[Tensor] = []
        parts: dict[str, list[Tensor]] = {}
        conditions = patches.conditions(c, len(white))
        split = (t.split(ROWS) for t in (white.flatten(0, 1), conditions, stratum.repeat_interleave(patches.places)))
        for some, told, of in zip(*split, strict=True):
            found = self.inner.score(model, state, some, told, of)
            values.append(found.values)
            for name, part in found.parts.items():
                parts.setdefault(name, []).append(part)
        counted = (~patches.ignored.to(white.device)[patches.cell(c, len(white))]).double()
        joined = {name: wide(patches.join(torch.cat(part)).flatten(1)) for name, part in parts.items()}
        mean = {name: (part * counted).sum(1) / counted.sum(1) for name, part in joined.items()}
        return patches.join(torch.cat(values)), mean

    def score(
        self,
        model: ConditionalVAE,
        state: dict[str, Tensor],
        x: Tensor,
        c: Tensor | None,
        stratum: Tensor,
        *,
        want_map: bool = False,
    ) -> ScoreResult:
        assert model.patches is not None
        cell = model.patches.cell(c, len(x))
        white = self.white(model.patches, x, cell)
        plain, parts = self.of_patches(model, state, white, c, stratum)
        maps = plain
        if "label_weight" in state:
            maps = plain + model.patches.join(wide(label_term(state, white)))
        at = cell.to(maps.device)
        everywhere = model.patches.ignored_grid.to(maps.device)
        values = self.pooled(state, plain, maps, at, everywhere)
        if "whole" in state:
            mean, spread = state["whole"].to(values)[at].unbind(1)
            parts["whole"] = (self.whole(model.patches, x, cell).to(values) - mean) / spread
            mean, spread = state["pooled"].to(values)[at].unbind(1)
            values = (values - mean) / spread + (parts["whole"] - EXCESS).clamp_min(0)
        ignored = everywhere[at]
        shown = self.smoothed(maps, ignored).masked_fill(ignored, math.nan) if want_map else None
        return ScoreResult(values, shown, parts)

    def pooled(self, state: dict[str, Tensor], plain: Tensor, maps: Tensor, cell: Tensor, ignored: Tensor) -> Tensor:
        """(B,): maps (B, h, w) as in `judged` of images in cells (B,), pooled. `ignored` is (K, h, w)."""
        judged = self.judged(Levels.of_state(state, ignored), plain, maps, cell)
        return pool(self.smoothed(judged, ignored[cell]), POOLINGS[int(state["pooling"])], ignored[cell])

    def smoothed(self, maps: Tensor, ignored: Tensor) -> Tensor:
        """Maps (B, h, w) smoothed over the places that are not `ignored`, float64."""
        seen = wide(maps)
        if not ignored.any():
            return smooth(seen, self.smoothing)
        counted = (~ignored).to(seen.dtype)
        share = smooth(counted, self.smoothing).clamp_min(1e-12)
        return smooth(seen.masked_fill(ignored, 0), self.smoothing) / share


class LeftOut(PatchScore):
    """The same of images that Gaussians and levels were taken from, each as if it had been left out.

    The mean and deviation that `z` is in are those of all, itself included: one number a product.
    """

    def white(self, patches: Patches, x: Tensor, cell: Tensor) -> Tensor:
        return patches.left_out(x, cell)

    def judged(self, levels: Levels, plain: Tensor, maps: Tensor, cell: Tensor) -> Tensor:
        return levels.judged_without(plain, maps, cell)


def label_term(state: dict[str, Tensor], white: Tensor) -> Tensor:
    """(B, P) ≥ 0: what labelled defects add to the scores of whitened patches (B, P, F), 0 where these look normal."""
    direction, offset, weight = (state[f"label_{name}"].to(white) for name in ("direction", "offset", "weight"))
    return weight * (bounded(white) @ direction - offset).clamp_min(0)


def bounded(white: Tensor) -> Tensor:
    """Whitened patches (..., F), v → v / √(1 + |v|²/F): shorter than √F, however odd."""
    return white / (1 + white.square().mean(-1, keepdim=True)).sqrt()


def pool(maps: Tensor, pooling: Pooling, ignored: Tensor | None = None) -> Tensor:
    """Maps (B, h, w) → (B,): the largest value; the mean of the largest 2 %; or a soft maximum.

    The soft maximum is τ·log mean exp(m/τ) with τ the spread of the map itself over √(2 log P), so that the few largest
    of P values count and the unit does not. Places that are `ignored` (B, h, w) do not count.
    """
    flat = maps.flatten(1)
    counts = torch.ones_like(flat) if ignored is None else (~ignored).flatten(1).to(flat.dtype)
    n = counts.sum(1, keepdim=True)
    low = flat.masked_fill(counts == 0, -math.inf)
    if pooling == "max":
        return low.amax(1)
    if pooling == "top":
        best = low.sort(1, descending=True).values
        taken = torch.arange(best.shape[1], device=best.device) < (TOP_SHARE * n).round().clamp_min(1)
        return best.where(taken, 0).sum(1) / taken.sum(1)
    mean = (flat * counts).sum(1, keepdim=True) / n
    spread = ((flat - mean).square() * counts).sum(1, keepdim=True).div(n).sqrt().clamp_min(1e-12)
    temperature = spread / (2 * n.clamp_min(2).log()).sqrt()
    return (temperature * ((low / temperature).logsumexp(1, keepdim=True) - n.log()))[:, 0]
