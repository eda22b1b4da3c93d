"""log q(z|c) − Σ_d log q(z_d|c) from running moments of codes: total correlation in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from knowngood.models.distributions import full_precision_region
from knowngood.models.objectives.running_moments import RunningMoments

MEMORY, LEAST, FEWEST = 16, 512, 4  # codes remembered, a dimension and at least; codes a dimension for an estimate
JITTER = 1e-4  # added to correlation matrices
LARGEST = 3.0  # standard deviations, beyond which polynomials of a code are constant
ORDERS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0))  # pairs of polynomials, of degree 1, 2 and 3


class GaussianRatio(nn.Module):
    """The log ratio of a Gaussian to the product of its marginals, one Gaussian for each Mondrian group (stratum).

    Its mean under the Gaussian is the total correlation −½ log det R, R the correlation matrix. Means and covariances
    are those of the codes of earlier steps and have no gradient, like a discriminator that is at its optimum: the
    gradient through z is that of the Gaussian's TC. Inverses are scaled and log determinants shifted by what n codes
    bias them (Wishart), so that the gradient is unbiased for Gaussian codes at any D.

    A stratum with fewer than 4·D training items shares one covariance with all others like it.

    Args:
        counts: (S,) training items of each stratum.
    """

    def __init__(self, latent_dim: int, counts: Tensor) -> None:
        super().__init__()
        self.fewest = FEWEST * latent_dim
        many = counts >= self.fewest
        slot = torch.where(many, many.cumsum(0) - 1, many.sum())
        self.codes = RunningMoments(latent_dim, slot, max(LEAST, MEMORY * latent_dim))

    def standardised(self, z: Tensor, stratum: Tensor) -> Tensor:
        """z (B, D) in units of its stratum's mean and standard deviations; as it is where these are not known yet."""
        variance = self.codes.covariance.diagonal(dim1=1, dim2=2)
        scale = torch.where(variance > 0, variance, 1.0).rsqrt()
        return (z - self.codes.mean[stratum]) * scale[self.codes.slot[stratum]]

    def correlations(self) -> Tensor:
        """(K, D, D); the identity where there are too few codes yet."""
        known, covariance = self.codes.seen >= self.fewest, self.codes.covariance
        scale = torch.where(known[:, None], covariance.diagonal(dim1=1, dim2=2), 1.0).rsqrt()
        one = torch.eye(covariance.shape[1], dtype=covariance.dtype, device=covariance.device)
        return torch.where(known[:, None, None], covariance, one) * scale[:, :, None] * scale[:, None]

    def forward(self, z: Tensor, stratum: Tensor) -> tuple[Tensor, Tensor]:
        """Log ratio at z (B, D) in nats, (B,), and where there is one yet, (B,) bool; it is 0 elsewhere."""
        own, d = self.codes.slot[stratum], z.shape[1]
        known = (self.codes.seen >= self.fewest)[own]
        with full_precision_region(z):
            r = self.correlations()
            one = torch.eye(d, dtype=r.dtype, device=r.device)
            root = torch.linalg.cholesky_ex(r + JITTER * one).L
            half = torch.linalg.solve_triangular(root, one.expand_as(r), upper=False)
            n = self.codes.seen.clamp(self.fewest, 2 * self.codes.memory)
            quadratic = ((n - d - 1) / n)[:, None, None] * (half.mT @ half) - one  # (K, D, D)
            constant = root.diagonal(dim1=1, dim2=2).log().sum(1) + d * (d - 1) / (4 * n)
            ratio = -0.5 * products(quadratic, own, self.standardised(z, stratum)) - constant[own]
        return torch.where(known, ratio, 0.0), known

    def update(self, z: Tensor, stratum: Tensor) -> None:
        """Take the codes z (B, D) into the running moments."""
        self.codes.update(z, stratum, torch.ones_like(z[:, 0]))


class MomentRatio(GaussianRatio):
    """The Gaussian log ratio, and what moments of the third and fourth order add to it for each pair of dimensions.

    Where two dimensions depend little on each other, q(z_i, z_j) / (q(z_i) q(z_j)) = 1 + Σ_ab M_ab h_a(z_i) h_b(z_j),
    with the normalised Hermite polynomials h and the moments M_ab = E[h_a(z_i) h_b(z_j)] (Lancaster 1958), and TC is
    ½ Σ M_ab² over pairs. M_22 is taken over that of a Gaussian, r². Codes of uncorrelated dimensions that depend on
    each other, such as a rotated square, have a TC by this, and none by the Gaussian.
    """

    pairs: Tensor

    def __init__(self, latent_dim: int, counts: Tensor) -> None:
        super().__init__(latent_dim, counts)
        slots = torch.arange(len(self.codes.seen), device=counts.device)
        self.polynomials = RunningMoments(3 * latent_dim, slots, self.codes.memory)
        orders = torch.zeros(3, 3)
        orders[tuple(zip(*ORDERS, strict=True))] = 1
        self.register_buffer("pairs", torch.kron(orders, 1 - torch.eye(latent_dim)))  # (3D, 3D), 1 for what counts

    def forward(self, z: Tensor, stratum: Tensor) -> tuple[Tensor, Tensor]:
        ratio, known = super().forward(z, stratum)
        own, d = self.codes.slot[stratum], z.shape[1]
        with full_precision_region(z):
            moments = self.polynomials.covariance.clone()
            moments[:, d : 2 * d, d : 2 * d] -= self.correlations().square()
            moments = torch.where((self.polynomials.seen >= self.fewest)[:, None, None], moments * self.pairs, 0.0)
            more = 0.5 * products(moments, own, self._hermite(z, stratum) - self.polynomials.mean[own])
            more = more - 0.25 * moments.square().sum((1, 2))[own]
        return ratio + torch.where(known, more, 0.0), known

    def update(self, z: Tensor, stratum: Tensor) -> None:
        own = self.codes.slot[stratum]
        known = (self.codes.seen >= self.fewest)[own].to(z)
        self.polynomials.update(self._hermite(z, stratum), own, known)
        super().update(z, stratum)

    def _hermite(self, z: Tensor, stratum: Tensor) -> Tensor:
        """h_1, h_2 and h_3 of the standardised codes, (B, 3D)."""
        u = self.standardised(z, stratum).clamp(-LARGEST, LARGEST)
        return torch.cat((u, (u.square() - 1) / math.sqrt(2), (u.pow(3) - 3 * u) / math.sqrt(6)), 1)


def products(matrices: Tensor, own: Tensor, rows: Tensor) -> Tensor:
    """rowᵀ·M·row of each row (B, W), M that of `matrices` (K, W, W) at its place `own` (B,): (B,)."""
    return ((rows @ matrices)[own, torch.arange(len(rows), device=own.device)] * rows).sum(1)
