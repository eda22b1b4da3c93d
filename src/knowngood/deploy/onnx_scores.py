"""Scores as modules that torch can export: the values of `Score.score`, with no step that depends on the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from knowngood.calibration import Calibration, mean_excess
from knowngood.detector.ignored import filled
from knowngood.errors import SettingsError
from knowngood.models.base import Condition, Model
from knowngood.models.distributions import wide
from knowngood.models.memory_bank import FEWEST, SPARE, MemoryBank
from knowngood.models.patch_bank import doubled, halved
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.scores import Score, ScoreResult
from knowngood.scores.base import State
from knowngood.scores.elbo import ElboScore
from knowngood.scores.fusion import FusionScore, tail
from knowngood.scores.iwae import IWAEScore
from knowngood.scores.kl import KLScore
from knowngood.scores.known_defects import excess
from knowngood.scores.location_standardisation import TENSORS, Standardised, standardised
from knowngood.scores.neighbours import NeighboursScore
from knowngood.scores.patch_distance import EXCESS, NEAR, PatchDistanceScore, length, pool, smooth
from knowngood.scores.prior_distance import PriorDistanceScore
from knowngood.scores.reconstruction import ReconstructionScore
from knowngood.scores.reconstruction_probability import ReconstructionProbabilityScore
from knowngood.scores.split_elbo import SplitElboScore
from knowngood.scores.typicality import TypicalityScore

AT_ONCE = 64  # locations whose factors are inverted at a time
STRIPS = 4  # that a triangular matrix is stored in
PLAIN = (  # their own code exports
    ElboScore, IWAEScore, KLScore, PriorDistanceScore, ReconstructionScore, ReconstructionProbabilityScore,
    SplitElboScore, TypicalityScore,
)  # fmt: skip


def score_graph(score: Score, model: Model, state: State) -> nn.Module:
    """(x, c, stratum) → `ScoreResult`, with its map where it has one.

    Raises:
        SettingsError: the score cannot be exported.
    """
    check_score(score)
    if isinstance(score, FusionScore):
        return FusionGraph(score, model, state)
    if isinstance(score, NeighboursScore):
        return NeighboursGraph(score, model, state)
    if isinstance(score, PatchDistanceScore):
        graph: Any = BankGraph if isinstance(model, MemoryBank) else GaussianGraph
        return graph(score, model, state)
    return PlainGraph(score, model, state)


def check_score(score: Score) -> None:
    """Raise SettingsError if the score, or one that it is made of, cannot be exported."""
    for one in score.inners if isinstance(score, FusionScore) else (score,):
        if type(one) not in (*PLAIN, NeighboursScore, PatchDistanceScore):
            known = "elbo, reconstruction, neighbours, prior_distance, kl, iwae, typicality, split_elbo, patch_distance"
            raise SettingsError(
                f"score '{one.options.name}' cannot be exported: its computation is no fixed graph (it takes "
                f"gradients, searches, or float64 convolutions); fit with one of {known}"
            )


class PlainGraph(nn.Module):
    """A score whose own code is a graph."""

    def __init__(self, score: Score, model: Model, state: State) -> None:
        super().__init__()
        self.score, self.model, self.state = score, model, state

    def forward(self, x: Tensor, c: Condition, stratum: Tensor) -> ScoreResult:
        return self.score.score(self.model, self.state, x, c, stratum, want_map=self.score.has_map and x.ndim == 4)


class FusionGraph(nn.Module):
    """`FusionScore`: tails as tables, with a row for all normal items and one for each stratum with tails of its own.

    A row holds the distinct values, the surprise at each, and the scales of the exponentials beyond both ends.
    """

    def __init__(self, score: FusionScore, model: Model, state: State) -> None:
        super().__init__()
        self.names, self.weights = score.names, score.weights.tolist()
        prefixes = [f"{k}." for k in range(len(self.names))]
        own = [{n.removeprefix(p): t for n, t in state.items() if n.startswith(p)} for p in prefixes]
        self.inners = nn.ModuleList(score_graph(one, model, s) for one, s in zip(score.inners, own, strict=True))
        mapped = [k for k, inner in enumerate(score.inners) if inner.has_map]
        self.shown = max(mapped, key=score.weights.__getitem__, default=-1)
        strata = state["strata"].cpu().numpy()
        self.tails = nn.ModuleList(TailGraph(tail(values.cpu().numpy(), strata)) for values in state["tails"])

    def forward(self, x: Tensor, c: Condition, stratum: Tensor) -> ScoreResult:
        total, shown, parts = torch.zeros_like(x.flatten(1)[:, 0], dtype=torch.float64), None, {}
        for k, (name, inner, known) in enumerate(zip(self.names, self.inners, self.tails, strict=True)):
            one = inner(x, c, stratum)
            surprise = known(one.values, stratum)
            parts |= {name: one.values, f"{name}_surprise": surprise}
            for part, value in one.parts.items():
                parts[f"{name}_{part}" if part in parts else part] = value
            total = total + self.weights[k] * surprise if self.weights[k] else total
            shown = one.map if k == self.shown else shown
        return ScoreResult(total, shown, parts)


class TailGraph(nn.Module):
    """`calibration.surprise` within the stratum of an item, or among all."""

    row: Tensor
    values: Tensor
    nats: Tensor
    last: Tensor
    scales: Tensor

    def __init__(self, known: Calibration) -> None:
        super().__init__()
        own = np.flatnonzero(known.own())
        references = [known.reference(), *(known.reference(stratum=int(s)) for s in own)]
        row = np.zeros(len(known.stratum_names) + 1, dtype=np.int64)  # the last, also −1, is all together
        row[own] = np.arange(1, len(references))
        found = [np.unique(one, return_index=True) for one in references]
        width = max(2, *(len(values) for values, _ in found))
        values, nats = np.full((2, len(found), width), np.inf)
        for r, (one, first) in enumerate(found):
            n = len(references[r])
            values[r, : len(one)], nats[r, : len(one)] = one, -np.log((n - first) / (n + 1.0))
            if len(one) == 1:  # no line between two values: a flat one
                values[r, 1], nats[r, 1] = one[0] + 1, nats[r, 0]
        scales = [(mean_excess(one), mean_excess(-one[::-1])) for one in references]
        tables = {"row": row, "values": values, "nats": nats, "scales": np.array(scales)}
        for name, table in {**tables, "last": np.array([len(one) - 1 for one, _ in found])}.items():
            self.register_buffer(name, torch.from_numpy(table))

    def forward(self, scores: Tensor, stratum: Tensor) -> Tensor:
        row = self.row[torch.where(stratum < len(self.row) - 1, stratum, -1)]
        values, nats, last, scales = self.values[row], self.nats[row], self.last[row][:, None], self.scales[row]
        at = ((values <= scores[:, None]).sum(1, keepdim=True) - 1).clamp_min(0).minimum((last - 1).clamp_min(0))
        low, high, first, end = (t.gather(1, i)[:, 0] for t in (values, nats) for i in (at, at + 1))
        bottom, top, least, most = values[:, 0], values.gather(1, last)[:, 0], nats[:, 0], nats.gather(1, last)[:, 0]
        inside = (end - first) / (high - low) * (scores - low) + first
        above = most + (scores - top).clamp_min(0) / scales[:, 0]
        below = least * ((scores - bottom).clamp_max(0) / scales[:, 1]).exp()
        return torch.where(scores > top, above, torch.where(scores < bottom, below, inside))


class NearestGraph(nn.Module):
    """`nearest_in_stratum`, by products in float64; the nearest are measured again without them."""

    bank: Tensor
    of: Tensor
    alone: Tensor

    def __init__(self, bank: Tensor, of: Tensor, k: int) -> None:
        super().__init__()
        self.k, self.found = min(k, len(bank)), min(k + SPARE, len(bank))
        counts = torch.bincount(of[of >= 0], minlength=1)
        for name, tensor in (("bank", bank), ("of", of), ("alone", counts >= max(FEWEST, k))):
            self.register_buffer(name, tensor.detach().cpu())
        self.parted = len(counts) > 1

    def forward(self, queries: Tensor, stratum: Tensor) -> Tensor:
        """(B, k) distances of queries (B, V) in strata (B,)."""
        queries, bank = queries.double(), self.bank.double()
        squares = bank.square().sum(1) - 2 * queries @ bank.t() + queries.square().sum(1, keepdim=True)
        if self.parted:
            known = (stratum >= 0) & (stratum < len(self.alone))
            alone = known & self.alone[torch.where(known, stratum, 0)]
            squares = squares.masked_fill(alone[:, None] & (self.of != stratum[:, None]), torch.inf)
        near, index = squares.topk(self.found, dim=1, largest=False)
        measured = (queries[:, None] - bank[index]).square().sum(2).sqrt()
        measured = measured.masked_fill(near == torch.inf, torch.inf)
        return measured.topk(self.k, dim=1, largest=False).values


class NeighboursGraph(nn.Module):
    """`NeighboursScore`."""

    def __init__(self, score: NeighboursScore, model: Model, state: State) -> None:
        super().__init__()
        self.score, self.model = score, model
        own = isinstance(model, MemoryBank) and score.of(model) == "items"
        bank, of = (score.scaled(model.bank), model.stratum) if own else (state["codes"], state["code_stratum"])  # type: ignore[arg-type]
        self.nearest = NearestGraph(bank, of, score.options.k)  # type: ignore[arg-type]

    def forward(self, x: Tensor, c: Condition, stratum: Tensor) -> ScoreResult:
        distances = self.nearest(wide(self.score.codes(self.model, x, c)), stratum)
        return ScoreResult(distances.mean(1), None, {})


class PatchGraph(nn.Module):
    """What both graphs of `PatchDistanceScore` share: distances (B, h, w) to a value and a map.

    hidden: (K, h, w) locations that are ignored in each cell, or (1, h, w) in every cell.
    """

    hidden: Tensor | None
    share: Tensor | None

    def __init__(
        self, score: PatchDistanceScore, grid: tuple[int, ...], state: State, hidden: Tensor | None = None
    ) -> None:
        super().__init__()
        counted, sigma = None if hidden is None else (~hidden).double(), score.options.smoothing
        self.register_buffer("hidden", hidden)
        self.register_buffer("share", None if counted is None else smooth(counted, sigma).clamp_min(1e-12))
        self.sigma = sigma
        self.pooling = score.options.pooling
        for name in (*TENSORS, *(f"{name}_moments" for name in ("pooled", "global", "counts", "level"))):
            self.register_buffer(name, state[name].double() if name in state else None)
        if sigma:
            for name, n in zip(("down", "across"), grid, strict=True):  # ONNX Runtime has no convolution in float64
                matrix = smooth(torch.eye(n, dtype=torch.float64)[:, :, None], sigma)[:, :, 0].t()
                self.register_buffer(name, matrix.contiguous())

    def smoothed(self, maps: Tensor, cell: Tensor) -> Tensor:
        maps = maps if self.hidden is None else maps.masked_fill(in_cells(self.hidden, cell), 0)
        if not self.sigma:
            return maps
        maps = self.down @ maps @ self.across.t()  # type: ignore[operator]
        return maps if self.share is None else maps / in_cells(self.share, cell)

    def judged(self, maps: Tensor, cell: Tensor, added: Tensor | None = None) -> tuple[Tensor, Standardised | None]:
        """(B,) the pooled value; and the standardised distances, None if nothing is standardised."""
        hidden = None if self.hidden is None else in_cells(self.hidden, cell).expand(maps.shape)
        if self.location_mean is None:
            return pool(self.smoothed(maps if added is None else maps + added, cell), self.pooling, hidden), None
        relative = standardised(maps, cell, hidden, {name: getattr(self, name) for name in TENSORS}, added)
        return pool(self.smoothed(relative.scored, cell), self.pooling, hidden), relative


class BankGraph(PatchGraph):
    """Distances to the nearest patch of a `MemoryBank`."""

    def __init__(self, score: PatchDistanceScore, model: MemoryBank, state: State) -> None:
        super().__init__(score, model.shape[1:], state)
        self.model, self.nearest = model, NearestGraph(model.bank, model.stratum, 1)
        self.locations = model.shape[1] * model.shape[2]

    def forward(self, x: Tensor, c: Condition, stratum: Tensor) -> ScoreResult:
        near = self.nearest(self.model.rows(x), stratum.repeat_interleave(self.locations))[:, 0]
        maps = near.reshape(-1, *x.shape[2:])
        cell = torch.zeros_like(stratum)
        return ScoreResult(self.judged(maps, cell)[0], self.smoothed(maps, cell), {})


class GaussianGraph(PatchGraph):
    """Distances under a `PatchGaussian`."""

    numbers: Tensor
    range: Tensor
    slope: Tensor | None
    near: Tensor | None

    def __init__(self, score: PatchDistanceScore, model: PatchGaussian, state: State) -> None:
        hidden = of_cells(model.ignored_grid) if bool(model.ignored.any()) else None
        super().__init__(score, model.shape[1:], state, hidden)
        self.register_buffer("near", None if hidden is None else nearest_counted(hidden))
        self.fine, self.grid = WhiteGraph(model), model.shape[1:]
        members: dict[str, Any] = {"global": GlobalGraph, "counts": WordsGraph}
        self.names = model.image_members  # no keys of a ModuleDict: "global" is a word of the code that torch makes
        self.members = nn.ModuleList(members[name](model) for name in self.names)
        self.bank = None if model.bank is None else PatchBankGraph(model)
        self.learned = [name for name in state if name.startswith("defect_")]
        for name in self.learned:
            self.register_buffer(name, state[name])
        self.register_buffer("slope", model.number_slope if bool(model.number_slope.any()) else None)
        self.register_buffer("range", model.number_range)
        self.cell = CellGraph(model)
        self.register_buffer("numbers", model.continuous.nonzero()[:, 0])

    def forward(self, x: Tensor, c: Condition, stratum: Tensor) -> ScoreResult:
        cell, grids = self.cell(c, stratum), x.float().flatten(2)
        if c is not None and self.slope is not None:  # as `PatchGaussian.given`
            low, high, mean = self.range.unbind()
            off = torch.minimum(torch.maximum(c[:, self.numbers], low), high) - mean
            grids = grids - torch.einsum("pfc,nc->nfp", self.slope, off)
        white = self.fine(grids, cell)
        maps = 0.5 * white.square().sum(2).double().unflatten(1, self.grid)
        shown, added = maps, None
        if self.bank is not None:
            near = self.bank(grids, cell).unflatten(1, self.grid)
            maps, shown = maps + near, maps + NEAR * near
        if self.learned:
            added = excess(white, {name: getattr(self, name) for name in self.learned})
            added = added.unflatten(1, self.grid).double()
            shown = shown + added
        values, relative = self.judged(maps, cell, added)
        found = {name: member(grids, cell) for name, member in zip(self.names, self.members, strict=True)}
        if self.level_moments is not None and relative is not None:
            found["level"] = relative.level
        parts = {name: self.standardised(member, name, cell) for name, member in found.items()}
        if parts:
            values = self.standardised(values, "pooled", cell)
        for part in parts.values():
            values = values + (part - EXCESS).clamp_min(0)
        shown = length(self.smoothed(shown, cell))
        if relative is not None:
            shown = shown * self.smoothed(relative.shown, cell).sigmoid()
        if self.near is not None:
            near = in_cells(self.near, cell).expand(shown.flatten(1).shape)
            shown = shown.flatten(1).gather(1, near).unflatten(1, self.grid)
        return ScoreResult(values, shown, parts)

    def standardised(self, values: Tensor, kind: str, cell: Tensor) -> Tensor:
        mean, spread = getattr(self, f"{kind}_moments")[cell].unbind(1)
        return (values - mean) / spread


class CellGraph(nn.Module):
    """`PatchGaussian.cell`."""

    keys: Tensor
    counted: Tensor

    def __init__(self, model: PatchGaussian) -> None:
        super().__init__()
        self.register_buffer("keys", model.keys)
        self.register_buffer("counted", ~model.continuous)

    def forward(self, c: Condition, stratum: Tensor) -> Tensor:
        """(B,) of conditions (B, W)."""
        if c is None or len(self.keys) == 1:
            return torch.zeros_like(stratum)
        return ((c * self.counted)[:, None] - self.keys).square().sum(2).argmin(1)


class WhiteGraph(nn.Module):
    """`PatchGaussian.whiten` by the inverses of the Cholesky factors: ONNX solves no triangular systems.

    The inverses are triangular, and most of a large file: they are stored in strips, without most of their zeros.
    """

    mean: Tensor
    basis: Tensor
    slope: Tensor
    normal: Tensor
    counted: Tensor | None

    def __init__(self, model: PatchGaussian) -> None:
        super().__init__()
        self.locations, unit = model.locations, torch.eye(model.shape[0], dtype=torch.float64)
        factors = (model.lower if model.lower.stride(1) else model.lower[:, :1]).cpu()  # or one for all locations
        inverse = torch.empty_like(factors)  # transposed, as rows of features meet it
        for each, found in zip(factors, inverse, strict=True):
            for lower, out in zip(each.split(AT_ONCE), found.split(AT_ONCE), strict=True):
                out.copy_(torch.linalg.solve_triangular(lower.double(), unit, upper=False).mT)
        self.ends = sorted({round(len(unit) * k / STRIPS) for k in range(1, STRIPS + 1)} - {0})
        strips = zip([0, *self.ends], self.ends, strict=False)
        own = {f"inverse{end}": inverse[..., :end, start:end].contiguous() for start, end in strips}
        tensors = {"mean": model.mean, **own, "basis": model.basis, "slope": model.slope}
        self.single = len(model.mean) == 1  # then without a step that would copy all of a large tensor
        counted = counted_of(model)
        share = counted / counted.sum(1, keepdim=True)
        tensors["normal"] = (model.mean.cpu() * share[:, :, None]).sum(1).float()
        self.register_buffer("counted", None if bool(counted.all()) else share.float())
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor[0].cpu() if self.single else tensor.cpu())

    def forward(self, grids: Tensor, cell: Tensor) -> Tensor:
        """Features (B, F, P) in cells (B,) → white patches (B, P, F)."""
        tensors = (self.mean, self.slope, self.normal, self.basis)
        mean, slope, normal, basis = tensors if self.single else (t[cell] for t in tensors)
        off = grids.transpose(1, 2) - mean  # (B, P, F)
        if basis.shape[-2]:
            mean_grid = (
                grids.mean(2) if self.counted is None else (grids @ in_cells(self.counted, cell)[..., None])[..., 0]
            )
            context = (basis @ (mean_grid - normal)[..., None])[..., 0]  # (B, T)
            off = off - (slope @ context[:, None, :, None])[..., 0]
        strips = [getattr(self, f"inverse{end}") for end in self.ends]
        if self.single:  # one product for all images at a location
            off = off.transpose(0, 1)
            return torch.cat([off[..., :n] @ strip for n, strip in zip(self.ends, strips, strict=True)], 2).transpose(
                0, 1
            )
        pairs = zip(self.ends, strips, strict=True)
        return torch.cat([(off[:, :, None, :n] @ strip[cell])[:, :, 0] for n, strip in pairs], 2)


class GlobalGraph(nn.Module):
    """`PatchGaussian.global_distances`."""

    counted: Tensor

    def __init__(self, model: PatchGaussian) -> None:
        super().__init__()
        assert model.coarse is not None
        self.white = WhiteGraph(model.coarse)
        self.register_buffer("counted", counted_of(model.coarse))
        height, width = model.coarse.shape[1:]
        parts = adaptive_avg_pool2d(each_location(model), (height, width))
        self.coarsen = AverageGraph(parts.flatten(1), counted_of(model))

    def forward(self, grids: Tensor, cell: Tensor) -> Tensor:
        """(B,) of features (B, F, P) in cells (B,)."""
        squares = self.white(self.coarsen(grids, cell), cell).square().sum(2).double()
        counted = in_cells(self.counted, cell)
        return 0.5 * (squares * counted).sum(1) / counted.sum(1)


class AverageGraph(nn.Module):
    """Features (B, F, P) averaged over what counts of P' parts, by their weights (P, P') of all that there is.

    counted: (K, P) or (1, P) of every cell, 1 where a location counts. A part of which nothing counts is 0.
    """

    weights: Tensor
    counted: Tensor | None
    share: Tensor | None

    def __init__(self, weights: Tensor, counted: Tensor) -> None:
        super().__init__()
        share = (counted @ weights.double()).clamp_min(1e-12)
        if len(counted) == 1:
            weights = counted[0, :, None] * weights / share
        several = len(counted) > 1
        self.register_buffer("weights", weights.float())
        self.register_buffer("counted", counted.float() if several else None)
        self.register_buffer("share", share.float() if several else None)

    def forward(self, grids: Tensor, cell: Tensor) -> Tensor:
        if self.counted is None or self.share is None:
            return grids @ self.weights
        return (grids * self.counted[cell][:, None]) @ self.weights / self.share[cell][:, None]


class WordsGraph(nn.Module):
    """`PatchWords.distances` of its shares."""

    share: Tensor | None

    def __init__(self, model: PatchGaussian) -> None:
        super().__init__()
        words = model.words
        assert words is not None
        self.words, unit = words, torch.eye(len(words.words), dtype=torch.float64)
        roots = [torch.linalg.solve_triangular(words.root(k).cpu(), unit, upper=False) for k in range(len(words.mean))]
        self.register_buffer("inverse", torch.stack(roots))
        counted = counted_of(model)
        share = counted / counted.sum(1, keepdim=True)
        self.register_buffer("share", None if bool(counted.all()) else share)

    def forward(self, grids: Tensor, cell: Tensor) -> Tensor:
        """(B,) of features (B, F, P) in cells (B,)."""
        words = self.words
        rows = (grids.transpose(1, 2) - words.centre) @ words.basis
        squares = words.words.square().sum(1) - 2 * rows @ words.words.t() + rows.square().sum(2, keepdim=True)
        assigned = (-squares.clamp_min(0) / words.temperature).softmax(2).double()
        shares = assigned.mean(1) if self.share is None else (in_cells(self.share, cell)[:, None] @ assigned)[:, 0]
        off = shares / words.scale - words.mean[cell]
        return (self.inverse[cell] @ off[:, :, None])[:, :, 0].square().sum(1).sqrt()  # type: ignore[index]


class PatchBankGraph(nn.Module):
    """`PatchBank.nearest`: halving the grid and interpolating on it are products."""

    def __init__(self, model: PatchGaussian) -> None:
        super().__init__()
        bank, every = model.bank, each_location(model)
        assert bank is not None
        others = bank.cell != torch.arange(len(bank.weight), device=bank.cell.device)[:, None]  # (K, M)
        added = bank.rows.square().sum(1) + bank.penalty[:, None] * others
        nothing = torch.zeros(1, model.locations, dtype=torch.bool)
        halves = halved(every, nothing, torch.zeros(len(every), dtype=torch.int64))[:, 0]
        each = torch.eye(halves[0].numel(), dtype=torch.float64).unflatten(1, halves.shape[1:])
        height, width = model.shape[1:]
        tensors = {"rows": bank.rows, "centre": bank.centre, "basis": bank.basis, "weight": bank.weight, "added": added}
        tensors["spread"] = doubled(each, height, width).flatten(1)
        self.halve = AverageGraph(halves.flatten(1), counted_of(model))
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.cpu())

    def forward(self, grids: Tensor, cell: Tensor) -> Tensor:
        """Features (B, F, P) in cells (B,) → weighted squared distances (B, P), float64."""
        rows = (self.halve(grids, cell).transpose(1, 2) - self.centre) @ self.basis  # type: ignore[operator]
        compared = self.added[cell][:, None] - 2 * rows @ self.rows.t()  # type: ignore[index, operator]
        squares = compared.amin(2) + rows.square().sum(2)
        weighted = self.weight[cell][:, None] * squares.clamp_min(0)  # type: ignore[index]
        return weighted.double() @ self.spread  # type: ignore[operator]


def of_cells(tensor: Tensor) -> Tensor:
    """(K, …) of cells; (1, …) where all have the same."""
    return tensor[:1] if bool((tensor == tensor[:1]).all()) else tensor


def in_cells(tensor: Tensor, cell: Tensor) -> Tensor:
    """Of `of_cells`, that of each row in cells (B,): (B, …) or (1, …)."""
    return tensor if len(tensor) == 1 else tensor[cell]


def counted_of(model: PatchGaussian) -> Tensor:
    """(K, P) or (1, P) float64: 1 where a location counts, 0 where it is ignored; see `of_cells`."""
    return (~of_cells(model.ignored)).double().cpu()


def nearest_counted(hidden: Tensor) -> Tensor:
    """(K, P) for each location of (K, h, w) the nearest that is not hidden, as `detector.ignored.filled` takes it."""
    places = np.arange(hidden[0].numel(), dtype=np.float32).reshape(hidden.shape[1:])
    found = [filled(np.where(one, np.nan, places)).reshape(-1) for one in hidden.cpu().numpy()]
    return torch.from_numpy(np.stack(found).astype(np.int64))


def each_location(model: PatchGaussian) -> Tensor:
    """(P, 1, h, w): grids of which one location is 1, to find what a linear step does to each."""
    return torch.eye(model.locations).unflatten(1, model.shape[1:])[:, None]
