"""p(x|z,c): reads the decoder's output as a distribution over x, value by value.

A likelihood has `outputs` (decoder values for each value of x), `log_prob(x, params) → (B, *shape)` in nats and
`mean(params) → (B, *shape)`. Sums over the pixels of an image are the caller's.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knowngood.config import Bernoulli, Gaussian
from knowngood.models.distributions import LOG_2PI

SMALLEST_SIGMA = 0.01
SPEED = 10.0


class BernoulliLikelihood(nn.Module):
    """−cross-entropy of x in [0, 1] under logits. For 0 < x < 1 it is no normalised density; rankings stay sound."""

    outputs = 1

    def __init__(self, options: Bernoulli, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.options = options

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(params, x.expand_as(params), reduction="none")

    def mean(self, params: Tensor) -> Tensor:
        return params.sigmoid()


class GaussianLikelihood(nn.Module):
    """N(x; μ, σ²), σ fixed or learned. A learned σ stays above .01: pixels that never vary keep a finite density.

    `squash` keeps μ within (0, 1) by a sigmoid.
    """

    def __init__(self, options: Gaussian, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.options = options
        self.outputs = 2 if options.sigma == "input" else 1
        self.squash = options.squash
        self.fixed = math.log(options.sigma) if isinstance(options.sigma, float) else None
        self.raw: nn.Parameter | None = None
        if options.sigma in ("scalar", "pixel"):
            start = torch.tensor(math.log(0.2) / SPEED)
            self.raw = nn.Parameter(start.expand(shape if options.sigma == "pixel" else (1,) * len(shape)).clone())

    def log_sigma(self, params: Tensor) -> Tensor:
        """log σ, broadcasting against (B, *shape)."""
        if self.fixed is not None:
            return params.new_full((1,), self.fixed)
        # One number learns slowly beside a whole net: SPEED multiplies its learning rate.
        raw = params.chunk(2, dim=1)[1] if self.raw is None else self.raw * SPEED
        floor = math.log(SMALLEST_SIGMA)
        return floor + F.softplus(raw - floor)

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        log_sigma = self.log_sigma(params)
        squares = ((x - self.mean(params)) * (-log_sigma).exp()).square()
        return squares.mul_(-0.5).sub_(log_sigma + 0.5 * LOG_2PI)  # in place: pixels are many, passes over them cost

    def mean(self, params: Tensor) -> Tensor:
        mean = params.chunk(2, dim=1)[0] if self.outputs == 2 else params
        return mean.sigmoid() if self.squash else mean
