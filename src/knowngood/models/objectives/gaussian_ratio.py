"""log q(z|c) − Σ_d log q(z_d|c) of Gaussians whose moments are running means: total correlation in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from knowngood.models.distributions import full_precision_region

MEMORY, FEWEST = 16, 4  # codes for each dimension: of the running means, at most; before an estimate is made
JITTER = 1e-4  # added to correlation matrices


class GaussianRatio(nn.Module):
    """The log ratio of a Gaussian to the product of its marginals, one Gaussian for each Mondrian group (stratum).

    Its mean under the Gaussian is the total correlation −½ log det R, R the correlation matrix. Means and covariances
    are those of the codes of earlier steps and have no gradient, like a discriminator that is at its optimum: the
    gradient through z is that of the Gaussian's TC. Inverses are scaled and log determinants shifted by what n codes
    bias them (Wishart), so that the gradient is unbiased for Gaussian codes at any D.

    A running mean forgets what is older than about 16·D codes. A stratum with fewer than 4·D training items shares one
    covariance with all others like it, each about its own mean.

    Args:
        counts: (S,) training items of each stratum.
    """

    slot: Tensor  # (S,) int64, the covariance of each stratum
    met: Tensor  # (S,) codes of each stratum so far
    mean: Tensor  # (S, D)
    seen: Tensor  # (K,) codes in each covariance so far
    covariance: Tensor  # (K, D, D)

    def __init__(self, latent_dim: int, counts: Tensor) -> None:
        super().__init__()
        self.memory, self.fewest = MEMORY * latent_dim, FEWEST * latent_dim
        many = counts >= self.fewest
        own = int(many.sum())
        sizes = own + int(own < len(counts))
        self.register_buffer("slot", torch.where(many, many.cumsum(0) - 1, own))
        self.register_buffer("met", torch.zeros(len(counts)))
        self.register_buffer("mean", torch.zeros(len(counts), latent_dim))
        self.register_buffer("seen", torch.zeros(sizes))
        self.register_buffer("covariance", torch.zeros(sizes, latent_dim, latent_dim))

    def standardised(self, z: Tensor, stratum: Tensor) -> Tensor:
        """z (B, D) in units of its stratum's mean and standard deviations; as it is where these are not known yet."""
        variance = self.covariance.diagonal(dim1=1, dim2=2)
        scale = torch.where(variance > 0, variance, 1.0).rsqrt()
        return (z - self.mean[stratum]) * scale[self.slot[stratum]]

    def forward(self, z: Tensor, stratum: Tensor) -> tuple[Tensor, Tensor]:
        """Log ratio at z (B, D) in nats, (B,), and where there is one yet, (B,) bool; it is 0 elsewhere."""
        with full_precision_region(z):
            known = self.seen >= self.fewest
            one = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
            scale = torch.where(known[:, None], self.covariance.diagonal(dim1=1, dim2=2), 1.0).rsqrt()
            r = torch.where(known[:, None, None], self.covariance, one) * scale[:, :, None] * scale[:, None]
            root = torch.linalg.cholesky_ex(r + JITTER * one).L
            half = torch.linalg.solve_triangular(root, one.expand_as(r), upper=False)
            n, d = self.seen.clamp(self.fewest, 2 * self.memory), z.shape[1]
            quadratic = ((n - d - 1) / n)[:, None, None] * (half.mT @ half) - one  # (K, D, D)
            constant = root.diagonal(dim1=1, dim2=2).log().sum(1) + d * (d - 1) / (4 * n)
            at, own = self.standardised(z, stratum), self.slot[stratum]
            squared = (at[:, None] @ quadratic[own] @ at[:, :, None]).flatten()
        return torch.where(known[own], -0.5 * squared - constant[own], 0.0), known[own]

    @torch.no_grad()
    def update(self, z: Tensor, stratum: Tensor) -> None:
        """Take the codes z (B, D) into the running means."""
        with full_precision_region(z):
            before = z - self.mean[stratum]
            n, rate = _share(self.met, stratum, self.memory)
            step = torch.zeros_like(self.mean).index_add_(0, stratum, before) / n.clamp(min=1)[:, None]
            self.mean += rate[:, None] * step
            own = self.slot[stratum]
            n, rate = _share(self.seen, own, self.memory)
            products = before[:, :, None] * (z - self.mean[stratum])[:, None]
            of_batch = torch.zeros_like(self.covariance).index_add_(0, own, products)
            self.covariance.lerp_(of_batch / n.clamp(min=1)[:, None, None], rate[:, None, None])


def _share(so_far: Tensor, group: Tensor, memory: int) -> tuple[Tensor, Tensor]:
    """Items of each group in the batch, and their share of its running mean; `so_far` counts them."""
    n = torch.zeros_like(so_far).index_add_(0, group, torch.ones_like(group, dtype=so_far.dtype))
    so_far += n
    return n, (n / so_far.clamp(1, memory)).clamp(max=1)
