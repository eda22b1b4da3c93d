"""Distances of the patches of an image to normal ones: the anomaly map, and one score an image pooled from it."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from knowngood.errors import SettingsError
from knowngood.models.memory_bank import MemoryBank
from knowngood.models.patch_gaussian import FEWEST, PatchGaussian
from knowngood.scores.base import Batches, Condition, Score, ScoreResult, State
from knowngood.scores.fusion import evenly
from knowngood.scores.known_defects import excess
from knowngood.scores.location_standardisation import TENSORS, Standardised, fit_standardisation, standardised

PatchModel = PatchGaussian | MemoryBank
Pooling = Literal["max", "top", "soft"]
TOP_SHARE = 0.02  # of the locations
NEAR = 16.0  # times as much as in the score the distance to the nearest normal patches counts in maps
EXCESS = 0.5  # standard deviations from which on the score of an image as a whole counts
IMAGES = 300  # normal images of a cell that statistics are taken from, at most
AT_ONCE = 100  # of them


class PatchDistanceScore(Score):
    """Distances of patches, standardised per location given the level of their image, and pooled.

    The distance d is half the squared Mahalanobis distance of `patch_gaussian` plus its weighted squared distance to
    the nearest normal patches, or that to the nearest patch of a `memory_bank`. Of `patch_gaussian` it is standardised
    to y, see `location_standardisation`. A pooled value v of y sees a few anomalous locations. Where the model has a
    coarse grid, g is the mean of the distances there, large where much of the image is anomalous by little; where it
    has visual words, w is the distance of their shares, large where a part is missing, too many or of another kind. The
    score is then z(v) + max(0, z(g) − ½) + max(0, z(w) − ½), z in standard deviations of normal images. z(g) is the
    part `global`, z(w) the part `counts`. Without a coarse grid the level of the image stands for g: the part `level`.
    Where known defects were learned from, the distances of patches that look like them are larger, see
    `known_defects.excess`.

    Maps of `patch_gaussian` show √(2d') / (1 + exp(−y')), a length where it is larger than is normal at that location,
    and half of it or less elsewhere; without standardisation √(2d'). In y' the level counts up to half a standard
    deviation of normal images, so that a defect that covers much of an image is shown. In d' the distance to the
    nearest patches counts 16 times as much as in d: the Gaussian knows better whether a location is anomalous, the
    nearest patches how far a defect reaches. Those of `memory_bank` show d.

    State: what `location_standardisation` fits; `pooled_moments`, `global_moments` or `level_moments`, and
    `counts_moments` (K, 2) for K cells, mean and standard deviation of v, g and w over normal images.
    """

    has_map = True

    def fit(self, model: PatchModel, batches: Batches) -> State:
        """From normal images that the model was fitted to, each as if it had been left out: 300 a cell at most."""
        if not isinstance(model, PatchGaussian) or not (self.standardises(model) or model.image_members):
            return {}
        maps, cells, grids = [], [], []
        kept = evenly(batches, IMAGES * len(model.ignored))
        assert kept is not None
        for rows in torch.arange(len(kept.x), device=kept.x.device).split(AT_ONCE):
            batch = kept.rows(rows)
            x, cell = model.given(batch.x, batch.c)
            cells.append(cell)
            maps.append(model.leave_one_out(x, cell))
            grids.append(x)
        cell, ignored = torch.cat(cells), model.ignored_grid
        plain = torch.cat(maps)
        state: State = {}
        if self.standardises(model):
            state = fit_standardisation(plain, cell, ignored)
        scored, relative = self._relative(state, plain, cell, ignored[cell])
        members = self._members(model, torch.cat(grids), cell, relative, leave_one_out=True)
        if members:
            members["pooled"] = pool(scored, self.options.pooling, ignored[cell])
        return state | {f"{name}_moments": _moments(values, cell, len(ignored)) for name, values in members.items()}

    def standardises(self, model: PatchModel) -> bool:
        """Whether distances are standardised per location."""
        return isinstance(model, PatchGaussian) if self.options.standardise == "auto" else self.options.standardise

    def check(self, model: PatchModel) -> None:
        if self.options.standardise is True and not isinstance(model, PatchGaussian):
            raise SettingsError(
                "patch_distance: standardise = true needs model 'patch_gaussian', whose distances of images it was "
                "fitted to have a leave-one-out form; leave standardise='auto'"
            )

    def score(
        self, model: PatchModel, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        near = added = None
        if isinstance(model, MemoryBank):
            rows = model.rows(x)
            distances = model.nearest(rows, stratum.repeat_interleave(len(rows) // len(x)), 1)[:, 0]
            distances, cell = distances.reshape(len(x), *x.shape[2:]), stratum.new_zeros(len(x))
        else:
            x, cell = model.given(x, c)
            distances, near = model.both_distances(x, cell)
            if "defect_weight" in state:
                added = excess(model.whiten(x, cell), state).unflatten(1, distances.shape[1:]).to(distances)
        values, parts, relative = self.judged(
            model, state, x, cell, distances if near is None else distances + near, added
        )
        if not want_map:
            return ScoreResult(values, None, parts)
        for more, weight in ((near, NEAR), (added, 1.0)):
            distances = distances if more is None else distances + weight * more
        hidden = _hidden(model, distances, cell)
        shown = self._smoothed(distances, hidden)
        if isinstance(model, PatchGaussian):
            shown = length(shown)
        if relative is not None:
            shown = shown * self._smoothed(relative.shown, hidden).sigmoid()
        return ScoreResult(values, shown.masked_fill(hidden, math.nan), parts)

    def judged(
        self, model: PatchModel, state: State, x: Tensor, cell: Tensor, maps: Tensor, added: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor], Standardised | None]:
        """Scores (B,) and their parts, of distances (B, h, w) of features x; and the distances, if standardised.

        Args:
            added: (B, h, w) what known defects add to the distances.
        """
        hidden, parts = _hidden(model, maps, cell), {}
        scored, relative = self._relative(state, maps, cell, hidden, added)
        values = pool(scored, self.options.pooling, hidden)
        if "pooled_moments" in state and isinstance(model, PatchGaussian):
            values = _standardised(values, state["pooled_moments"], cell)
            for name, member in self._members(model, x, cell, relative).items():
                parts[name] = _standardised(member, state[f"{name}_moments"], cell)
                values = values + (parts[name] - EXCESS).clamp_min(0)
        return values, parts, relative

    def _relative(
        self, state: State, maps: Tensor, cell: Tensor, hidden: Tensor, added: Tensor | None = None
    ) -> tuple[Tensor, Standardised | None]:
        """Maps (B, h, w) of images in cells (B,) as they are pooled; and standardised, if that is asked for."""
        if TENSORS[0] not in state:
            return self._smoothed(maps if added is None else maps + added, hidden), None
        relative = standardised(maps, cell, hidden, state, added)
        return self._smoothed(relative.scored, hidden), relative

    @staticmethod
    def _members(
        model: PatchGaussian, x: Tensor, cell: Tensor, relative: Standardised | None, *, leave_one_out: bool = False
    ) -> dict[str, Tensor]:
        """What judges an image as a whole, (B,) each: what the model has, and without a coarse grid the level."""
        whole = model.image_distances(x, cell, leave_one_out=leave_one_out)
        members = dict(zip(model.image_members, whole.unbind(1), strict=True))
        return members if relative is None or "global" in members else members | {"level": relative.level}

    def _smoothed(self, maps: Tensor, ignored: Tensor) -> Tensor:
        """Maps (B, h, w) smoothed over the locations that are not `ignored`."""
        if not ignored.any():
            return smooth(maps, self.options.smoothing)
        share = smooth((~ignored).to(maps.dtype), self.options.smoothing).clamp_min(1e-12)
        return smooth(maps.masked_fill(ignored, 0), self.options.smoothing) / share


def _hidden(model: PatchModel, maps: Tensor, cell: Tensor) -> Tensor:
    """(B, h, w) locations of maps (B, h, w) of images in cells (B,) that do not count."""
    return model.ignored_grid[cell] if isinstance(model, PatchGaussian) else torch.zeros_like(maps, dtype=torch.bool)


def pool(maps: Tensor, pooling: Pooling, ignored: Tensor | None = None) -> Tensor:
    """Maps (B, h, w) → (B,): the largest value; the mean of the largest 2 %; or a soft maximum.

    The soft maximum is τ·log mean exp(m/τ) with τ the spread of the map itself over √(2 log P), so that the few largest
    of P values count and the unit does not. Locations that are `ignored` (B, h, w) do not count.
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


def length(distances: Tensor) -> Tensor:
    """√(2d) of halved squared distances d. Enlarged as lengths, maps are sharper at the border of a defect."""
    return (2 * distances).clamp_min(0).sqrt()


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Maps (B, h, w) under a Gaussian of σ locations, borders repeated."""
    if sigma <= 0:
        return maps
    reach = max(1, round(4 * sigma))
    at = torch.arange(-reach, reach + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-0.5 * (at / sigma).square())
    kernel = kernel / kernel.sum()
    padded = pad(maps[:, None], (reach, reach, reach, reach), mode="replicate")
    padded = conv2d(padded, kernel[None, None, :, None])
    return conv2d(padded, kernel[None, None, None, :])[:, 0]


def _moments(values: Tensor, cell: Tensor, cells: int) -> Tensor:
    """(K, 2) mean and standard deviation of values (N,) by cell (N,); a cell with fewer than 8 has those of all."""
    rows = []
    for k in range(cells):
        mine = values[cell == k] if int((cell == k).sum()) >= FEWEST else values
        rows.append(torch.stack([mine.mean(), mine.std(correction=0).clamp_min(1e-12)]))
    return torch.stack(rows)


def _standardised(values: Tensor, moments: Tensor, cell: Tensor) -> Tensor:
    mean, spread = moments.to(values)[cell].unbind(1)
    return (values - mean) / spread
