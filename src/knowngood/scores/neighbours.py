"""Distance to the nearest of the good items fitted on: among codes, residuals or the items themselves."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from knowngood.config import Neighbours
from knowngood.errors import DataError
from knowngood.models.objectives.base import Batch
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Score, ScoreResult, wide
from knowngood.scores.codes import Of, check_codes, codes

SEED = 0
FEWEST = 10  # codes for a stratum to be searched by itself
CANDIDATES = 4  # times the coreset's size, drawn at random, that the coreset is chosen from
PROJECTED = 32  # dimensions that it is chosen in
AT_ONCE = 2**24  # values of codes compared at a time
SHORTEST = 1e-12
SPARE = 5  # further neighbours that are measured exactly


class NeighboursScore(Score):
    """k⁻¹ Σ ‖v(x) − v_i‖₂ over the k codes v_i of good items nearest to v(x), of those in the stratum of x. No map.

    v is the posterior mean μ(x, c) (`latent`), the item itself (`pixels`), x − x̂ with x̂ the mean of p(x|z,c) at μ
    (`residual`), or the oriented gradients of an image (`gradients`); with `cosine` all are brought to length 1. Strata
    with fewer than max(10, k) codes, and stratum −1, search the codes of all.

    Of many items a coreset is kept, shared among strata by their sizes: greedily the code farthest from those taken so
    far (Sener and Savarese, arXiv:1708.00489; as in PatchCore, arXiv:2106.08265, eq. 4 and 5, in a random projection),
    out of four times as many drawn at random with a fixed seed.
    """

    def __init__(self, options: Neighbours) -> None:
        super().__init__(options)
        self.k, self.most = options.k, options.coreset
        self.of: Of = options.of
        self.cosine = options.cosine

    def check(self, model: ConditionalVAE) -> None:
        check_codes(model, self.of, self.options.name)

    def codes(self, model: ConditionalVAE, x: Tensor, c: Tensor | None) -> Tensor:
        """v of items x (B, *shape): (B, V)."""
        found = codes(model, x, c, self.of)
        return found / found.norm(dim=1, keepdim=True).clamp_min(SHORTEST) if self.cosine else found

    @torch.no_grad()
    def fit(self, model: ConditionalVAE, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """{"codes": (M, V) float32, "code_stratum": (M,) int64}, on the CPU."""
        generator = torch.Generator().manual_seed(SEED)
        drawn = _Drawn(None if self.most is None else CANDIDATES * self.most, generator)
        for batch in batches:
            drawn.add(self.codes(model, batch.x, batch.c).float().cpu(), batch.stratum.cpu())
        kept, strata = drawn.kept()
        if not len(kept):
            raise DataError("score 'neighbours' keeps codes of normals; no normals were given")
        if self.most is not None and len(kept) > self.most:
            chosen = coreset(kept, strata, self.most, max(FEWEST, self.k), generator)
            kept, strata = kept[chosen], strata[chosen]
        return {"codes": kept, "code_stratum": strata}

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
        asked = wide(self.codes(model, x, c))
        kept, of = (state[name].to(asked.device) for name in ("codes", "code_stratum"))
        values = torch.empty(len(asked), dtype=torch.float64, device=asked.device)
        stratum = stratum.to(asked.device)
        for s in stratum.unique().tolist():
            rows, own = stratum == s, of == s
            searched = kept[own] if s >= 0 and own.sum() >= max(FEWEST, self.k) else kept
            values[rows] = nearest_distances(asked[rows], searched, self.k).mean(1)
        return ScoreResult(values, None, {})


class _Drawn:
    """At most `most` of the rows added, drawn at random, in the order they came; all with None."""

    def __init__(self, most: int | None, generator: torch.Generator) -> None:
        self.most, self.generator = most, generator
        self.parts: list[tuple[Tensor, ...]] = []  # (codes, strata, lots): the rows with the smallest lots stay
        self.held = 0

    def add(self, codes: Tensor, strata: Tensor) -> None:
        lots = torch.rand(len(codes), generator=self.generator, dtype=torch.float64)
        self.parts.append((codes, strata, lots))
        self.held += len(codes)
        if self.most is not None and self.held > 2 * self.most:
            self._thin()

    def kept(self) -> tuple[Tensor, Tensor]:
        if not self.parts:
            return torch.empty(0, 0), torch.empty(0, dtype=torch.int64)
        self._thin()
        codes, strata, _ = self.parts[0]
        return codes, strata

    def _thin(self) -> None:
        codes, strata, lots = (torch.cat(column) for column in zip(*self.parts, strict=True))
        if self.most is not None and len(codes) > self.most:
            stay = lots.argsort(stable=True)[: self.most].sort().values
            codes, strata, lots = codes[stay], strata[stay], lots[stay]
        self.parts, self.held = [(codes, strata, lots)], len(codes)


def coreset(codes: Tensor, strata: Tensor, most: int, fewest: int, generator: torch.Generator) -> Tensor:
    """Rows of codes (N, V) to keep, about `most`, ascending: of each stratum (N,) its share, at least `fewest`."""
    if codes.shape[1] > PROJECTED:
        directions = torch.randn(codes.shape[1], PROJECTED, generator=generator) / math.sqrt(PROJECTED)
        codes = codes @ directions
    chosen = []
    for s in strata.unique():
        rows = (strata == s).nonzero()[:, 0]
        count = min(len(rows), max(fewest, most * len(rows) // len(codes)))
        chosen.append(rows[k_centres(codes[rows], count)])
    return torch.cat(chosen).sort().values


def k_centres(points: Tensor, count: int) -> Tensor:
    """Rows of points (N, V): the one nearest the mean, then each time the one farthest from all taken before."""
    points = points - points.mean(0)
    norms = points.square().sum(1)
    taken = torch.empty(count, dtype=torch.int64)
    farthest = norms.argmin()
    nearest = torch.full_like(norms, math.inf)
    for i in range(count):
        taken[i] = farthest
        torch.minimum(nearest, torch.addmv(norms, points, points[farthest], alpha=-2) + norms[farthest], out=nearest)
        nearest[farthest] = -math.inf
        farthest = nearest.argmax()
    return taken


def nearest_distances(queries: Tensor, kept: Tensor, k: int) -> Tensor:
    """Euclidean distances (B, k) in float64 of queries (B, V) to their k nearest of kept (M, V); all M if fewer.

    The nearest are found by matrix products, |a|² + |b|² − 2ab, which cancels at small distances. So some more are
    found than asked for, those are measured again by differences, and the k nearest by that are taken. The products
    are taken in float32, and in float64 for queries of which rounding may have hidden a nearer one.
    """
    index, beyond = _candidates(queries.float(), kept, k + SPARE)
    distances = _measured(queries, kept, index, k)
    unsure = ~(distances[:, -1].square() <= beyond)
    if unsure.any():
        few, centre = queries[unsure], kept.mean(0, dtype=torch.float64).to(queries)
        index, _ = _candidates(few - centre, kept, k + SPARE, centre)
        distances[unsure] = _measured(few, kept, index, k)
    return distances


def _candidates(queries: Tensor, kept: Tensor, count: int, centre: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rows (B, count) of kept (M, V), less `centre`, nearest to queries (B, V) by products in their precision.

    With them (B,), float64: no other row is nearer than that, squared, however products are rounded.
    """
    best = queries.new_empty(len(queries), 0)
    index = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    longest = queries.new_zeros(())
    step = max(1, AT_ONCE // max(kept.shape[1], len(queries)))
    for start in range(0, len(kept), step):
        part = kept[start : start + step].to(queries)
        part = part if centre is None else part - centre
        norms = part.square().sum(1)
        longest = torch.maximum(longest, norms.max())
        squares, rows = torch.addmm(norms, queries, part.t(), alpha=-2).topk(min(count, len(part)), largest=False)
        best, index = torch.cat((best, squares), 1), torch.cat((index, rows + start), 1)
        best, order = best.topk(min(count, best.shape[1]), largest=False)
        index = index.gather(1, order)
    norms = queries.square().sum(1).double()
    slack = torch.finfo(queries.dtype).eps * (kept.shape[1] + 8) * (norms + longest)
    beyond = best[:, -1] + norms - slack if len(kept) > count else torch.full_like(norms, math.inf)
    return index, beyond


def _measured(queries: Tensor, kept: Tensor, index: Tensor, k: int) -> Tensor:
    """(B, k), or fewer: the smallest distances of queries (B, V) to the rows `index` (B, n) of kept, by differences."""
    measured = [(queries - kept[one].to(queries)).square().sum(1).sqrt() for one in index.t()]
    return torch.stack(measured, 1).sort(dim=1).values[:, :k]
