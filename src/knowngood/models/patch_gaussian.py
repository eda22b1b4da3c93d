"""Patches: each place of a feature grid as a sample of its own, seen against what is usual there.

The Gaussian of every place, looked up by position and by the categorical conditions, is taken out first: whitened
patches have mean 0 and covariance I wherever they lie, and a VAE models what is left. Without one, half the squared
length of a whitened patch is half PaDiM's squared distance (arXiv:2011.08785, eq. 2). With a context (`patch_context`)
it is the Gaussian of the place given how the image as a whole differs from others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, pad

from knowngood.models.patch_context import RIDGE, Context

FREQUENCIES = 4  # cosines a side: position encoding has 2 + f² + 2f entries
PLACES = 64  # whitened at a time
LEAST = 1e-4  # of a variance that is left without an image
FEWEST = 8  # good images of a cell that has Gaussians of its own
COARSE = 4  # places a side that an image as a whole is seen by
HALF = 0.5  # share of a place that is covered, from which on it counts as covered

Chunks = Callable[[], Iterable[tuple[Tensor, Tensor]]]  # features (B, F, h, w) and their cells (B,), some at a time


class Patches(nn.Module):
    """From feature grids and conditions to whitened patches with their conditions, and back.

    Buffers, for K cells (combinations of categorical conditions), P = h·w places and F features:
        keys (K, W): the condition vector of a cell, its continuous entries 0.
        continuous (W,): which entries of a condition vector are no part of its cell.
        mean (K, P, F), root (K, P, F, F): of the Gaussian at each place; root is the inverse of the lower Cholesky
            factor of its covariance, so that root·(x − mean) is white.
        position (P, Q): cosines of the place, |·| ≤ 1.
        ignored (K, P): places that do not count.
        images (K,): how many the Gaussians of a cell were taken from.
        own (K,): the share that a place's own covariance has in its Gaussian.

    With a `context` u of T numbers an image, features are taken as jointly Gaussian with it, and the Gaussian of a
    place is that given u: its mean is mean + slope·u (see `Context`), and root is of its conditional covariance.

    With `coarse` there are Gaussians of a second, coarse grid too, of features averaged over all that counts in a part
    of the image (`coarsen`): what is unusual by little everywhere shows there.

    Args:
        shape: (F, h, w).
        keys, continuous: see above; None for a model without conditions.
        shrink: share of the covariance of all places in that of one place; None chooses it by `shrinkage`.
        coarse: whether to have a coarse grid, of 4×4 places or as many as there are. It has no context.
        context: T at most, the numbers that say how an image as a whole differs; 0 for none, as with few images.
    """

    keys: Tensor
    continuous: Tensor
    mean: Tensor
    root: Tensor
    position: Tensor
    ignored: Tensor
    images: Tensor
    own: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        keys: Tensor | None = None,
        continuous: Tensor | None = None,
        shrink: float | None = None,
        coarse: bool = False,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.shape, self.shrink = shape, shrink
        features, height, width = shape
        places = height * width
        keys = torch.zeros(1, 0) if keys is None else keys.float()
        cells = len(keys)
        self.register_buffer("keys", keys)
        self.register_buffer("continuous", torch.zeros(keys.shape[1], dtype=torch.bool))
        if continuous is not None:
            self.continuous.copy_(continuous)
        self.register_buffer("mean", torch.zeros(cells, places, features))
        self.register_buffer("root", torch.eye(features).expand(cells, places, -1, -1), persistent=False)
        self.register_buffer("position", encode_positions(height, width))
        self.register_buffer("ignored", torch.zeros(cells, places, dtype=torch.bool))
        self.register_buffer("images", torch.zeros(cells))
        self.register_buffer("own", torch.ones(cells))
        self.context = Context(cells, places, features, min(context, features)) if context else None
        few = (features, min(COARSE, height), min(COARSE, width))
        self.coarse = Patches(few, keys.clone(), continuous, shrink) if coarse else None

    def get_extra_state(self) -> Tensor:
        """The lower triangles of `root` (K, P, F(F + 1)/2): half of it is zeros, and it is most of a saved model."""
        row, column = torch.tril_indices(*self.root.shape[2:])
        return self.root[:, :, row, column]

    def set_extra_state(self, state: Tensor) -> None:
        row, column = torch.tril_indices(*self.root.shape[2:])
        self.root = torch.zeros(self.root.shape, device=self.root.device)
        self.root[:, :, row, column] = state.to(self.root)

    @property
    def condition_width(self) -> int:
        """Entries of a patch's condition vector: the image's, then the position's."""
        return self.keys.shape[1] + self.position.shape[1]

    @property
    def places(self) -> int:
        """Patches an image has."""
        return self.shape[1] * self.shape[2]

    @property
    def ignored_grid(self) -> Tensor:
        """(K, h, w) places that do not count."""
        return self.ignored.reshape(-1, *self.shape[1:])

    # Fit ------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fit(self, chunks: Chunks) -> Patches:
        """Means and covariances of every cell and place, in two passes over the features of good images, or three.

        A cell with fewer than 8 images has those of all images together. Places that are `ignored` have Gaussians of
        their own that nothing else depends on.
        """
        cells, places = self.mean.shape[:2]
        counts = torch.zeros(cells, dtype=torch.int64)
        total = torch.zeros_like(self.mean, dtype=torch.float64)
        for x, cell in chunks():
            rows = self._rows(x).double()
            for k in cell.unique().tolist():
                total[k] += rows[cell == k].sum(0)
            counts += torch.bincount(cell, minlength=cells)
        few = (counts < FEWEST).nonzero()[:, 0].tolist()
        self.mean.copy_(total / counts.clamp_min(1)[:, None, None])
        self.mean[few] = (total.sum(0) / counts.sum()).float()
        if self.context is not None:
            self.context.fit(self._about_means(chunks, few), self.ignored)
            if not self.context.basis.shape[1]:  # too few images for any
                self.context = None
        self.root = spread = torch.zeros(self.root.shape)  # a covariance gives way to its root
        for k, off in self._about_means(chunks, few):
            some = off.transpose(0, 1)  # (P, B, F)
            for at in torch.arange(places).split(PLACES):
                spread[k, at] += some[at].transpose(1, 2) @ some[at]
            if self.context is not None:
                u = self.context(off, torch.full((len(off),), k), self.ignored)
                self.context.slope[k] += some.transpose(1, 2) @ u
        counts[few] = counts.sum()
        for k in range(cells):
            spread[k] /= counts[k] - 1
            share = shrinkage(int(counts[k]), self.shape[0]) if self.shrink is None else self.shrink
            self.images[k], self.own[k] = counts[k], 1 - share
            everywhere = spread[k, ~self.ignored[k]].mean(0)
            if self.context is not None:
                slope = self.context.slope[k] / (counts[k] - 1)
                self.context.slope[k] = (1 - share) * slope + share * slope[~self.ignored[k]].mean(0)
            for at in torch.arange(places).split(PLACES):
                self._whiten_by(k, at, (1 - share) * spread[k, at] + share * everywhere)
        if self.coarse is not None:
            self.coarse.ignored.copy_((self._shares() == 0).flatten(1))
            self.coarse.fit(lambda: ((self.coarsen(x, cell), cell) for x, cell in chunks()))
        return self

    def _about_means(self, chunks: Chunks, few: list[int]) -> Iterator[tuple[int, Tensor]]:
        """Cells, and features (B, P, F) of some of their images about their means. Cells in `few` have all images."""
        for x, cell in chunks():
            rows = self._rows(x)
            for k in {*cell.unique().tolist(), *few}:
                yield k, (rows if k in few else rows[cell == k]) - self.mean[k]

    def _whiten_by(self, k: int, at: Tensor, covariance: Tensor) -> None:
        eye = torch.eye(self.shape[0])
        whole = (covariance + RIDGE * eye).double()
        if self.context is not None:  # what the context leaves of it
            slope = self.context.slope[k, at].double()
            whole = whole - slope @ slope.mT
        lower = torch.linalg.cholesky(whole)
        self.root[k, at] = torch.linalg.solve_triangular(lower, eye.double().expand_as(lower), upper=False).float()

    # Use ------------------------------------------------------------------------------------------------------------

    def cell(self, c: Tensor | None, n: int) -> Tensor:
        """(B,) the cell of each of n condition vectors c (B, W)."""
        if c is None or not self.keys.shape[1] or len(self.keys) == 1:
            return torch.zeros(n, dtype=torch.int64, device=self.mean.device)
        told = c.masked_fill(self.continuous, 0)
        return (told[:, None] - self.keys).square().sum(2).argmin(1)

    def coarsen(self, x: Tensor, cell: Tensor) -> Tensor:
        """Feature grids (B, F, h, w) in cells (B,) → their means (B, F, 4, 4) over what counts of each part.

        Where nothing counts they are 0.
        """
        if not self.ignored.any():
            return self._averaged(x.float())
        hidden = self.ignored_grid[cell][:, None]
        share = self._shares()[cell][:, None]
        return self._averaged(x.float().masked_fill(hidden, 0)) / share.clamp_min(1e-12)

    def _shares(self) -> Tensor:
        """(K, 4, 4) the share of each part that counts."""
        return self._averaged((~self.ignored_grid).float())

    def _averaged(self, x: Tensor) -> Tensor:
        """(…, h, w) → (…, 4, 4): means over parts, which overlap by a row or a column where 4 does not divide.

        As adaptive pooling, of which not all devices know all sizes.
        """
        assert self.coarse is not None
        sides = zip(self.shape[1:], self.coarse.shape[1:], strict=True)
        down, across = (adaptive_avg_pool1d(torch.eye(n)[None], few)[0].to(x) for n, few in sides)
        return down.mT @ x @ across

    def whiten(self, x: Tensor, cell: Tensor) -> Tensor:
        """Feature grids (B, F, h, w) in cells (B,) → whitened patches (B, P, F) float32, given their contexts."""
        return self._whitened(x, cell)[0]

    def _whitened(self, x: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened patches (B, P, F) and contexts (B, T)."""
        rows = self._rows(x) - self.mean[cell]
        context = self._context(rows, cell)
        out = torch.empty_like(rows)
        for k in cell.unique().tolist():
            mine = (cell == k).nonzero()[:, 0]
            some = rows[mine].transpose(0, 1)  # (P, B, F)
            if self.context is not None:
                some = some - self.context.moved(context[mine], k)
            out[mine] = torch.cat(
                [s @ r.transpose(1, 2) for s, r in zip(some.split(PLACES), self.root[k].split(PLACES), strict=True)]
            ).transpose(0, 1)
        return out, context

    def _context(self, off: Tensor, cell: Tensor) -> Tensor:
        """(B, T) of features (B, P, F) about their means; T = 0 where there is no context."""
        return off.new_zeros(len(off), 0) if self.context is None else self.context(off, cell, self.ignored)

    def left_out(self, x: Tensor, cell: Tensor, own: Tensor | None = None) -> Tensor:
        """Whitened patches as they were had one image not been among those that the Gaussians were taken from.

        Context and features of a place together, whitened, are o for the image to leave out. Without it their
        covariance is I − a·o·oᵀ, whose Cholesky factor has a closed form by sums s over the first entries. Of the
        context, which comes first, that takes two numbers an image, and the rest is as without one. How the context is
        taken (`Context.basis`) stays as it is.

        Args:
            x: (B, F, h, w) features of any images, in cells (B,).
            own: (B, F, h, w) those of the images to leave out, which were among them; None: `x` themselves.

        Returns:
            (B, P, F): whitened patches about the mean without the image, and by the factor of the covariance without
            it. With `own` = `x` it is what a new image like it would be. Exact without shrinkage, up to the ridge over
            N; with it squared lengths are within some 1 %.
        """
        white, u = self._whitened(x, cell)
        own, u_own = (white, u) if own is None else self._whitened(own, cell)
        n = self.images[cell].clamp_min(3).to(white)[:, None, None]
        v = white + own / (n - 1)
        share = self.own.to(white)[cell][:, None, None]
        a = share * n / (n - 1).square()
        if self.context is not None:
            along = (u_own * (u + u_own / (n[:, 0] - 1))).sum(1)[:, None, None]
            s = (1 - a * u_own.square().sum(1)[:, None, None]).clamp_min(LEAST)
            v, a = v + a * own * along / s, a / s
        s = (1 - a * own.square().cumsum(2)).clamp_min(LEAST)
        before = torch.cat([torch.ones_like(s[..., :1]), s[..., :-1]], 2)
        along = (own * v).cumsum(2) - own * v
        fewer = ((n - 2) / (n - 1)).where(share == 1, 1.0)
        return (fewer * before / s).sqrt() * (v + a * own * along / before)

    def unwhiten(self, rows: Tensor, c: Tensor | None, x: Tensor) -> Tensor:
        """Whitened patches (B·P, F) of images with conditions c (B, W) → features (B, F, h, w).

        The context that they are given is that of features x (B, F, h, w).
        """
        white = rows.unflatten(0, (-1, self.places))
        cell = self.cell(c, len(white))
        context = self._context(self._rows(x) - self.mean[cell], cell)
        out = torch.empty_like(white)
        for k in cell.unique().tolist():
            mine = (cell == k).nonzero()[:, 0]
            some = white[mine].permute(1, 2, 0)  # (P, F, B)
            back = torch.linalg.solve_triangular(self.root[k], some, upper=False)
            back = back.permute(2, 0, 1) + self.mean[k]
            out[mine] = back if self.context is None else back + self.context.moved(context[mine], k).transpose(0, 1)
        return out.transpose(1, 2).unflatten(2, self.shape[1:])

    def split(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """Grids (B, F, h, w) under conditions c (B, W) → whitened patches (B·P, F), and conditions (B·P, W + Q)."""
        rows = self.whiten(x, self.cell(c, len(x))).flatten(0, 1)
        return rows, self.conditions(c, len(x))

    def conditions(self, c: Tensor | None, n: int) -> Tensor:
        """(n·P, W + Q): what is known of each patch of n images with conditions c (n, W)."""
        place = self.position.repeat(n, 1)
        if c is None:
            return place
        return torch.cat([c.repeat_interleave(self.places, 0), place], 1)

    def join(self, values: Tensor) -> Tensor:
        """Values of patches (B·P,) → maps (B, h, w)."""
        return values.reshape(-1, *self.shape[1:])

    def _rows(self, x: Tensor) -> Tensor:
        """(B, F, h, w) → (B, P, F) float32."""
        return x.flatten(2).transpose(1, 2).float()


def shrinkage(n: int, features: int) -> float:
    """The share of the covariance of all places in that of one, from n images: .09 at n = F, then falling as 1 / n³."""
    each = n / features
    return 1 / max(1.0, each) / (1 + 10 * each * max(1.0, each))


def encode_positions(height: int, width: int, frequencies: int = FREQUENCIES) -> Tensor:
    """(h·w, Q) smooth functions of the place: y and x within −1…1, and products of cosines up to `frequencies`."""
    y, x = ((torch.arange(n) + 0.5) / n for n in (height, width))
    y, x = (t.reshape(-1) for t in torch.meshgrid(y, x, indexing="ij"))
    waves = [[torch.cos(math.pi * f * t) for f in range(frequencies + 1)] for t in (y, x)]
    products = [a * b for i, a in enumerate(waves[0]) for j, b in enumerate(waves[1]) if i or j]
    return torch.stack([2 * y - 1, 2 * x - 1, *products], 1)


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Maps (B, h, w) under a Gaussian of σ cells, borders repeated."""
    if sigma <= 0:
        return maps
    reach = max(1, round(4 * sigma))
    at = torch.arange(-reach, reach + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-0.5 * (at / sigma).square())
    kernel = kernel / kernel.sum()
    whole = pad(maps[:, None], (reach, reach, reach, reach), mode="replicate")
    whole = torch.nn.functional.conv2d(whole, kernel[None, None, :, None])
    return torch.nn.functional.conv2d(whole, kernel[None, None, None, :])[:, 0]
