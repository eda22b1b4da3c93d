"""Normal items, or normal patches, kept as they are; what is far from all of them is anomalous."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from knowngood.config import MemoryBankOptions
from knowngood.errors import DataError
from knowngood.models.base import BatchSource, FitContext, Model
from knowngood.models.distributions import wide

SEED = 0
FEWEST = 10  # rows for a stratum to be searched by itself
CANDIDATES = 4  # times the coreset's size, drawn at random, that the coreset is chosen from
PROJECTED = 32  # dimensions that it is chosen in
VALUES = 2**24  # compared at a time
ITEMS = 64  # read at a time
SPARE = 5  # further neighbours that are measured exactly


class MemoryBank(Model):
    """A coreset of normal items, or of normal patches (PatchCore, arXiv:2106.08265), with their Mondrian groups.

    Buffers: `bank` (M, V) float32, `stratum` (M,) int64. Conditions count by the stratum only.

    Args:
        patches: items are feature maps (F, h, w), and every location is a row of F values; else an item is a row.
        rows: M of a saved bank that is about to be loaded.
    """

    kind: ClassVar[str] = "memory_bank"
    bank: Tensor
    stratum: Tensor

    def __init__(
        self,
        options: MemoryBankOptions,
        shape: tuple[int, ...],
        condition_dim: int = 0,
        patches: bool = False,
        rows: int = 0,
    ) -> None:
        super().__init__()
        self.options = options
        self.shape, self.condition_dim, self.patches = tuple(shape), condition_dim, patches
        values = self.shape[0] if patches else math.prod(self.shape)
        self.register_buffer("bank", torch.zeros(rows, values))
        self.register_buffer("stratum", torch.zeros(rows, dtype=torch.int64))

    def sizes(self) -> dict[str, Any]:
        shape = {"shape": list(self.shape), "condition_dim": self.condition_dim}
        return {**shape, "patches": self.patches, "rows": len(self.bank)}

    @torch.no_grad()
    def fit(self, source: BatchSource, context: FitContext) -> Self:
        """Keep the items of the source, or a coreset of them. The choice depends on the data alone.

        Raises DataError: the source is empty.
        """
        self.bank, self.stratum = keep(self._rows_of(source), self.options.coreset)
        return self

    @torch.no_grad()
    def update(self, source: BatchSource) -> Self:
        """Keep further items too: as a fit to old and new ones does, or a coreset of the bank and one of the new rows.

        Raises DataError: the source is empty.
        """
        new = keep(self._rows_of(source), self.options.coreset)
        self.bank, self.stratum = keep([(self.bank, self.stratum), new], self.options.coreset)
        return self

    def _rows_of(self, source: BatchSource) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows of the items of a source, with their strata."""
        batches = source.batches(torch.arange(len(source)).split(ITEMS)) if len(source) else ()
        each = math.prod(self.shape[1:]) if self.patches else 1
        return ((self.rows(batch.x), batch.stratum.repeat_interleave(each)) for batch in batches)

    def rows(self, x: Tensor) -> Tensor:
        """(B·P, V): the rows that items x (B, *shape) are compared by, P of each item, 1 without patches."""
        return x.flatten(2).transpose(1, 2).flatten(0, 1) if self.patches else x.flatten(1)

    def nearest(self, rows: Tensor, stratum: Tensor, k: int) -> Tensor:
        """Distances (B, k) of rows (B, V) in strata (B,) to the nearest of the bank, see `nearest_in_stratum`."""
        return nearest_in_stratum(rows, stratum, self.bank, self.stratum, k)


# The choice of rows -------------------------------------------------------------------------------------------------


def keep(rows: Iterable[tuple[Tensor, Tensor]], most: int | None, fewest: int = FEWEST) -> tuple[Tensor, Tensor]:
    """Rows (M, V) float32 and their strata (M,), on the CPU: all of those that come, or a coreset of about `most`.

    The coreset is shared among strata by their sizes, at least `fewest` of each: greedily the row farthest from those
    taken so far (Sener and Savarese, arXiv:1708.00489; as in PatchCore, eq. 4 and 5, in a random projection), out of
    four times as many drawn at random with a fixed seed.

    Raises:
        DataError: there are none.
    """
    generator = torch.Generator().manual_seed(SEED)
    drawn = None if most is None else CANDIDATES * most
    parts: list[tuple[Tensor, ...]] = []  # (rows, strata, lots): the rows with the smallest lots stay
    held = 0
    for some, strata in rows:
        lots = torch.rand(len(some), generator=generator, dtype=torch.float64)
        parts.append((some.float().cpu(), strata.cpu(), lots))
        held += len(some)
        if drawn is not None and held > 2 * drawn:
            parts, held = [_thinned(parts, drawn)], drawn
    if not held:
        raise DataError("nearest neighbours are searched among normal items; none were given")
    kept, strata, _ = _thinned(parts, drawn)
    if most is not None and len(kept) > most:
        chosen = coreset(kept, strata, most, fewest, generator)
        kept, strata = kept[chosen], strata[chosen]
    return kept, strata


