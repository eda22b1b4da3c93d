"""Normal patches of each cell, kept as they are: the distance to the nearest, which is added to that of a Gaussian.

PatchCore (arXiv:2106.08265), with patches in the principal components of their features. The nearest patch may lie
anywhere in the image: a part that lies a little off, anomalous for a Gaussian at one location, is near here. A patch is
the mean of 2 × 2 locations: as good beside a Gaussian that sees each of them, and an eighth of the work.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from knowngood.models.memory_bank import k_centres
from knowngood.models.repeats import repeats

SEED = 0
CANDIDATES = 3  # times the coreset's size, drawn at random, that the coreset is chosen from
COMPONENTS = 64  # principal components of the features, at most
SELECTED = 32  # dimensions in which the coreset is chosen
AT_ONCE = 128  # patches compared with the bank, so that their distances fit the cache
SAME = 1e-6  # squared distance over squared length, within which two patches are one
SHARE = 0.25  # spread of what the bank adds, over that of the Gaussian's distance
WEIGHED = 48  # normal images that the weight is estimated from, at most


class PatchBank(nn.Module):
    """A coreset of the normal patches of each of K cells.

    Buffers, for M patches in d components of F features:
        rows (M, d), cell (M,), the image it is of, owner (M,), and its place in the halved grid there, place (M,).
        centre (F,), basis (F, d): of the components.
        weight (K,): of the squared distance to the nearest patch, so that among normal images it varies a quarter as
            much as the Gaussian's distance does.
        penalty (K,): added to squared distances to patches of other cells.

    Args:
        rows: M of a saved bank that is about to be loaded.
    """

    rows: Tensor
    cell: Tensor
    owner: Tensor
    place: Tensor
    centre: Tensor
    basis: Tensor
    weight: Tensor
    penalty: Tensor

    def __init__(self, features: int, cells: int, rows: int = 0) -> None:
        super().__init__()
        components = min(COMPONENTS, features)
        self.register_buffer("rows", torch.zeros(rows, components))
        for name in ("cell", "owner", "place"):  # the last two serve the fit alone
            self.register_buffer(name, torch.zeros(rows, dtype=torch.int64), persistent=name == "cell")
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("basis", torch.zeros(features, components))
        self.register_buffer("weight", torch.ones(cells))
        self.register_buffer("penalty", torch.zeros(cells))

    @torch.no_grad()
    def fit(self, x: Tensor, cell: Tensor, ignored: Tensor, most: int) -> Self:
        """Keep about `most` patches of feature grids x (N, F, h, w) in cells (N,), shared equally among the cells.

        `ignored` (K, P) locations do not count. Among patches drawn at random with a fixed seed, greedily the one
        farthest from those taken before (as in PatchCore, in a random projection).
        """
        generator = torch.Generator().manual_seed(SEED)
        each = max(1, most // len(ignored))
        patches, owner, place = _drawn(x, cell, ignored, CANDIDATES * each, generator)
        self.centre = patches.mean(0)
        off = (patches - self.centre).double()
        _, axes = torch.linalg.eigh(off.T @ off / len(off))
        self.basis = axes.flip(1)[:, : self.basis.shape[1]].float().contiguous()  # as it is loaded
        self._take((patches - self.centre) @ self.basis, cell[owner], owner, place, each, generator)
        return self

    @torch.no_grad()
    def update(self, x: Tensor, cell: Tensor, ignored: Tensor, most: int) -> Self:
        """Take further grids: the coreset is chosen again, of the patches kept so far and of some of x."""
        generator = torch.Generator().manual_seed(SEED)
        each = max(1, most // len(ignored))
        patches, owner, place = _drawn(x, cell, ignored, CANDIDATES * each, generator)
        new = (patches - self.centre) @ self.basis, cell[owner], owner + int(self.owner.max()) + 1, place
        both = zip((self.rows, self.cell, self.owner, self.place), new, strict=True)
        rows, of, owner, place = (torch.cat(pair) for pair in both)
        self._take(rows, of, owner, place, each, generator)
        return self

    def _take(
        self, rows: Tensor, cell: Tensor, owner: Tensor, place: Tensor, each: int, generator: torch.Generator
    ) -> None:
        """Keep at most `each` of the rows of every cell."""
        seen = rows
        if rows.shape[1] > SELECTED:
            seen = rows @ (torch.randn(rows.shape[1], SELECTED, generator=generator) / SELECTED**0.5)
        chosen = []
        for k in range(len(self.weight)):
            mine = (cell == k).nonzero()[:, 0]
            chosen.append(mine if len(mine) <= each else mine[k_centres(seen[mine], each)])
        kept = torch.cat(chosen).sort().values
        self.rows, self.cell, self.owner, self.place = rows[kept], cell[kept], owner[kept], place[kept]

    @torch.no_grad()
    def nearest(self, x: Tensor, cell: Tensor, ignored: Tensor, *, leave_one_out: bool = False) -> Tensor:
        """(B, h, w) float64: `squares` of the patches of x (B, F, h, w), interpolated between their centres.

        `ignored` (K, P) locations do not count.
        """
        squares = self.squares(halved(x, ignored, cell), cell, leave_one_out=leave_one_out)
        return doubled(squares, *x.shape[2:])

    @torch.no_grad()
    def squares(
        self, halves: Tensor, cell: Tensor, *, leave_one_out: bool = False, penalties: Tensor | None = None
    ) -> Tensor:
        """(B, h', w') float64: weighted squared distance of each patch of (B, F, h', w') to the nearest of the bank.

        To squared distances to patches of other cells than its own the `penalty` of its cell is added, or to those of
        cell j as judged in cell k `penalties` (K, K). With `leave_one_out` the patches of an image itself do not count:
        an image is known by its patches in the bank.
        """
        out = torch.empty(len(halves), halves.shape[2:].numel(), dtype=torch.float64, device=halves.device)
        order = self.cell.argsort(stable=True)
        rows, counts = self.rows[order], torch.bincount(self.cell, minlength=len(self.weight)).tolist()
        norms, across = rows.square().sum(1), rows.T.contiguous()
        if penalties is None:
            penalties = self.penalty[:, None] * (1 - torch.eye(len(self.weight), device=norms.device))
        for same in repeats(halves):  # of an image in several cells the distances to all rows are computed once
            patches = (halves[same.start].flatten(1).T - self.centre) @ self.basis  # (P', d)
            compared = norms
            if leave_one_out:
                own = torch.isin(self.owner, self._owners(patches))[order]
                compared = norms.masked_fill(own, torch.inf)
            least = []
            for some in patches.split(AT_ONCE):
                to_all = torch.addmm(compared, some, across, alpha=-2).split(counts, dim=1)
                least.append(torch.stack([_least(to_one) for to_one in to_all], 1))
            nearest = torch.cat(least) + patches.square().sum(1, keepdim=True)  # (P', K), of each cell
            for i in range(same.start, same.stop):
                k = int(cell[i])
                found = (nearest + penalties[k]).amin(1).clamp_min(0)
                out[i] = (self.weight[k] * found).where(self.weight[k] > 0, 0)  # of no other patch at all
        return out.unflatten(1, halves.shape[2:])

    def _owners(self, rows: Tensor) -> Tensor:
        """Images of the bank that have a patch in common, at its place, with an image of rows (P, d)."""
        gap = (self.rows - rows[self.place]).square().sum(1)
        return self.owner[gap <= SAME * self.rows.square().sum(1)].unique()

    @torch.no_grad()
    def weigh(self, x: Tensor, cell: Tensor, ignored: Tensor, gaussian: Tensor) -> None:
        """Set penalties and weights from normal images fitted to, and their Gaussian distances (N, h, w).

        All are left out of both. The penalty of a cell is how much farther its patches are from those of other cells
        than from its own, on average: nothing if cells do not differ, or there is no other image of its own, or none of
        another cell. The weight is 0 where one image alone tells nothing of how distances vary.
        """
        cells, halves = len(self.weight), halved(x, ignored, cell)
        none = torch.zeros(cells, cells)
        apart = none.masked_fill(~torch.eye(cells, dtype=torch.bool), torch.inf)
        squares = self.squares(halves, cell, leave_one_out=True, penalties=apart)
        if cells > 1:
            apart = none.masked_fill(torch.eye(cells, dtype=torch.bool), torch.inf)
            others = self.squares(halves, cell, leave_one_out=True, penalties=apart)
            for k in cell.unique().tolist():
                farther = others[cell == k].mean() - squares[cell == k].mean()
                self.penalty[k] = farther.clamp_min(0) if farther.isfinite() else 0
            squares = squares.minimum(others + self.penalty[cell][:, None, None])
        if len(squares) < 2:
            self.weight.zero_()
            return
        near = doubled(squares, *x.shape[2:])
        for k in range(cells):
            mine = torch.ones_like(cell, dtype=torch.bool) if int((cell == k).sum()) < 2 else cell == k
            spread = [values[mine].std(0).mean() for values in (gaussian, near)]
            self.weight[k] = SHARE * spread[0] / spread[1].clamp_min(1e-12)


def _drawn(
    x: Tensor, cell: Tensor, ignored: Tensor, most: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """At most so many patches of each cell, of grids x (N, F, h, w): (M, F), of which image, and its place there."""
    halves, ignored = halved(x, ignored, cell), _nothing(ignored, x)
    drawn = []
    for k in range(len(ignored)):
        images, places = (cell == k).nonzero()[:, 0], (~ignored[k]).nonzero()[:, 0]
        taken = torch.randperm(len(images) * len(places), generator=generator)[:most].sort().values
        drawn.append((images[taken // max(1, len(places))], places[taken % max(1, len(places))]))
    owner, place = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return halves.flatten(2)[owner, :, place], owner, place


def _least(distances: Tensor) -> Tensor:
    """(P, M) → (P,): the smallest, infinite of none."""
    return distances.amin(1) if distances.shape[1] else distances.new_full((len(distances),), torch.inf)


def halved(x: Tensor, ignored: Tensor, cell: Tensor) -> Tensor:
    """Grids (B, F, h, w) → (B, F, ⌈h/2⌉, ⌈w/2⌉): means over what counts of 2 × 2 locations; 0 of nothing."""
    counted = (~ignored[cell]).float().unflatten(1, x.shape[2:])[:, None]  # (B, 1, h, w)
    if bool(counted.all()):
        return _quarter(x.float())
    return _quarter(x.float() * counted) / _quarter(counted).clamp_min(1e-12)


def doubled(squares: Tensor, height: int, width: int) -> Tensor:
    """Halved grids (B, h', w') → (B, h, w), interpolated between the centres of their patches."""
    return interpolate(squares[:, None], scale_factor=2.0, mode="bilinear")[:, 0, :height, :width]


def _nothing(ignored: Tensor, x: Tensor) -> Tensor:
    """(K, P') places of the halved grid of which no location counts; `ignored` (K, P) of grids like x."""
    return _quarter((~ignored).float().unflatten(1, x.shape[2:])[:, None]).flatten(1) == 0


def _quarter(x: Tensor) -> Tensor:
    return avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
