"""The one model: encoder q(z|x,c), decoder p(x|z,c), prior r(z|c). What is minimised is in `models.objectives`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from knowngood.config import Options
from knowngood.errors import SettingsError
from knowngood.models.likelihoods import LOG_2PI

from knowngood.models.views import Views


class DiagonalGaussian(NamedTuple):
    """A normal distribution with independent dimensions, one a row."""

    mean: Tensor  # (B, D)
    log_var: Tensor  # (B, D)

    def rsample(self, noise: Tensor) -> Tensor:
        """μ + σ·noise; `noise` broadcasts against (B, D), for example (L, 1, D) for L common draws."""
        return self.mean + (0.5 * self.log_var).exp() * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of each dimension, same shape as z (which broadcasts against (B, D))."""
        return -0.5 * ((z - self.mean).square() * (-self.log_var).exp() + self.log_var + LOG_2PI)

    def kl(self, other: DiagonalGaussian) -> Tensor:
        """KL(self ‖ other) of each dimension in nats, (B, D), ≥ 0."""
        ratio = self.log_var - other.log_var
        shift = (self.mean - other.mean).square() * (-other.log_var).exp()
        return 0.5 * (ratio.exp() + shift - 1 - ratio)


class ConditionalVAE(nn.Module):
    """Conditional variational autoencoder with a factorised Gaussian posterior and prior.

    Args:
        shape: of one item: (C, H, W) for images, (F,) for tables.
        latent_dim: dimensions D of z.
        condition_dim: width of the encoded condition c; with 0 the model is unconditional and ignores c.
        net: options of the encoder and decoder.
        likelihood: options of p(x|z,c).
        prior: "standard" for N(0, I), "learned" for r(z|c) = N(μ(c), diag σ²(c)), both affine in c
            (a free Gaussian for each value of a one-hot condition), starting at N(0, I). Sohn et al. 2015.
            "separated" for r(z|c) = N(W c, I) with W fixed: the means of two values of a one-hot condition are
            `separation` apart, in standard deviations. The encoder does not see c then, else it could put any x near
            the mean of any c; where x lies tells which conditions it fits.
        nuisance_dim: how many of the D dimensions, the last ones, hold nuisance factors; scores may leave them out.
        separation: of the separated priors.
        augment: groups of views, see `Views`. The view is a condition of its own, one-hot beside c. Wherever c is
            given without one, the image as it is is meant: (B, condition_dim) and (B, condition_dim + K) both do.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_dim: int,
        condition_dim: int,
        net: Options,
        likelihood: Options,
        prior: str,
        nuisance_dim: int = 0,
        separation: float = 40.0,
        augment: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if not 0 <= nuisance_dim < latent_dim:
            raise SettingsError(
                f"nuisance_dim = {nuisance_dim} of latent_dim = {latent_dim}; some dimensions must be left for the rest"
            )
        self.shape = tuple(shape)
        self.patches = None
        self.latent_dim, self.nuisance_dim = latent_dim, nuisance_dim
        self.condition_dim = condition_dim
        self.views = Views(augment, self.shape) if augment else None
        self.width = width = condition_dim + (len(self.views) if self.views is not None else 0)
        self.likelihood = likelihood.build(self.shape)
        self.net = net.build(self.shape, width, latent_dim, self.likelihood.outputs)
        self.prior_name, self.separation = prior, separation
        if prior == "separated":
            if not width:
                raise SettingsError(
                    "prior = 'separated' needs conditions to hold apart: give at least two kinds, as "
                    "conditions={'class': …} or in a folder each, or take another prior. For a single kind there is "
                    "the preset 'shapes' (--preset shapes), or representation='oriented_gradients' alone"
                )
            weight = torch.zeros(2 * latent_dim, width)
            weight[:latent_dim] = separation / math.sqrt(2) * spread_directions(latent_dim, width)
            self.register_buffer("prior_weight", weight)
            self.register_buffer("prior_bias", torch.zeros(2 * latent_dim))
        else:
            learned = prior == "learned"
            self.prior_bias = nn.Parameter(torch.zeros(2 * latent_dim)) if learned else None
            weight = torch.zeros(2 * latent_dim, width)
            self.prior_weight = nn.Parameter(weight) if learned and width else None
        self.others = nn.ModuleList()  # of an ensemble the further models, fitted after this one

    @property
    def members(self) -> list[ConditionalVAE]:
        """The models of the ensemble that this one leads; this one alone where there is none."""
        return [self, *self.others]  # type: ignore[list-item]

    def _condition(self, c: Tensor | None, rows: Tensor) -> Tensor | None:
        """The whole condition of each of the rows, (B, width), with the view beside c; None for a model without."""
        if not self.width:
            return None
        n = len(rows)
        if self.views is not None and (0 if c is None else c.shape[-1]) == self.condition_dim:
            c = self.views.told(c, 0, like=rows)
        if c is None or c.shape != (n, self.width):
            given = "none" if c is None else tuple(c.shape)
            raise ValueError(f"condition of shape {given} given; this model needs ({n}, {self.condition_dim})")
        return c

    def encode(self, x: Tensor, c: Tensor | None = None) -> DiagonalGaussian:
        """Posterior q(z|x,c) for x (B, *shape) and c (B, condition_dim)."""
        c = self._condition(c, x)
        if self.prior_name == "separated" and c is not None:
            c = torch.zeros_like(c)
        mean, log_var = full_precision(self.net.encode(x, c)).chunk(2, dim=1)
        return DiagonalGaussian(mean, log_var)

    def decode(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Parameters of p(x|z,c), (B, k·C, H, W) or (B, k·F), to be read by `likelihood`."""
        return full_precision(self.net.decode(z, self._condition(c, z)))

    def prior(self, c: Tensor | None, like: Tensor) -> DiagonalGaussian:
        """Prior r(z|c) for as many rows as `like` (B, …) has, in its dtype and on its device."""
        n = len(like)
        if self.prior_bias is None:
            zeros = like.new_zeros(n, self.latent_dim)
            return DiagonalGaussian(zeros, zeros)
        c = self._condition(c, like)
        rows = self.prior_bias.expand(n, -1)
        if c is not None and self.prior_weight is not None:
            with full_precision_region(c):
                rows = rows + c @ self.prior_weight.t()
        mean, log_var = rows.chunk(2, dim=1)
        return DiagonalGaussian(mean, log_var)

    def reconstruct(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Mean of p(x|z,c) at the posterior mean z = μ(x,c); (B, *shape)."""
        return self.likelihood.mean(self.decode(self.encode(x, c).mean, c))


def spread_directions(dims: int, count: int) -> Tensor:
    """(dims, count) unit vectors, orthogonal where count ≤ dims; the same ones at every call."""
    draw = torch.randn(dims, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if count <= dims:
        values, vectors = torch.linalg.eigh(draw.t() @ draw)
        draw = draw @ (vectors * values.rsqrt()) @ vectors.t()
    return (draw / draw.norm(dim=0)).float()


def full_precision(t: Tensor) -> Tensor:
    """Half-precision activations as float32: likelihoods, KLs and densities are never computed in bf16."""
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t


def full_precision_region(t: Tensor) -> torch.autocast:
    """A context in which matrix products keep their inputs' precision on the device of `t`."""
    return torch.autocast(t.device.type, enabled=False)