def _thinned(parts: list[tuple[Tensor, ...]], most: int | None) -> tuple[Tensor, ...]:
    """The `most` rows with the smallest lots, the last column, in the order they came; all with None."""
    columns = tuple(torch.cat(column) for column in zip(*parts, strict=True))
    if most is None or len(columns[-1]) <= most:
        return columns
    stay = columns[-1].argsort(stable=True)[:most].sort().values
    return tuple(column[stay] for column in columns)


def coreset(rows: Tensor, strata: Tensor, most: int, fewest: int, generator: torch.Generator) -> Tensor:
    """Positions of rows (N, V) to keep, about `most`, ascending: of each stratum (N,) its share, at least `fewest`."""
    if rows.shape[1] > PROJECTED:
        directions = torch.randn(rows.shape[1], PROJECTED, generator=generator) / math.sqrt(PROJECTED)
        rows = rows @ directions
    chosen = []
    for s in strata.unique():
        own = (strata == s).nonzero()[:, 0]
        count = min(len(own), max(fewest, most * len(own) // len(rows)))
        chosen.append(own[k_centres(rows[own], count)])
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


# The search ---------------------------------------------------------------------------------------------------------


def nearest_in_stratum(queries: Tensor, stratum: Tensor, bank: Tensor, of: Tensor, k: int, besides: int = 0) -> Tensor:
    """Distances (B, k) float64 of queries (B, V) in strata (B,) to the nearest of the bank (M, V) in strata `of` (M,).

    A stratum with fewer than max(10, k) rows, and stratum −1, is compared with the whole bank. (B, M) if M < k.

    Args:
        besides: so many rows more are found, and do not count in a stratum: those that the queries came from, say.
    """
    queries = wide(queries)
    distances = queries.new_empty(len(queries), min(k + besides, len(bank)))
    stratum, of = stratum.to(queries.device), of.to(queries.device)
    bank = bank.to(queries.device)
    for s in stratum.unique().tolist():
        rows, own = stratum == s, of == s
        alone = s >= 0 and int(own.sum()) - besides >= max(FEWEST, k)
        distances[rows] = nearest_distances(queries[rows], bank[own] if alone else bank, k + besides)
    return distances


def nearest_distances(queries: Tensor, kept: Tensor, k: int) -> Tensor:
    """Euclidean distances (B, k) in float64 of queries (B, V) to their k nearest of kept (M, V); all M if fewer.

    The nearest are found by matrix products, |a|² + |b|² − 2ab, which cancels at small distances. So some more are
    found than asked for, their distances are computed again from a − b, and the k nearest are taken. The products are
    taken in float32, and in float64 for queries of which rounding may have hidden a nearer one.
    """
    index, beyond = candidates(queries.float(), kept, k + SPARE)
    distances = _measured(queries, kept, index, k)
    unsure = ~(distances[:, -1].square() <= beyond)
    if unsure.any():
        few, centre = queries[unsure], kept.mean(0, dtype=torch.float64).to(queries)
        index, _ = candidates(few - centre, kept, k + SPARE, centre)
        distances[unsure] = _measured(few, kept, index, k)
    return distances


def candidates(queries: Tensor, kept: Tensor, count: int, centre: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rows (B, count) of kept (M, V), less `centre`, nearest to queries (B, V) by products in their precision.

    With them (B,), float64: no other row is nearer than that, squared, however products are rounded.
    """
    best = queries.new_empty(len(queries), 0)
    index = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    longest = queries.new_zeros(())
    step = max(1, VALUES // max(kept.shape[1], len(queries)))
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
    """(B, k) smallest distances of queries (B, V) to their candidates, the rows `index` (B, n) of kept."""
    measured = [(queries - kept[one].to(queries)).square().sum(1).sqrt() for one in index.t()]
    return torch.stack(measured, 1).sort(dim=1).values[:, :k]
