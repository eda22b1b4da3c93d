"""How much of an image each kind of patch covers: a part too many, too few or of another kind, wherever it lies.

Visual words (Csurka et al. 2004) are centres of k-means among normal patches. The shares that the words have of an
image are taken as jointly Gaussian: where every location sees every part, the sums over the image are still fixed.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from knowngood.models.repeats import repeats

SEED = 0
PATCHES = 20_000  # normal patches that words are learned from, at most
COMPONENTS = 64  # principal components of the features, at most
ROUNDS = 15  # of k-means
SOFTNESS = 0.4  # mean squared distance to the nearest word times this is the temperature of the assignment
SPREAD = 1e-3  # standard deviation by which shares are standardised, at least
LEAST = 1e-4  # of a variance that remains without an image
RIDGE = 0.01  # added to variances of standardised shares


class PatchWords(nn.Module):
    """The shares that W words have of an image, and their Gaussian for each of K cells.

    Buffers, for d components of F features:
        centre (F,), basis (F, d), words (W, d), temperature (): of the assignment, softmax(−distance² / temperature).
        scale (W,): standard deviations of the shares among all normal images.
        mean (K, W), covariance (K, W, W): of the shares over `scale`, float64; number (K,) of the images.
    """

    centre: Tensor
    basis: Tensor
    words: Tensor
    temperature: Tensor
    scale: Tensor
    mean: Tensor
    covariance: Tensor
    number: Tensor

    def __init__(self, features: int, cells: int, words: int) -> None:
        super().__init__()
        components = min(COMPONENTS, features)
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("basis", torch.zeros(features, components))
        self.register_buffer("words", torch.zeros(words, components))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("scale", torch.ones(words))
        self.register_buffer("mean", torch.zeros(cells, words, dtype=torch.float64))
        self.register_buffer("covariance", torch.zeros(cells, words, words, dtype=torch.float64))
        self.register_buffer("number", torch.zeros(cells, dtype=torch.float64))

    @torch.no_grad()
    def fit(self, x: Tensor, cell: Tensor, ignored: Tensor, pooled: tuple[bool, ...]) -> Self:
        """Learn words and Gaussians from feature grids x (N, F, h, w) of normal images in cells (N,).

        `ignored` (K, P) locations do not count. A `pooled` cell has the Gaussian of all images.
        """
        generator = torch.Generator().manual_seed(SEED)
        drawn = torch.randperm(len(x) * ignored.shape[1], generator=generator)
        owner, place = drawn // ignored.shape[1], drawn % ignored.shape[1]
        counted = (~ignored[cell[owner], place]).nonzero()[:PATCHES, 0]
        patches = x.flatten(2)[owner[counted], :, place[counted]].float()
        self.centre = patches.mean(0)
        off = (patches - self.centre).double()
        _, axes = torch.linalg.eigh(off.T @ off / len(off))
        self.basis = axes.flip(1)[:, : self.basis.shape[1]].float().contiguous()
        rows = (patches - self.centre) @ self.basis
        self.words = rows[torch.arange(len(self.words)) % len(rows)]
        for _ in range(ROUNDS):
            nearest = self._squares(rows).argmin(1)
            sums = torch.zeros_like(self.words).index_add_(0, nearest, rows)
            count = torch.bincount(nearest, minlength=len(self.words))[:, None]
            self.words = torch.where(count > 0, sums / count.clamp_min(1), self.words)
        self.temperature = SOFTNESS * self._squares(rows).amin(1).mean().clamp_min(1e-12)
        shares = self.shares(x, cell, ignored)
        self.scale = _covariance(shares).diagonal().sqrt().clamp_min(SPREAD).float()
        for k, lacks in enumerate(pooled):
            mine = shares if lacks else shares[cell == k]
            self.mean[k], self.covariance[k] = (mine / self.scale).mean(0), _covariance(mine / self.scale)
            self.number[k] = len(mine)
        return self

    @torch.no_grad()
    def update(self, x: Tensor, cell: Tensor, ignored: Tensor, pooled: tuple[bool, ...]) -> Self:
        """Take further grids: words stay, and the Gaussians are those of old and new shares together."""
        shares = self.shares(x, cell, ignored) / self.scale
        for k, lacks in enumerate(pooled):
            mine, n = shares if lacks else shares[cell == k], self.number[k]
            if m := len(mine):
                step, own = mine.mean(0) - self.mean[k], mine - mine.mean(0)
                sums = (n - 1) * self.covariance[k] + own.T @ own + n * m / (n + m) * torch.outer(step, step)
                self.covariance[k] = sums / (n + m - 1)
                self.mean[k] += m / (n + m) * step
                self.number[k] = n + m
        return self

    @torch.no_grad()
    def assigned(self, x: Tensor) -> Tensor:
        """(P, W): how much each patch of one feature grid (F, h, w) is of each word; rows sum to 1."""
        rows = (x.flatten(1).T.float() - self.centre) @ self.basis
        return (-self._squares(rows) / self.temperature).softmax(1)

    def shares(self, x: Tensor, cell: Tensor, ignored: Tensor) -> Tensor:
        """(B, W) float64: the mean of `assigned` over the locations that count, of feature grids x (B, F, h, w)."""
        found = []
        for same in repeats(x):
            assigned = self.assigned(x[same.start])
            found += [assigned[~ignored[k]].double().mean(0) for k in cell[same].tolist()]
        return torch.stack(found)

    def distances(self, shares: Tensor, cell: Tensor, *, leave_one_out: bool = False) -> Tensor:
        """(B,) Mahalanobis distances of shares (B, W); of images fitted to, as if each had been left out.

        The covariance is shrunk towards the identity by W / (W + n) for n images. Without an image, whose shares
        deviate by δ from the mean of all, the mean moves by −δ/(n−1), and the covariance S is
        ((n−1)·S − n/(n−1)·δδᵀ) / (n−2). Shrunk and with its ridge that is A − a·δδᵀ, and the squared distance is
        (n/(n−1))²·q / (1 − a·q) with q = δᵀA⁻¹δ: exact, given the words and their scale.
        """
        out = torch.empty(len(shares), dtype=torch.float64, device=shares.device)
        for k in cell.unique().tolist():
            mine, n = cell == k, self.number[k]
            off = shares[mine] / self.scale - self.mean[k]
            root = self.root(k, left_out=leave_one_out)
            square = torch.linalg.solve_triangular(root, off.T, upper=False).square().sum(0)
            if leave_one_out:
                rest = (n - 1).clamp_min(1)
                a = self._weight(k, left_out=True) * n / rest.square()
                square = (n / rest).square() * square / (1 - a * square).clamp_min(LEAST)
            out[mine] = square.sqrt()
        return out

    def root(self, k: int, *, left_out: bool = False) -> Tensor:
        """(W, W) lower Cholesky factor of the covariance of a cell, shrunk and with its ridge; or of A above."""
        eye = torch.eye(len(self.words), dtype=torch.float64, device=self.covariance.device)
        ridge = self._share(k, left_out) + RIDGE
        return torch.linalg.cholesky(self._weight(k, left_out) * self.covariance[k] + ridge * eye)

    def _weight(self, k: int, left_out: bool) -> Tensor:
        """Of the covariance of a cell in the shrunk one."""
        n = self.number[k]
        grown = (n - 1).clamp_min(1) / (n - 2).clamp_min(1) if left_out else 1.0
        return (1 - self._share(k, left_out)) * grown

    def _share(self, k: int, left_out: bool) -> Tensor:
        """Of the identity."""
        return len(self.words) / (len(self.words) + self.number[k] - int(left_out))

    def deviations(self, shares: Tensor, cell: Tensor) -> Tensor:
        """(B, W): shares (B, W) less those of normal images, in standard deviations."""
        spread = self.covariance.diagonal(dim1=1, dim2=2).clamp_min(RIDGE).sqrt()
        return (shares / self.scale - self.mean[cell]) / spread[cell]

    def _squares(self, rows: Tensor) -> Tensor:
        """(P, W) squared distances of rows (P, d) to the words."""
        squares = torch.addmm(self.words.square().sum(1), rows, self.words.T, alpha=-2)
        return (squares + rows.square().sum(1, keepdim=True)).clamp_min(0)


def _covariance(rows: Tensor) -> Tensor:
    """(W, W) of rows (n, W); 0 of one row."""
    off = rows - rows.mean(0)
    return off.T @ off / max(1, len(rows) - 1)
