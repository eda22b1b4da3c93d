"""The nets of the lineage: of one normal class, and of chest X-rays."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from knowngood.config import EluPool, StridedBatchNorm
from knowngood.models.nets.layers import ConditionBias, Upsample, halvings, image_shape, join

DENSE = 512
WIDTHS = (32, 64, 64, 64)
SLOPES = (0.1, 0.1, 0.2, 0.2)
DROPOUT = 0.1


class EluPoolNet(nn.Module):
    """16-16-pool-32-32-pool-64-64, dense 512; all convolutions 3×3, all activations ELU.

    Made for 28×28; other sizes from 8×8 work the same way.
    """

    def __init__(
        self, options: EluPool, shape: tuple[int, ...], condition_dim: int, latent_dim: int, outputs: int
    ) -> None:
        super().__init__()
        self.options = options
        channels, height, width = image_shape("elu_pool", shape, smallest=8)
        sizes = halvings((height, width), 2)
        self.inner = (64, *sizes[-1])
        flat = 64 * sizes[-1][0] * sizes[-1][1]
        self.first = nn.Conv2d(channels, 16, 3, padding=1)
        self.condition = ConditionBias(condition_dim, 16)
        self.down = nn.Sequential(
            *(nn.ELU(), *_conv(16, 16), nn.MaxPool2d(2, ceil_mode=True)),
            *(*_conv(16, 32), *_conv(32, 32), nn.MaxPool2d(2, ceil_mode=True)),
            *(*_conv(32, 64), *_conv(64, 64)),
        )
        self.to_latent = nn.Sequential(
            nn.Linear(flat + condition_dim, DENSE), nn.ELU(), nn.Linear(DENSE, 2 * latent_dim)
        )
        self.from_latent = nn.Sequential(
            nn.Linear(latent_dim + condition_dim, DENSE), nn.ELU(), nn.Linear(DENSE, flat), nn.ELU()
        )
        self.up = nn.Sequential(
            *(*_conv(64, 64), *_conv(64, 64), Upsample(sizes[1])),
            *(*_conv(64, 32), *_conv(32, 32), Upsample(sizes[0])),
            *(*_conv(32, 16), *_conv(16, 16), nn.Conv2d(16, outputs * channels, 3, padding=1)),
        )

    def encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        h = self.condition(self.first(x), c)
        return self.to_latent(join(self.down(h).flatten(1), c))

    def decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.up(self.from_latent(join(z, c)).unflatten(1, self.inner))


def _conv(before: int, after: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(before, after, 3, padding=1), nn.ELU()


class StridedBatchNormNet(nn.Module):
    """Strided convolutions 32-64-64-64 with batch norm, LeakyReLU and dropout.

    Made for 3×64×64, latent 200; other sizes from 16×16 work the same way.
    """

    def __init__(
        self, options: StridedBatchNorm, shape: tuple[int, ...], condition_dim: int, latent_dim: int, outputs: int
    ) -> None:
        super().__init__()
        self.options = options
        channels, height, width = image_shape("strided_batch_norm", shape, smallest=16)
        sizes = halvings((height, width), len(WIDTHS))
        self.inner = (WIDTHS[-1], *sizes[-1])
        flat = WIDTHS[-1] * sizes[-1][0] * sizes[-1][1]
        self.stem = nn.Conv2d(channels, WIDTHS[0], 3, stride=2, padding=1)
        self.condition = ConditionBias(condition_dim, WIDTHS[0])
        down: list[nn.Module] = _finish(WIDTHS[0], SLOPES[0])
        for before, after, slope in zip(WIDTHS, WIDTHS[1:], SLOPES[1:], strict=False):
            down += [nn.Conv2d(before, after, 3, stride=2, padding=1), *_finish(after, slope)]
        self.down = nn.Sequential(*down)
        self.to_latent = nn.Linear(flat + condition_dim, 2 * latent_dim)
        # For 64×64 this is the lineage's one dense layer of 1024, read as 64 maps of 4×4.
        self.from_latent = nn.Sequential(nn.Linear(latent_dim + condition_dim, flat), nn.LeakyReLU(0.2))
        up: list[nn.Module] = []
        for level in range(len(WIDTHS) - 1, 0, -1):
            up += [Upsample(sizes[level]), nn.Conv2d(WIDTHS[level], WIDTHS[level - 1], 3, padding=1)]
            up += _finish(WIDTHS[level - 1], SLOPES[level])
        up += [Upsample(sizes[0]), nn.Conv2d(WIDTHS[0], outputs * channels, 3, padding=1)]
        self.up = nn.Sequential(*up)

    def encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        h = self.condition(self.stem(x), c)
        return self.to_latent(join(self.down(h).flatten(1), c))

    def decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.up(self.from_latent(join(z, c)).unflatten(1, self.inner))


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that takes a batch of one value a channel, which has no variance, by the running mean and variance.

    A single image of 16×16 has one value a channel after four stages.
    """

    def forward(self, h: Tensor) -> Tensor:
        if self.training and h.numel() == h.shape[1]:
            return F.batch_norm(h, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(h)


def _finish(channels: int, slope: float) -> list[nn.Module]:
    return [BatchNorm(channels), nn.LeakyReLU(slope), nn.Dropout(DROPOUT)]
