"""The conditional VAE: encoder q(z|x,c), decoder p(x|z,c), prior r(z|c). What is minimised is in `objectives`."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from knowngood.config import LikelihoodOptions, NetOptions, VAEOptions, parse
from knowngood.errors import SettingsError
from knowngood.models.base import BatchSource, Condition, FitContext, Model
from knowngood.models.distributions import DiagonalGaussian, full_precision, full_precision_region
from knowngood.models.nets.layers import half

SMALLEST_SIDE = 8  # of images that convolutions take


class ConditionalVAE(Model):
    """Conditional variational autoencoder with a factorised Gaussian posterior and prior.

    Priors, by `options.prior`:
        "standard": N(0, I).
        "learned": r(z|c) = N(μ(c), diag σ²(c)), both affine in c (a free Gaussian for each value of a one-hot
            condition), starting at N(0, I). Sohn et al. 2015.
        "separated": class-conditional with fixed means, r(z|c) = N(W c, I): the means of two values of a one-hot
            condition are `separation` standard deviations apart, about so where there are more values than dimensions.
            The encoder does not see c then, else it could put any x near the mean of any c; the location of its code
            tells which conditions it fits.

    Args:
        options: without "auto" and None, see `resolve`.
        nuisance_dim: how many dimensions of z, the last ones, hold nuisance factors; scores may ignore them.
        apart: these dimensions and the others have an encoder each.

    Raises:
        SettingsError: nuisance_dim leaves no dimension, or "separated" without conditions.
    """

    kind: ClassVar[str] = "vae"

    def __init__(
        self,
        options: VAEOptions,
        shape: tuple[int, ...],
        condition_dim: int = 0,
        nuisance_dim: int = 0,
        apart: bool = False,
    ) -> None:
        super().__init__()
        if options.net == "auto" or options.likelihood == "auto" or options.prior == "auto" or not options.latent_dim:
            raise ValueError("options of the VAE still have a value 'auto'; pass them through resolve")
        latent_dim = options.latent_dim
        if not 0 <= nuisance_dim < latent_dim:
            raise SettingsError(
                f"nuisance_dim = {nuisance_dim} of latent_dim = {latent_dim}; some dimensions must be left for the rest"
            )
        self.options = options
        self.shape, self.condition_dim = tuple(shape), condition_dim
        self.latent_dim, self.nuisance_dim = latent_dim, nuisance_dim
        self.likelihood = options.likelihood.build(self.shape)
        self.net = options.net.build(self.shape, condition_dim, latent_dim, self.likelihood.outputs)
        self.encoders = nn.ModuleList()  # of the parts of z, where they are apart
        if apart:
            half(self.net, encodes=False)
            for size in (latent_dim - nuisance_dim, nuisance_dim):
                net = options.net.build(self.shape, condition_dim, size, self.likelihood.outputs)
                self.encoders.append(half(net, encodes=True))
        self.prior_name, self.separation = options.prior, options.separation
        weight = torch.zeros(2 * latent_dim, condition_dim)
        if options.prior == "separated":
            if not condition_dim:
                raise SettingsError(
                    "prior = 'separated' needs conditions to separate: give at least two kinds, as "
                    "conditions={'class': …} or in a folder each, or take another prior. For a single kind take "
                    "representation='hog'"
                )
            weight[:latent_dim] = options.separation / math.sqrt(2) * spread_directions(latent_dim, condition_dim)
            self.register_buffer("prior_weight", weight)
            self.register_buffer("prior_bias", torch.zeros(2 * latent_dim))
        else:
            learned = options.prior == "learned"
            self.prior_bias = nn.Parameter(torch.zeros(2 * latent_dim)) if learned else None
            self.prior_weight = nn.Parameter(weight) if learned and condition_dim else None

    def fit(self, source: BatchSource, context: FitContext) -> Self:
        """Train on normal items by the loop and the objective of the context."""
        assert context.train is not None
        assert context.objective is not None
        context.train(self, context.objective, source, context.held_out, context.anomalies)
        return self

    def sizes(self) -> dict[str, Any]:
        sizes = {"shape": list(self.shape), "condition_dim": self.condition_dim, "nuisance_dim": self.nuisance_dim}
        return {**sizes, "apart": True} if len(self.encoders) else sizes

    def _condition(self, c: Condition, rows: Tensor) -> Condition:
        """The condition of each of the rows, (B, condition_dim); None for a model without."""
        if not self.condition_dim:
            return None
        if c is None or c.shape != (rows.shape[0], self.condition_dim):
            given = "none" if c is None else tuple(c.shape)
            raise ValueError(f"condition of shape {given} given; this model needs ({len(rows)}, {self.condition_dim})")
        return c

    def encode(self, x: Tensor, c: Condition = None) -> DiagonalGaussian:
        """Posterior q(z|x,c) for x (B, *shape) and c (B, condition_dim)."""
        c = self._condition(c, x)
        if self.prior_name == "separated" and c is not None:
            c = torch.zeros_like(c)
        if not len(self.encoders):
            mean, log_var = full_precision(self.net.encode(x, c)).chunk(2, dim=1)
            return DiagonalGaussian(mean, log_var)
        parts = [full_precision(net.encode(x, c)).chunk(2, dim=1) for net in self.encoders]  # type: ignore[operator]
        return DiagonalGaussian(*(torch.cat(part, dim=1) for part in zip(*parts, strict=True)))

    def decode(self, z: Tensor, c: Condition = None) -> Tensor:
        """Parameters of p(x|z,c), (B, k·C, H, W) or (B, k·F), to be read by `likelihood`."""
        return full_precision(self.net.decode(z, self._condition(c, z)))

    def forward(self, x: Tensor, z: Tensor, c: Condition = None) -> Tensor:
        """log p(x|z,c) (B, *shape); the form in which `torch.func.functional_call` puts other weights in."""
        return self.likelihood.log_prob(x, self.decode(z, c))

    def prior(self, c: Condition, like: Tensor) -> DiagonalGaussian:
        """Prior r(z|c) for as many rows as `like` (B, …) has, in its dtype and on its device."""
        n = like.shape[0]
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

    def reconstruct(self, x: Tensor, c: Condition = None) -> Tensor:
        """Mean of p(x|z,c) at the posterior mean z = μ(x,c); (B, *shape)."""
        return self.likelihood.mean(self.decode(self.encode(x, c).mean, c))


def spread_directions(dims: int, count: int) -> Tensor:
    """(dims, count) unit vectors, orthogonal where count ≤ dims; the same ones at every call."""
    draw = torch.randn(dims, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if count <= dims:
        values, vectors = torch.linalg.eigh(draw.t() @ draw)
        draw = draw @ (vectors * values.rsqrt()) @ vectors.t()
    return (draw / draw.norm(dim=0)).float()


def resolve(options: VAEOptions, prior: str, shape: tuple[int, ...]) -> VAEOptions:
    """The options without "auto" and None, for items of this shape and an objective with this prior.

    - net: conv for images (C, H, W) whose shorter side is at least 8, else mlp.
    - likelihood: Gaussian with a learned scalar σ.
    - latent_dim: 32 for images, half the columns of a table, between 1 and 16.
    """
    image = len(shape) == 3
    convolves = image and min(shape[1:]) >= SMALLEST_SIDE
    found = {
        "net": parse(NetOptions, "conv" if convolves else "mlp") if options.net == "auto" else options.net,
        "likelihood": parse(LikelihoodOptions, "gaussian") if options.likelihood == "auto" else options.likelihood,
        "latent_dim": options.latent_dim or (32 if image else max(1, min(16, math.ceil(shape[0] / 2)))),
        "prior": prior if options.prior == "auto" else options.prior,
    }
    return options.model_copy(update=found)
