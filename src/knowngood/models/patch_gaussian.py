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

from knowngood.config import PatchGaussianOptions, SharedGaussianOptions
from knowngood.models import partial_pooling
from knowngood.models.base import BatchSource, FitContext, Model
from knowngood.models.patch_bank import WEIGHED, PatchBank
from knowngood.models.patch_words import PatchWords

LOCATIONS = 64  # of which covariances are held at a time
LEAST = 1e-4  # of a variance that remains without an image
TINY = 1e-3  # share of the usual ridge that remains, however little features vary
FEWEST = 8  # normal images of a cell that has Gaussians of its own
RIDGE = 0.01  # added to the variances of features; those of contexts, here 1, get the same share
USUAL = 0.001, 300.0  # mean variance of features; beyond it the ridge grows and shrinks with it
IMAGES_EACH = 32  # normal images of a cell for each number of its context, at least
FLOOR = 1e-3  # standard deviation by which mean features are standardised, at least; of that of all, if it is below 1
LEAST_VARIANCE = 1e-6  # of a principal component that is one
FEW, REFITS = 64, 32  # images of a cell below which the coarse grid is refitted without some; how often at most
AT_ONCE = 32  # images made coarse at a time


class PatchGaussian(Model):
    """From feature grids (B, F, h, w) and conditions (B, W) to whitened patches and squared Mahalanobis distances.

    Buffers, for K cells (combinations of categorical conditions), P = h·w locations and F features:
        keys (K, W): the condition vector of a cell, its continuous entries 0.
        mean (K, P, F), lower (K, P, F, F): of the Gaussian at each location, the mean and the lower Cholesky factor L
            of the covariance, so that L⁻¹(x − mean) is white.
        number_slope (P, F, C), number_range (3, C): how features move with the C continuous entries of a condition, and
            the lowest, highest and mean of these. All else is of features at the mean, see `given`.
        ignored (K, P): locations that do not count; set before `fit`.
        images (K,): how many normal images of a cell were fitted to; 0 where that was not saved.
        basis (K, T, F), slope (K, P, F, T): of the context u, T numbers an image. Features and context are taken as
            jointly Gaussian; a location's Gaussian is that given u, with mean + slope·u.
        own_mean (K, P, F), weight (K, P): the mean of the images of a cell alone, and its weight in `mean`.
        between (P,): how the means of cells differ, see `partial_pooling`.
        ridge (): added to the variances of features.
        everywhere (K, F, F), slope_everywhere (K, F, T), context_covariance (K, T, T), directions (T, F): for `update`,
            moments of each cell alone, with `directions` as basis of the context.

    Args:
        keys: (K, W) the cells; one empty row without conditions.
        continuous: (W,) which entries of a condition vector are continuous, and so no part of its cell.
        context: T; 0 before the fit.
        images: (K,) of a model that was fitted.
        neighbours: rows of its bank.
    """

    kind = "patch_gaussian"
    number_slope: Tensor
    number_range: Tensor
    mean: Tensor
    lower: Tensor
    ignored: Tensor
    images: Tensor
    basis: Tensor
    slope: Tensor
    keys: Tensor
    continuous: Tensor
    own_mean: Tensor
    weight: Tensor
    between: Tensor
    ridge: Tensor
    everywhere: Tensor
    slope_everywhere: Tensor
    directions: Tensor
    context_covariance: Tensor

    def __init__(
        self,
        options: PatchGaussianOptions | SharedGaussianOptions,
        shape: Sequence[int],
        keys: Sequence[Sequence[float]] = ((),),
        continuous: Sequence[bool] = (),
        context: int = 0,
        images: Sequence[float] = (),
        neighbours: int = 0,
    ) -> None:
        super().__init__()
        self.options, self.shape = options, tuple(shape)
        features, height, width = self.shape
        cells, locations = len(keys), height * width
        self.condition_dim = len(keys[0])
        # They are among the sizes, and so saved already.
        self.register_buffer("keys", torch.tensor([list(key) for key in keys]).reshape(cells, -1), persistent=False)
        self.register_buffer("continuous", torch.tensor(list(continuous), dtype=torch.bool), persistent=False)
        self.register_buffer("number_slope", torch.zeros(locations, features, sum(continuous)))
        self.register_buffer("number_range", torch.zeros(3, sum(continuous)))
        self.register_buffer("mean", torch.zeros(cells, locations, features))
        # Column-major: one image is whitened three times as fast as with rows.
        self.register_buffer("lower", torch.zeros(cells, locations, features, features).mT, persistent=False)
        self.register_buffer("ignored", torch.zeros(cells, locations, dtype=torch.bool))
        self.register_buffer("images", torch.tensor(list(images) or [0.0] * cells), persistent=False)
        self.register_buffer("basis", torch.zeros(cells, context, features))
        self.register_buffer("slope", torch.zeros(cells, locations, features, context))
        self.register_buffer("own_mean", torch.zeros(cells, locations, features))
        self.register_buffer("weight", torch.ones(cells, locations))
        self.register_buffer("between", torch.zeros(locations))
        self.register_buffer("ridge", torch.tensor(RIDGE))
        self.register_buffer("everywhere", torch.zeros(cells, features, features))
        self.register_buffer("slope_everywhere", torch.zeros(cells, features, context))
        self.register_buffer("directions", torch.zeros(context, features))
        self.register_buffer("context_covariance", torch.zeros(cells, context, context))
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
                0,
                images,
            )

    def sizes(self) -> dict[str, Any]:
        return {
            "shape": list(self.shape),
            "keys": self.keys.tolist(),
            "continuous": self.continuous.tolist(),
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
        self.lower = torch.zeros(self.lower.shape, device=self.lower.device).mT
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
        if whole.c is not None and bool(self.continuous.any()):
            numbers, cell = whole.c[:, self.continuous], self.cell(whole.c, len(whole.x))
            self.number_range = torch.stack([numbers.amin(0), numbers.amax(0), numbers.mean(0)])
            grids = whole.x.flatten(2)
            found = [partial_pooling.slopes(grids[:, :, some].float(), numbers, cell) for some in self._blocks()]
            self.number_slope = torch.cat(found)
        return self.fit_grids(*self.given(whole.x, whole.c))

    @torch.no_grad()
    def fit_grids(self, x: Tensor, cell: Tensor, ridge: Tensor | None = None) -> Self:
        """Fit to feature grids x (N, F, h, w) of any float type in cells (N,). Locations are fitted a few at a time.

        Args:
            ridge: added to the variances; by default .01, but features of a backbone of your own may be of any scale.
        """
        grids = x.flatten(2)  # (N, F, P)
        cells = [_rows(grids, cell == k) for k in range(len(self.images))]
        self.images.copy_(torch.tensor([len(some) for some in cells]))
        averages = [average(some, self.ignored[k]) for k, some in enumerate(cells)]
        averages = [some - some.mean(0) for some in averages]
        self.directions = principal(torch.cat(averages).double(), self._most_context()).float()
        size = len(self.directions)
        self.slope = torch.zeros(*self.mean.shape, size)
        self.slope_everywhere = torch.zeros(len(cells), self.shape[0], size)
        self.context_covariance = torch.eye(size).repeat(len(cells), 1, 1) / (1 + RIDGE)
        for k, mine in enumerate(cells):
            u = averages[k] @ self.directions.T
            if len(cells) > 1:
                self.context_covariance[k] = u.T @ u / max(1, len(u) - 1)
            if len(mine):
                self._moments(k, mine, u)
        self.ridge = self._scaled_ridge() if ridge is None else ridge.clone()
        self._pool()
        if self.bank is not None:
            self.bank.fit(x, cell, self.ignored, self.options.neighbours)
            some = torch.linspace(0, len(x) - 1, min(len(x), WEIGHED)).long()
            self.bank.weigh(x[some], cell[some], self.ignored, self._left_out(x[some], cell[some]))
        if self.coarse is not None:
            self.coarse.ignored.copy_((self._counted_share() == 0).flatten(1))
            self.coarse.fit_grids(self.coarsen(x, cell), cell, self.ridge)
        if self.words is not None:
            self.words.fit(x, cell, self.ignored, tuple((self.images < FEWEST).tolist()))
        return self

    @torch.no_grad()
    def update(self, source: BatchSource) -> Self:
        """Take further normal images, as if they had been among those fitted to; see `update_grids`."""
        whole = next(iter(source.batches([torch.arange(len(source))])))
        return self.update_grids(*self.given(whole.x, whole.c))

    @torch.no_grad()
    def update_grids(self, x: Tensor, cell: Tensor) -> Self:
        """Take further feature grids x (N, F, h, w) in cells (N,). On the CPU.

        Means, covariances, shrinkage and coarse grid are those of a fit to old and new images together, to rounding:
        the moments of each cell alone follow from its Gaussians (Chan, Golub and LeVeque 1983 for the sums). What needs
        the old images stays as it was: with a context the span of its directions, and with conditions that are numbers
        the slopes on them. Given these all is exact.

        Raises:
            ValueError: the model was saved without its image counts.
        """
        if not bool(self.images.any()):
            raise ValueError("update needs the image counts of the fit, which this model was saved without")
        grids, before = x.flatten(2), self.images.clone()
        self._unpool()
        for k in cell.unique().tolist():
            self._merge(k, _rows(grids, cell == k))
        self._pool()
        if self.bank is not None:
            self.bank.update(x, cell, self.ignored, self.options.neighbours)
        if self.coarse is not None:
            self.coarse.update_grids(self.coarsen(x, cell), cell)
        if self.words is not None:
            self.words.update(x, cell, self.ignored, tuple((self.words.number != before).tolist()))
        return self

    def _merge(self, k: int, grids: Tensor) -> None:
        """Set the moments as `_moments` does, of the images fitted to and of further ones (m, F, P) together."""
        n, m, counted = float(self.images[k]), len(grids), ~self.ignored[k]
        dof = max(0.0, n - 1)

        def deviations(values: Tensor, old_mean: Tensor) -> Tensor:
            """(…, m + 1): of new values (…, m) from their mean, and one that stands for the step from the old mean."""
            mean = values.mean(-1, keepdim=True)
            return torch.cat([values - mean, (n * m / (n + m)) ** 0.5 * (mean - old_mean[..., None])], -1)

        def merged(old: Tensor, scatter: Tensor) -> Tensor:
            return (dof * old.double() + scatter) / max(1.0, n + m - 1)

        u = ((average(grids, self.ignored[k]) - self.own_mean[k, counted].mean(0)) @ self.directions.T).T.double()
        u = deviations(u, u.new_zeros(len(u)))
        self.context_covariance[k] = merged(self.context_covariance[k], u @ u.T).float()
        locations = _transposed(grids)
        for some in self._blocks():
            new, before = locations[some].double(), self.own_mean[k, some].double()
            off = deviations(new, before)
            self.own_mean[k, some] = ((n * before + new.sum(2)) / (n + m)).float()
            self.lower[k, some] = merged(self.lower[k, some], off @ off.mT).float()
            self.slope[k, some] = merged(self.slope[k, some], off @ u.T).float()
        self.everywhere[k] = self.lower[k, counted].mean(0, dtype=torch.float64).float()
        self.images[k] = n + m

    def _moments(self, k: int, grids: Tensor, context: Tensor) -> None:
        """Set mean, slope and, in `lower`, the covariance of each location of a cell alone, and their means."""
        n, counted = len(grids), ~self.ignored[k]
        locations = _transposed(grids)
        total = torch.zeros(self.shape[0], self.shape[0])
        for some in self._blocks():
            off = locations[some].float()  # (p, F, n)
            self.own_mean[k, some] = mean = off.mean(2)
            off = off - mean[:, :, None]
            covariance = torch.matmul(off, off.mT, out=self.lower[k, some].mT)  # symmetric, and contiguous so
            covariance /= max(1, n - 1)
            self.slope[k, some] = torch.bmm(off, context.expand(len(off), -1, -1)) / max(1, n - 1)
            total += (counted[some].to(total) @ covariance.flatten(1)).unflatten(0, total.shape)
        self.everywhere[k] = total / int(counted.sum())

    def _pool(self) -> None:
        """From the moments of each cell alone, in `own_mean`, `lower` and `slope`, to its Gaussians, in place."""
        counts, shares, several = self._counts(), self._shares(), len(self.images) > 1
        self.slope_everywhere = torch.stack(
            [mine[~hidden].mean(0) for mine, hidden in zip(self.slope, self.ignored, strict=True)]
        )
        root = self._stretches(self.images[:, None])[:, 0]
        self.basis = torch.linalg.solve_triangular(root, self.directions.expand(len(root), -1, -1), upper=False)
        everywhere = None
        if several:
            self._weigh_means()
            everywhere = self._means_everywhere()
        for some in self._blocks():
            # Transposed they are the same, and row by row in memory.
            covariance, slope = self.lower[:, some].mT, self.slope[:, some]
            centre, off = partial_pooling.deviations(self.own_mean[:, some], counts[:, some])
            self.mean[:, some] = centre + self.weight[:, some, None] * off
            covariance = partial_pooling.combined(covariance, self.everywhere, counts[:, some], shares)
            covariance.diagonal(dim1=2, dim2=3).add_(self.ridge)
            if everywhere is not None:
                apart = self._apart(some, off)
                for one, weight in zip(covariance, self.weight[:, some], strict=True):
                    one.addcmul_(apart, 1 - weight[:, None, None])
                covariance += everywhere
            slope = partial_pooling.combined(slope, self.slope_everywhere, counts[:, some], shares)
            slope = torch.linalg.solve_triangular(self._stretches(counts[:, some]), slope.mT, upper=False).mT
            self.slope[:, some] = slope
            if slope.shape[3]:
                covariance -= slope @ slope.mT
            self.lower[:, some] = torch.linalg.cholesky(covariance.mT)

    def _unpool(self) -> None:
        """The inverse of `_pool`, in float64 as far as `lower` holds it."""
        counts, shares, ridge = (
            self._counts(),
            self._shares(),
            self.ridge * torch.eye(self.shape[0], dtype=torch.float64),
        )
        everywhere = self._means_everywhere() if len(counts) > 1 else None
        for some in self._blocks():
            lower, slope = self.lower[:, some].double(), self.slope[:, some].double()
            covariance = lower @ lower.mT + slope @ slope.mT - ridge
            if everywhere is not None:
                _, off = partial_pooling.deviations(self.own_mean[:, some], counts[:, some])
                covariance -= (1 - self.weight[:, some, None, None]) * self._apart(some, off) + everywhere
            self.lower[:, some] = partial_pooling.separated(
                covariance, self.everywhere, counts[:, some], shares
            ).float()
            slope = slope @ self._stretches(counts[:, some]).double().mT
            self.slope[:, some] = partial_pooling.separated(
                slope, self.slope_everywhere, counts[:, some], shares
            ).float()

    def _scaled_ridge(self) -> Tensor:
        """Of features whose mean variance within cells is usual, .01; beyond that in proportion to it."""
        covariance = partial_pooling.within(self.everywhere[:, None], self.images[:, None])[0]
        low, high = USUAL
        variance = covariance.diagonal().mean()
        return RIDGE * (variance / low).clamp(TINY, 1) * (variance / high).clamp_min(1)

    def _counts(self) -> Tensor:
        """(K, P) images of each cell that count at a location: none where it is ignored, unless all cells ignore it."""
        return self.images[:, None] * (~self.ignored | self.ignored.all(0))

    def _shares(self) -> partial_pooling.Shares:
        images = self.images
        common = partial_pooling.common_shares(images, self.shape[0]) if len(images) > 1 else torch.zeros(1)
        own = torch.tensor([self._share(max(1, int(n))) for n in images])
        return partial_pooling.Shares(common, own, self._share(1 + int((images - 1).clamp_min(0).sum())))

    def _weigh_means(self) -> None:
        """Set `weight` and `between`, by the covariances of each cell alone in `lower`."""
        covariance = partial_pooling.within(self.everywhere[:, None], self.images[:, None])[0]
        metric = torch.cholesky_inverse(torch.linalg.cholesky(covariance + self.ridge * torch.eye(self.shape[0])))
        counts = self._counts()
        _, off = partial_pooling.deviations(self.own_mean, counts)
        for some in self._blocks():
            within = partial_pooling.within(self.lower[:, some], counts[:, some])
            found = partial_pooling.mean_weights(off[:, some], counts[:, some], within, metric)
            self.weight[:, some], self.between[some] = found

    def _apart(self, some: slice, off: Tensor) -> Tensor:
        """(p, F, F): the covariance of the means; a share 1 − `weight` of it is what the mean of a cell may be off."""
        return self.between[some, None, None] * partial_pooling.scatter(off, self._counts()[:, some])

    def _means_everywhere(self) -> Tensor:
        """(K, 1, F, F): the covariance of the means, its mean over locations, as far as those are shrunk towards it."""
        counts, shares = self._counts(), self._shares()
        _, off = partial_pooling.deviations(self.own_mean, counts)
        weights = counts * self.between / max(1, int(counts.any(0).sum()))
        everywhere = torch.einsum("kpf,kpg->fg", off * weights[..., None], off)
        shrunk = (1 - shares.common) * shares.own + shares.common * shares.overall
        return shrunk.to(off)[:, None, None, None] * everywhere

    def _stretches(self, counts: Tensor) -> Tensor:
        """(K, p, T, T): roots of the covariances of the context along `directions`, shrunk as those of features are.

        That is at p locations towards the cells that have images there, counts (K, p): (K, 1, T, T) where all have
        theirs at all. With those of other cells a slope could explain more than the features vary.
        """
        counts = counts[:, :1] if bool((counts == counts[:, :1]).all()) else counts
        spread, shares = self.context_covariance.double()[:, None], self._shares()
        shares = shares._replace(own=torch.zeros(len(spread)), overall=0.0)
        spread = partial_pooling.combined(
            spread.expand(-1, counts.shape[1], -1, -1), self.context_covariance.double(), counts, shares
        )
        return torch.linalg.cholesky((1 + RIDGE) * spread).float()

    def _most_context(self) -> int:
        """Numbers of a context that the images of a cell, and its share in those of others, are enough for."""
        common = self._shares().common
        images = (1 - common) * self.images + common * self.images.sum()
        return min(self.options.context, int(images.mean()) // IMAGES_EACH)

    def _share(self, n: int) -> float:
        """The weight of the mean covariance in that of a location, of n images."""
        return shrinkage(n, self.shape[0]) if self.options.shrinkage is None else self.options.shrinkage

    # Use ------------------------------------------------------------------------------------------------------------

    def cell(self, c: Tensor | None, n: int) -> Tensor:
        """(B,) the cell of each of n condition vectors c (B, W)."""
        if c is None or not self.keys.shape[1] or len(self.keys) == 1:
            return torch.zeros(n, dtype=torch.int64, device=self.mean.device)
        return (c.masked_fill(self.continuous, 0)[:, None] - self.keys).square().sum(2).argmin(1)

    def given(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """Feature grids x (B, F, h, w) of conditions c (B, W), as they are at the mean of all numbers; and their cells.

        Numbers beyond those fitted to count as the nearest of these.
        """
        cell = self.cell(c, len(x))
        if c is None or not self.number_slope.shape[2]:
            return x, cell
        low, high, mean = self.number_range
        off = torch.minimum(torch.maximum(c[:, self.continuous], low), high) - mean
        moved = torch.einsum("pfc,nc->nfp", self.number_slope, off).reshape(x.shape)
        return (x.float() - moved).to(x.dtype), cell

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
        gaussian, near = self.both_distances(x, cell)
        return gaussian if near is None else gaussian + near

    def both_distances(self, x: Tensor, cell: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, h, w) float64 each: `gaussian_distances`, and what the bank adds; None without a bank."""
        near = None if self.bank is None else self.bank.nearest(x, cell, self.ignored)
        return self.gaussian_distances(x, cell), near

    def gaussian_distances(self, x: Tensor, cell: Tensor) -> Tensor:
        """(B, h, w) float64: half the squared Mahalanobis distance at every location."""
        return 0.5 * self._squares(x, cell, self._context(x, cell))

    def leave_one_out(self, x: Tensor, cell: Tensor) -> Tensor:
        """(B, h, w): `distances` of images fitted to, as they were had each been left out of moments and bank."""
        gaussian = self._left_out(x, cell)
        if self.bank is None:
            return gaussian
        return gaussian + self.bank.nearest(x, cell, self.ignored, leave_one_out=True)

    def refitted(self, x: Tensor, cell: Tensor) -> Tensor:
        """(B, h, w): distances of images fitted to, by Gaussians refitted without them.

        Of each cell every 32nd image is left out at a time: one, if there are no more. The formula of `leave_one_out`
        leaves an image in the mean covariance of all locations. With few images that counts: by the coarse grid of 10
        it is a quarter of what new normal images have, of 50 nine tenths.
        """
        out, part = torch.empty(len(x), *self.shape[1:], dtype=torch.float64, device=x.device), torch.empty_like(cell)
        for k in cell.unique().tolist():
            part[cell == k] = torch.arange(int((cell == k).sum()), device=x.device) % REFITS
        for i in part.unique().tolist():
            rest = part != i
            other = PatchGaussian(self.options, self.shape, self.keys.tolist(), self.continuous.tolist()).to(x.device)
            other.ignored.copy_(self.ignored)
            other.fit_grids(x[rest], cell[rest], self.ridge)
            out[~rest] = other.distances(x[~rest], cell[~rest])
        return out

    def _refits_pay(self, cell: Tensor) -> bool:
        """Whether a cell has few images, of which nearly all are among images in cells (B,)."""
        given = torch.bincount(cell, minlength=len(self.images))
        few = (given > 0) & (self.images < FEW)
        return len(cell) > 1 and bool(few.any()) and bool((given[few] > 0.9 * self.images[few]).all())

    def _left_out(self, x: Tensor, cell: Tensor) -> Tensor:
        """(B, h, w): the Gaussian's distances of images fitted to, had each been left out of mean and covariance.

        With o the whitened deviation of context and features together from the mean of the Gaussian, δ that from the
        mean of the cell alone, and h the share of the image in the mean, the covariance without the image is
        I − a·δδᵀ up to a factor and o is o / (1 − h), so the squared distance is
        (|o|² + a·(oᵀδ)² / (1 − a·|δ|²)) / (1 − h)²; that given the context is the difference of the two. Exact up to
        the ridge for one cell without shrinkage and context, close to it with them.
        """
        if not bool(self.images.any()):
            raise ValueError("leave_one_out needs the image counts of the fit, which this model was saved without")
        context, shares, counts = self._context(x, cell).double(), self._shares(), self._counts().double()
        influence = partial_pooling.influence(self.images.double(), shares)
        weight = self.weight.double()
        share = weight / counts.clamp_min(1) + (1 - weight) / counts.sum(0).clamp_min(1)
        moved = (1 - share).clamp_min(LEAST).square()
        n = self.images[0].double()
        fewer = float((n - 2) / (n - 1)) if len(self.images) == 1 and not shares.own.any() else 1.0
        out = torch.empty(len(x), self.locations, dtype=torch.float64, device=x.device)
        for mine, some, white in self._whitened(x, cell, context.float()):
            k = int(cell[mine][0])
            u, a, apart = context[mine].T, influence[k], self.own_mean[k] - self.mean[k]  # (T, n)
            aside = self.basis[k] @ apart[~self.ignored[k]].mean(0)
            apart = (apart[some] - self.slope[k, some] @ aside)[..., None]
            apart = torch.linalg.solve_triangular(self.lower[k, some], apart, upper=False)

            def left_out(square: Tensor, across: Tensor, alone: Tensor, a: Tensor = a) -> Tensor:
                return square + a * across.square() / (1 - a * alone).clamp_min(LEAST)

            outer = [u.square().sum(0), (u * (u - aside[:, None])).sum(0), (u - aside[:, None]).square().sum(0)]
            if len(self.images) == 1:  # `apart` is 0
                inner = [white.square().sum(1)] * 3
            else:
                inner = [some.sum(1) for some in (white.square(), white * (white - apart), (white - apart).square())]
            both = [some.double() + other for some, other in zip(inner, outer, strict=True)]
            out[mine, some] = (0.5 * fewer * (left_out(*both) - left_out(*outer)) / moved[k, some, None]).T
        return out.unflatten(1, self.shape[1:])

    def global_distances(self, x: Tensor, cell: Tensor, *, leave_one_out: bool = False) -> Tensor:
        """(B,) float64: mean over the coarse grid of half the squared distance, over what counts.

        With `leave_one_out`, x are all images fitted to, or many of each cell.
        """
        coarse = self.coarse
        assert coarse is not None
        grids = torch.cat([self.coarsen(*some) for some in zip(x.split(AT_ONCE), cell.split(AT_ONCE), strict=True)])
        if not leave_one_out:
            values = coarse.distances(grids, cell)
        elif self._refits_pay(cell):
            values = coarse.refitted(grids, cell)
        else:
            values = coarse.leave_one_out(grids, cell)
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
    if n < IMAGES_EACH or not most:
        return averages[:0]
    scale = averages.std(0).clamp_min(FLOOR * float(averages.std().clamp(1e-9, 1)))
    standard = averages / scale
    variance, direction = torch.linalg.eigh(standard.T @ standard / (n - 1))
    kept = min(most, n // IMAGES_EACH, int((variance > LEAST_VARIANCE).sum()))
    variance, direction = variance.flip(0)[:kept], direction.flip(1)[:, :kept]
    return (direction / (variance * (1 + RIDGE)).sqrt() / scale[:, None]).T
