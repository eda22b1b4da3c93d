"""Any score of a patch as a map over the image and one value an image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from knowngood.errors import SettingsError
from knowngood.objectives.base import Batch
from knowngood.patches import smooth
from knowngood.scores.base import Score, ScoreResult, wide
from knowngood.vae import ConditionalVAE

Pooling = Literal["max", "top", "soft"]
POOLINGS: tuple[Pooling, ...] = ("max", "top", "soft")
TOP_SHARE = 0.02  # of the cells
ROWS = 4096  # patches scored at a time
ENOUGH = 1000  # patches that the level of a place is taken from
FEWEST = 8  # good images from which levels are taken at all


class PatchScore(Score):
    """`inner` on every patch under its position and conditions: the map, smoothed; and one value an image.

    Where good parts vary more, patches score higher and wider. The value of an image is pooled from the map, or with
    levels from (s − level) / spread, both of good images at the same place (`levels`).

    State: that of `inner`; `level` and `spread` (K, h, w) by cell of the conditions, 0 and 1 without levels; `pooling`,
    which of `POOLINGS`; and where labelled defects teach `label_direction` (F,), `label_offset` and `label_weight`, see
    `label_term`.
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
        shape = (len(model.patches.keys), *model.patches.shape[1:])
        plain = {"level": torch.zeros(shape), "spread": torch.ones(shape), "pooling": torch.tensor(0)}
        return {**self.inner.fit(model, batches), **plain}

    def white(self, model: ConditionalVAE, x: Tensor, cell: Tensor) -> Tensor:
        """Whitened patches (B, P, F) of features x (B, F, h, w) in cells (B,)."""
        assert model.patches is not None
        return model.patches.whiten(x, cell)

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
        white = self.white(model, x, cell)
        maps, parts = self.of_patches(model, state, white, c, stratum)
        if "label_weight" in state:
            maps = maps + model.patches.join(wide(label_term(state, white)))
        cell = cell.to(maps.device)
        ignored = model.patches.ignored.to(maps.device)[cell].reshape(maps.shape)
        judged = (maps - state["level"].to(maps)[cell]) / state["spread"].to(maps)[cell]
        values = pool(self.smoothed(judged, ignored), POOLINGS[int(state["pooling"])], ignored)
        shown = self.smoothed(maps, ignored).masked_fill(ignored, math.nan) if want_map else None
        return ScoreResult(values, shown, parts)

    def smoothed(self, maps: Tensor, ignored: Tensor) -> Tensor:
        """Maps (B, h, w) smoothed over the places that are not `ignored`, float64."""
        seen = wide(maps)
        if not ignored.any():
            return smooth(seen, self.smoothing)
        counted = (~ignored).to(seen.dtype)
        share = smooth(counted, self.smoothing).clamp_min(1e-12)
        return smooth(seen.masked_fill(ignored, 0), self.smoothing) / share


class LeftOut(PatchScore):
    """The same of images that the Gaussians were taken from, each as if it had been left out."""

    def white(self, model: ConditionalVAE, x: Tensor, cell: Tensor) -> Tensor:
        assert model.patches is not None
        white = super().white(model, x, cell)
        return model.patches.left_out(white, white, cell)


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


def levels(maps: Tensor, ignored: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (h, w) at each place over good images' maps (N, h, w) and its surroundings.

    The surroundings are a square just large enough for 1,000 values, cut at the border. Values at `ignored` (N, h, w)
    do not count; where nothing around a place does, they are 0 and 1.
    """
    reach = 0
    while len(maps) * (2 * reach + 1) ** 2 < ENOUGH and 2 * reach + 1 < min(maps.shape[1:]):
        reach += 1

    def around(m: Tensor) -> Tensor:
        return avg_pool2d(m[None, None], 2 * reach + 1, 1, reach, count_include_pad=False)[0, 0]

    if ignored is None or not ignored.any():
        mean = around(maps.mean(0))
        variance = around((maps - mean).square().mean(0))
        return mean, variance.clamp_min(1e-12).sqrt()
    counted = (~ignored).to(maps.dtype)
    share = around(counted.mean(0))
    some = share > 1e-12  # sums of zeros are zero but for rounding
    share = share.where(some, 1)
    mean = (around(maps.masked_fill(ignored, 0).mean(0)) / share).where(some, 0)
    variance = around((maps - mean).square().masked_fill(ignored, 0).mean(0)) / share
    return mean, variance.clamp_min(1e-12).sqrt().where(some, 1)
