"""Means and covariances of recent codes, for each Mondrian group (stratum)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knowngood.models.distributions import full_precision_region


class RunningMoments(nn.Module):
    """A mean for each stratum, and a covariance for each slot, that of its strata together, each about its own mean.

    They are those of all values so far, and forget what is older than `memory` values.

    Args:
        slot: (S,) int64, the slot of each stratum, from 0.
    """

    slot: Tensor
    met: Tensor  # (S,) values of each stratum so far
    mean: Tensor  # (S, W)
    seen: Tensor  # (K,) values in each slot so far
    covariance: Tensor  # (K, W, W)

    def __init__(self, width: int, slot: Tensor, memory: int) -> None:
        super().__init__()
        self.memory, slots = memory, int(slot.max()) + 1
        self.register_buffer("slot", slot)
        self.register_buffer("met", torch.zeros(len(slot)))
        self.register_buffer("mean", torch.zeros(len(slot), width))
        self.register_buffer("seen", torch.zeros(slots))
        self.register_buffer("covariance", torch.zeros(slots, width, width))

    @torch.no_grad()
    def update(self, values: Tensor, stratum: Tensor, of: Tensor) -> None:
        """Take in values (B, W), those where `of` (B,) is 1 and not 0."""
        with full_precision_region(values):
            before = (values - self.mean[stratum]) * of[:, None]
            n, rate = self._share(self.met, stratum, of)
            step = torch.zeros_like(self.mean).index_add_(0, stratum, before) / n.clamp(min=1)[:, None]
            self.mean += rate[:, None] * step
            own = self.slot[stratum]
            n, rate = self._share(self.seen, own, of)
            of_slot = F.one_hot(own, len(n)).t()[:, :, None] * before  # (K, B, W)
            products = of_slot.mT @ (values - self.mean[stratum])
            self.covariance.lerp_(products / n.clamp(min=1)[:, None, None], rate[:, None, None])

    def _share(self, so_far: Tensor, group: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
        """Values of each group in the batch, and their share of its running mean; `so_far` counts them."""
        n = torch.zeros_like(so_far).index_add_(0, group, of)
        so_far += n
        return n, (n / so_far.clamp(1, self.memory)).clamp(max=1)
