"""A Gaussian of the features at every location of a grid, for each combination of categorical conditions.

PaDiM (arXiv:2011.08785) with five additions: covariances are shrunk towards the mean covariance of all locations; a
location is judged given the context of its image, a few numbers that say how the image as a whole differs from other
normal ones; a coarse grid of the same kind sees the image as a whole, and so do the shares of visual words; and the
distance to the nearest of a coreset of normal patches, wherever they lie, is added to that of the Gaussian.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d

from knowngood.config import PatchGaussianOptions
from knowngood.models.base import BatchSource, FitContext, Model
from knowngood.models.patch_bank import WEIGHED, PatchBank
from knowngood.models.patch_words import PatchWords

LOCATIONS = 64  # of which covariances are held at a time
LEAST = 1e-4  # of a variance that remains without an image
FEWEST = 8  # normal images of a cell that has Gaussians of its own
RIDGE = 0.01  # added to the variances of features; those of contexts, here 1, get the same share
IMAGES_EACH = 32  # normal images of a cell for each number of its context, at least
FLOOR = 1e-3  # standard deviation by which mean features are standardised, at least
LEAST_VARIANCE = 1e-6  # of a principal component that is one


class PatchGaussian(Model):
    """From feature grids (B, F, h, w) and conditions (B, W) to whitened patches and squared Mahalanobis distances.

    Buffers, for K cells (combinations of categorical conditions), P = h·w locations and F features:
        keys (K, W): the condition vector of a cell, its continuous entries 0.
        mean (K, P, F), lower (K, P, F, F): of the Gaussian at each location, the mean and the lower Cholesky factor L
            of the covariance, so that L⁻¹(x − mean) is white.
        ignored (K, P): locations that do not count; set before `fit`.
        images (K,): how many normal images the Gaussians of a cell were fitted to; 0 where that was not saved.
        own (K,): 1 − the weight of the mean covariance of all locations.
        basis (K, T, F), slope (K, P, F, T): of the context u, T numbers an image. Features and context are taken as
            jointly Gaussian; a location's Gaussian is that given u, with mean + slope·u.

    Args:
        keys: (K, W) the cells; one empty row without conditions.
        continuous: (W,) which entries of a condition vector are continuous, and so no part of its cell.
        pooled: (K,) which cells have too few images and take the Gaussians of all.
        context: T; 0 before the fit.
        images: (K,) of a model that was fitted.
        neighbours: rows of its bank.
    """

    kind = "patch_gaussian"
    mean: Tensor
    lower: Tensor
    ignored: Tensor
    images: Tensor
    own: Tensor
    basis: Tensor
    slope: Tensor
    keys: Tensor
    continuous: Tensor

    def __init__(
        self,
        options: PatchGaussianOptions,
        shape: Sequence[int],
        keys: Sequence[Sequence[float]] = ((),),
        continuous: Sequence[bool] = (),
        pooled: Sequence[bool] = (False,),
        context: int = 0,
        images: Sequence[float] = (),
        neighbours: int = 0,
    ) -> None:
        super().__init__()
        self.options, self.shape = options, tuple(shape)
        self.pooled = tuple(pooled)
        features, height, width = self.shape
        cells, locations = len(keys), height * width
        self.condition_dim = len(keys[0])
        # They are among the sizes, and so saved already.
        self.register_buffer("keys", torch.tensor([list(key) for key in keys]).reshape(cells, -1), persistent=False)
        self.register_buffer("continuous", torch.tensor(list(continuous), dtype=torch.bool), persistent=False)
        self.register_buffer("mean", torch.zeros(cells, locations, features))
        self.register_buffer("lower", torch.zeros(cells, locations, features, features), persistent=False)
        self.register_buffer("ignored", torch.zeros(cells, locations, dtype=torch.bool))
        self.register_buffer("images", torch.tensor(list(images) or [0.0] * cells), persistent=False)
        own = [1 - self._share(int(n)) if n else 1.0 for n in self.images]
        self.register_buffer("own", torch.tensor(own), persistent=False)
        self.register_buffer("basis", torch.zeros(cells, context, features))
        self.register_buffer("slope", torch.zeros(cells, locations, features, context))
        self.bank = PatchBank(features, cells, neighbours) if options.neighbours else None
        self.words = PatchWords(features, cells, options.words) if options.words else None
        side = options.global_grid
        self.coarse: PatchGaussian | None = None
        if side:
            few = (features, min(side, height), min(side, width))
            self.coarse = PatchGaussian(
                options.model_copy(update={"global_grid": 0, "context": 0, "neighbours": 0, "words": 0}),
                few,
                keys,
                continuous,
                pooled,
                0,
                images,
            )

    def sizes(self) -> dict[str, Any]:
        return {
            "shape": list(self.shape),
            "keys": self.keys.tolist(),
            "continuous": self.continuous.tolist(),
            "pooled": list(self.pooled),
            "context": self.basis.shape[1],
            "images": self.images.tolist(),
            "neighbours": 0 if self.bank is None else len(self.bank.rows),
        }

    def get_extra_state(self) -> Tensor:
        """The lower triangles of `lower` (K, P, F(F + 1)/2): half of it is zeros, and it is most of a saved model."""
        row, column = torch.tril_indices(*self.lower.shape[2:])
        return self.lower[:, :, row, column]

    def set_extra_state(self, state: Tensor) -> None:
        row, column = torch.tril_indices(*self.lower.shape[2:])
        self.lower = torch.zeros(self.lower.shape, device=self.lower.device)
        self.lower[:, :, row, column] = state.to(self.lower)

    @property
    def locations(self) -> int:
        """Locations of the grid."""
        return self.shape[1] * self.shape[2]

    @property
    def ignored_grid(self) -> Tensor:
        """(K, h, w) locations that do not count."""
        return self.ignored.reshape(-1, *self.shape[1:])

    # Fit ------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fit(self, source: BatchSource, context: FitContext | None = None) -> Self:
        """Fit to the feature grids of normal images and their conditions."""
        whole = next(iter(source.batches([torch.arange(len(source))])))
        return self.fit_grids(whole.x, self.cell(whole.c, len(whole.x)))

    @torch.no_grad()
    def fit_grids(self, x: Tensor, cell: Tensor) -> Self:
        """Fit to feature grids x (N, F, h, w) of any float type in cells (N,). Locations are fitted a few at a time."""
        grids = x.flatten(2)  # (N, F, P)
        own = [grids if lacks else _rows(grids, cell == k) for k, lacks in enumerate(self.pooled)]
        averages = [average(some, self.ignored[k]) for k, some in enumerate(own)]
        self.basis, contexts = _contexts(averages, self.options.context)
        self.slope = torch.zeros(*self.mean.shape, self.basis.shape[1])
        for k, mine in enumerate(own):
            self._factorise(k, len(mine), self._moments(k, mine, contexts[k]))
        if self.bank is not None:
            self.bank.fit(x, cell, self.ignored, self.options.neighbours)
            some = torch.linspace(0, len(x) - 1, min(len(x), WEIGHED)).long()
            self.bank.weigh(x[some], cell[some], self.ignored, self.pooled, self._left_out(x[some], cell[some]))
        if self.coarse is not None:
            self.coarse.ignored.copy_((self._counted_share() == 0).flatten(1))
            self.coarse.fit_grids(self.coarsen(x, cell), cell)
        if self.words is not None:
            self.words.fit(x, cell, self.ignored, self.pooled)
        return self

    @torch.no_grad()
    def update(self, source: BatchSource) -> Self:
        """Take further normal images, as if they had been among those fitted to; see `update_grids`."""
        whole = next(iter(source.batches([torch.arange(len(source))])))
        return self.update_grids(whole.x, self.cell(whole.c, len(whole.x)))

    @torch.no_grad()
    def update_grids(self, x: Tensor, cell: Tensor) -> Self:
        """Take further feature grids x (N, F, h, w) in cells (N,). On the CPU.

        Means, covariances, shrinkage and coarse grid are those of a fit to old and new images together, to rounding:
        the covariance of a location follows from its factor, since the mean over the locations that count is not
        changed by shrinkage (Chan, Golub and LeVeque 1983 for the sums). With a context the span of its directions
        stays that of the first fit, since others need moments between all locations and all mean features; given that
        span all is exact. Cells that are `pooled`, or have no context, stay so however many images they get.

        Raises:
            ValueError: the model was saved without its image counts.
        """
        if not bool(self.images.all()):
            raise ValueError("update needs the image counts of the fit, which this model was saved without")
        grids = x.flatten(2)
        for k, lacks in enumerate(self.pooled):
            mine = grids if lacks else _rows(grids, cell == k)
            if len(mine):
                everywhere = self._merged(k, mine)
                self._factorise(k, int(self.images[k]) + len(mine), everywhere)
        if self.bank is not None:
            self.bank.update(x, cell, self.ignored, self.options.neighbours)
        if self.coarse is not None:
            self.coarse.update_grids(self.coarsen(x, cell), cell)
        if self.words is not None:
            self.words.update(x, cell, self.ignored, self.pooled)
        return self

    def _merged(self, k: int, grids: Tensor) -> Tensor:
        """Set the moments as `_moments` does, of the images fitted to and of further ones (m, F, P) together."""
        n, m, counted, share = float(self.images[k]), len(grids), ~self.ignored[k], 1 - float(self.own[k])
        parts = [self._shrunk(k, some).where(counted[some, None, None], 0).sum(0) for some in self._blocks()]
        before, slope_before = torch.stack(parts).sum(0) / counted.sum(), self.slope[k, counted].double().mean(0)

        def own(shrunk: Tensor, mean: Tensor) -> Tensor:
            return (shrunk - share * mean) / (1 - share) if share < 1 else mean.expand_as(shrunk)

        def deviations(values: Tensor, old_mean: Tensor) -> Tensor:
            """(…, m + 1): of new values (…, m) from their mean, and one that stands for the step from the old mean."""
            mean = values.mean(-1, keepdim=True)
            return torch.cat([values - mean, (n * m / (n + m)) ** 0.5 * (mean - old_mean[..., None])], -1)

        # The context, whose variance is 1 / (1 + ridge) in every live direction, is brought back to that.
        live = self.basis[k].any(1)
        normal = self.mean[k, counted].mean(0)
        u = ((average(grids, self.ignored[k]) - normal) @ self.basis[k, live].T).T.double()
        u = deviations(u, u.new_zeros(len(u)))
        variance = ((n - 1) * torch.eye(len(u), dtype=u.dtype) + (1 + RIDGE) * u @ u.T) / (n + m - 1)
        root = torch.linalg.cholesky(variance)
        self.basis[k, live] = torch.linalg.solve_triangular(root, self.basis[k, live].double(), upper=False).float()
        locations, total = _transposed(grids), torch.zeros_like(before)
        for some in self._blocks():
            new = locations[some].double()
            off = deviations(new, self.mean[k, some].double())
            covariance = ((n - 1) * own(self._shrunk(k, some), before) + off @ off.mT) / (n + m - 1)
            slope = (n - 1) * own(self.slope[k, some].double(), slope_before)[:, :, live] + off @ u.T
            self.mean[k, some] = ((n * self.mean[k, some].double() + new.sum(2)) / (n + m)).float()
            self.lower[k, some] = covariance.float()
            slope = torch.linalg.solve_triangular(root, slope.mT / (n + m - 1), upper=False).mT
            self.slope[k, some] = self.slope[k, some].index_copy(2, live.nonzero()[:, 0], slope.float())
            total += covariance.where(counted[some, None, None], 0).sum(0)
        return (total / counted.sum()).float()

    def _shrunk(self, k: int, some: slice) -> Tensor:
        """(p, F, F) float64 shrunk covariances of some locations, without the ridge, whatever the context."""
        lower, slope = self.lower[k, some].double(), self.slope[k, some].double()
        return lower @ lower.mT + slope @ slope.mT - RIDGE * torch.eye(self.shape[0], dtype=lower.dtype)

    def _factorise(self, k: int, n: int, everywhere: Tensor) -> None:
        """From covariances in `lower` and slopes to shrunk ones and factors; `everywhere` is the mean covariance."""
        share, counted = self._share(n), ~self.ignored[k]
        self.images[k], self.own[k] = n, 1 - share
        shared = share * everywhere + RIDGE * torch.eye(self.shape[0])
        mean_slope = self.slope[k, counted].mean(0)
        for some in self._blocks():
            self.slope[k, some] = (1 - share) * self.slope[k, some] + share * mean_slope
            covariance, slope = self.lower[k, some], self.slope[k, some]
            covariance.mul_(1 - share).add_(shared)
            if slope.shape[2]:
                covariance -= slope @ slope.mT  # what the context leaves
            self.lower[k, some] = torch.linalg.cholesky(covariance)

    def _share(self, n: int) -> float:
        """The weight of the mean covariance in that of a location, of n images."""
        return shrinkage(n, self.shape[0]) if self.options.shrinkage is None else self.options.shrinkage

    def _moments(self, k: int, grids: Tensor, context: Tensor) -> Tensor:
        """Set mean, slope and, in `lower`, the covariance of each location; return the mean covariance (F, F)."""
        n, counted = len(grids), ~self.ignored[k]
        total, number = torch.zeros(self.shape[0], self.shape[0]), int(counted.sum())
        locations = _transposed(grids)
        for some in self._blocks():
            off = locations[some].float()  # (p, F, n)
            self.mean[k, some] = mean = off.mean(2)
            off = off - mean[:, :, None]
            covariance = torch.matmul(off, off.mT, out=self.lower[k, some])
            covariance /= n - 1
            self.slope[k, some] = torch.bmm(off, context.expand(len(off), -1, -1)) / (n - 1)
            total += (counted[some].to(total) @ covariance.flatten(1)).unflatten(0, total.shape)
        return total / number

    # Use ------------------------------------------------------------------------------------------------------------

    def cell(self, c: Tensor | None, n: int) -> Tensor:
        """(B,) the cell of each of n condition vectors c (B, W)."""
        if c is None or not self.keys.shape[1] or len(self.keys) == 1:
            return torch.zeros(n, dtype=torch.int64, device=self.mean.device)
        return (c.masked_fill(self.continuous, 0)[:, None] - self.keys).square().sum(2).argmin(1)

    def whiten(self, x: Tensor, cell: Tensor, *, leave_one_out: bool = False) -> Tensor:
        """Feature grids (B, F, h, w) in cells (B,) → whitened patches (B, P, F), given their contexts.

        With `leave_one_out`, of images fitted to, they are as long as had each image been left out. Their directions
        are the same: in whitened features o the covariance without the image is I − a·o·oᵀ up to a factor.
        """
        out = torch.empty(len(x), self.locations, self.shape[0], device=x.device)
        for mine, some, white in self._whitened(x, cell, self._context(x, cell)):
            out[mine, some] = white.permute(2, 0, 1)
        if leave_one_out:
            longer = self._left_out(x, cell).flatten(1) / (0.5 * out.square().sum(2)).clamp_min(1e-12)
            out *= longer.sqrt().to(out)[..., None]
        return out

    def mean_white(self, x: Tensor, cell: Tensor) -> Tensor:
        """(B, F): `whiten` averaged over the locations that count."""
        out = torch.zeros(len(x), self.shape[0], device=x.device)
        counted = (~self.ignored[cell]).to(out)  # (B, P)
        for mine, some, white in self._whitened(x, cell, self._context(x, cell)):
            out[mine] += torch.einsum("pfn,np->nf", white, counted[mine, some])
        return out / counted.sum(1, keepdim=True)

    def distances(self, x: Tensor, cell: Tensor) -> Tensor:
        """(B, h, w) float64: what is scored at every location, `gaussian_distances` and what the bank adds."""
        gaussian = self.gaussian_distances(x, cell)
        return gaussian if self.bank is None else gaussian + self.bank.nearest(x, cell, self.ignored, self.pooled)

    def gaussian_distances(self, x: Tensor, cell: Tensor) -> Tensor:
        """(B, h, w) float64: half the squared Mahalanobis distance at every location."""
        return 0.5 * self._squares(x, cell, self._context(x, cell))

    def leave_one_out(self, x: Tensor, cell: Tensor) -> Tensor:
        """(B, h, w): `distances` of images fitted to, as they were had each been left out of moments and bank."""
        gaussian = self._left_out(x, cell)
        if self.bank is None:
            return gaussian
        return gaussian + self.bank.nearest(x, cell, self.ignored, self.pooled, leave_one_out=True)

    def _left_out(self, x: Tensor, cell: Tensor) -> Tensor:
        """(B, h, w): the Gaussian's distances of images fitted to, had each been left out of mean and covariance.

        With o the whitened vector of context and features together, the covariance without the image is I − a·o·oᵀ up
        to a factor, so its squared distance is |o|²·(n/(n−1))² / (1 − a·|o|²); that given the context is the difference
        of the two. Exact up to the ridge without shrinkage and context, close to it with them.
        """
        if not bool(self.images.all()):
            raise ValueError("leave_one_out needs the image counts of the fit, which this model was saved without")
        context = self._context(x, cell)
        n = self.images[cell][:, None, None].double()
        share = self.own[cell][:, None, None].double()
        a = share * n / (n - 1).square()

        def left_out(square: Tensor) -> Tensor:
            return (n / (n - 1)).square() * square / (1 - a * square).clamp_min(LEAST)

        inner, outer = self._squares(x, cell, context), context.double().square().sum(1)[:, None, None]
        fewer = ((n - 2) / (n - 1)).where(share == 1, 1.0)
        return 0.5 * fewer * (left_out(inner + outer) - left_out(outer))

    def global_distances(self, x: Tensor, cell: Tensor, *, leave_one_out: bool = False) -> Tensor:
        """(B,) float64: mean over the coarse grid of half the squared distance, over what counts."""
        coarse = self.coarse
        assert coarse is not None
        grids = self.coarsen(x, cell)
        values = coarse.leave_one_out(grids, cell) if leave_one_out else coarse.distances(grids, cell)
        counted = (~coarse.ignored_grid[cell]).to(values)
        return (values * counted).sum((1, 2)) / counted.sum((1, 2))

    @property
    def image_members(self) -> tuple[str, ...]:
        """What judges an image as a whole: "global" of the coarse grid, "counts" of the visual words."""
        there = (("global", self.coarse), ("counts", self.words))
        return tuple(name for name, member in there if member is not None)

    def image_distances(self, x: Tensor, cell: Tensor, *, leave_one_out: bool = False) -> Tensor:
        """(B, M) float64: by each of `image_members`."""
        found = []
        if self.coarse is not None:
            found.append(self.global_distances(x, cell, leave_one_out=leave_one_out))
        if self.words is not None:
            shares = self.words.shares(x, cell, self.ignored)
            found.append(self.words.distances(shares, cell, leave_one_out=leave_one_out))
        return torch.stack(found, 1) if found else x.new_empty(len(x), 0, dtype=torch.float64)

    def energies(self, x: Tensor, cell: Tensor) -> Tensor:
        """(B,) float64: −log of the Gaussian at a location, up to a constant, the mean over the locations that count.

        The Gaussian is that of the features alone, L·Lᵀ + slope·slopeᵀ whatever the context: given the context of an
        image of another cell, that cell would explain part of what sets them apart.
        """
        out = torch.empty(len(x), self.locations, dtype=torch.float64, device=x.device)
        none = torch.zeros(len(x), self.basis.shape[1], device=x.device)
        for k in cell.unique().tolist():
            mine = (cell == k).nonzero()[:, 0]
            for _, some, white in self._whitened(x[mine], cell[mine], none[mine]):
                lower, slope = self.lower[k, some], self.slope[k, some]
                energy = 0.5 * white.square().sum(1) + _log_diagonal(lower)
                if slope.shape[2]:  # by the lemmas on the inverse and the determinant of a sum of low rank
                    moved = torch.linalg.solve_triangular(lower, slope, upper=False)  # (p, F, T)
                    root = torch.linalg.cholesky(moved.mT @ moved + torch.eye(slope.shape[2], device=x.device))
                    inner = torch.linalg.solve_triangular(root, moved.mT @ white, upper=False)
                    energy += _log_diagonal(root) - 0.5 * inner.square().sum(1)
                out[mine, some] = energy.T.double()
        counted = (~self.ignored[cell]).to(out)
        return (out * counted).sum(1) / counted.sum(1)

    def expected(self, x: Tensor, cell: Tensor) -> Tensor:
        """(B, P, F): the mean at every location, given the contexts of feature grids x (B, F, h, w)."""
        context = self._context(x, cell)
        moved = [self.slope[k] @ u for k, u in zip(cell.tolist(), context, strict=True)]
        return self.mean[cell] + torch.stack(moved)

    def spread(self, cell: int, location: int) -> Tensor:
        """(F,) standard deviations of the features at a location of a cell."""
        return self.lower[cell, location].norm(dim=1)

    def coarsen(self, x: Tensor, cell: Tensor) -> Tensor:
        """Feature grids (B, F, h, w) in cells (B,) → their means over what counts of each coarse part; 0 of nothing."""
        if not self.ignored.any():
            return self._averaged(x.float())
        hidden = self.ignored_grid[cell][:, None]
        share = self._counted_share()[cell][:, None]
        return self._averaged(x.float().masked_fill(hidden, 0)) / share.clamp_min(1e-12)

    # Inside ---------------------------------------------------------------------------------------------------------

    def _whitened(self, x: Tensor, cell: Tensor, context: Tensor) -> Iterator[tuple[Tensor | slice, slice, Tensor]]:
        """Which images, some locations, and the whitened patches (p, F, n) of these images there."""
        grids = x.flatten(2)
        for k in cell.unique().tolist():
            mine = cell == k
            locations, u = _transposed(_rows(grids, mine)), context[mine]
            at = slice(None) if locations.shape[2] == len(grids) else mine.nonzero()[:, 0]
            for some in self._blocks():
                off = locations[some].float() - self.mean[k, some, :, None]
                if u.shape[1]:
                    off -= (u @ self.slope[k, some].mT).mT  # in the order of `off`
                yield at, some, torch.linalg.solve_triangular(self.lower[k, some], off, upper=False)

    def _squares(self, x: Tensor, cell: Tensor, context: Tensor) -> Tensor:
        """(B, h, w) float64 squared lengths of whitened patches."""
        out = torch.empty(len(x), self.locations, dtype=torch.float64, device=x.device)
        for mine, some, white in self._whitened(x, cell, context):
            out[mine, some] = white.square().sum(1).T.double()
        return out.unflatten(1, self.shape[1:])

    def _context(self, x: Tensor, cell: Tensor) -> Tensor:
        """(B, T) contexts of feature grids x (B, F, h, w)."""
        out = torch.zeros(len(x), self.basis.shape[1], device=x.device)
        for k in cell.unique().tolist() if out.shape[1] else ():
            mine = cell == k
            normal = self.mean[k, ~self.ignored[k]].mean(0)
            out[mine] = (average(_rows(x, mine).flatten(2), self.ignored[k]) - normal) @ self.basis[k].T
        return out

    def _blocks(self) -> Iterator[slice]:
        """All locations, a few at a time."""
        return (slice(at, min(at + LOCATIONS, self.locations)) for at in range(0, self.locations, LOCATIONS))

    def _counted_share(self) -> Tensor:
        """(K, h', w') the share of each coarse part that counts."""
        return self._averaged((~self.ignored_grid).float())

    def _averaged(self, x: Tensor) -> Tensor:
        """(…, h, w) → (…, h', w'): adaptive average pooling as a product, which every device knows."""
        assert self.coarse is not None
        sides = zip(self.shape[1:], self.coarse.shape[1:], strict=True)
        down, across = (adaptive_avg_pool1d(torch.eye(n)[None], few)[0] for n, few in sides)
        return (x.flatten(-2) @ torch.kron(down, across).to(x)).unflatten(-1, self.coarse.shape[1:])


def _log_diagonal(lower: Tensor) -> Tensor:
    """(p, 1): half the log determinants of the covariances with these Cholesky factors (p, F, F)."""
    return lower.diagonal(dim1=1, dim2=2).log().sum(1, keepdim=True)


def _rows(grids: Tensor, mine: Tensor) -> Tensor:
    """The grids of some images, without a copy if that is all."""
    return grids if bool(mine.all()) else grids[mine]


def _transposed(grids: Tensor) -> Tensor:
    """Features (n, F, P) → (P, F, n), in the same type, column-major as LAPACK reads it."""
    return grids.permute(2, 0, 1).contiguous().mT


def shrinkage(n: int, features: int) -> float:
    """The weight of the mean covariance in that of a location, from n images: .09 at n = F, then falling as 1 / n³."""
    each = n / features
    return 1 / max(1.0, each) / (1 + 10 * each * max(1.0, each))


def _contexts(averages: list[Tensor], most: int) -> tuple[Tensor, list[Tensor]]:
    """Bases (K, T, F), and the contexts (N_k, T) of the images whose mean features are `averages` (N_k, F)."""
    centred = [mean - mean.mean(0) for mean in averages]
    found = [principal(mean.double(), most).float() if most else mean[:0] for mean in centred]
    size = max(len(basis) for basis in found)
    bases = torch.stack([torch.nn.functional.pad(basis, (0, 0, 0, size - len(basis))) for basis in found])
    return bases, [mean @ basis.T for mean, basis in zip(centred, bases, strict=True)]


def average(grids: Tensor, ignored: Tensor) -> Tensor:
    """(N, F): features (N, F, P) averaged over the locations that are not `ignored` (P,), float32."""
    if not ignored.any():
        return grids.mean(2, dtype=torch.float32)
    return grids[:, :, ~ignored].mean(2, dtype=torch.float32)


def principal(averages: Tensor, most: int) -> Tensor:
    """(T, F): the basis of the context u = basis · (mean features about their mean).

    u are the first principal components of the standardised mean features, each with a variance of 1 / 1.01 over the
    normal images, as whitened features have it with the ridge. T ≤ `most`, at most N / 32, fewer where there is no
    variance.
    `averages` (N, F) are mean features of normal images, centred, in float64.
    """
    n = len(averages)
    if n < IMAGES_EACH:
        return averages[:0]
    scale = averages.std(0).clamp_min(FLOOR)
    standard = averages / scale
    variance, direction = torch.linalg.eigh(standard.T @ standard / (n - 1))
    kept = min(most, n // IMAGES_EACH, int((variance > LEAST_VARIANCE).sum()))
    variance, direction = variance.flip(0)[:kept], direction.flip(1)[:, :kept]
    return (direction / (variance * (1 + RIDGE)).sqrt() / scale[:, None]).T
