"""Normal distributions with independent dimensions, and the precision in which densities are computed."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


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


def full_precision(t: Tensor) -> Tensor:
    """Half-precision activations as float32: likelihoods, KLs and densities are never computed in bf16."""
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t


def full_precision_region(t: Tensor) -> torch.autocast:
    """A context in which matrix products keep their inputs' precision on the device of `t`."""
    return torch.autocast(t.device.type, enabled=False)


def wide(t: Tensor) -> Tensor:
    """As float64, moved to the CPU where the device has none (Apple's)."""
    return t.cpu().double() if t.device.type == "mps" else t.double()
