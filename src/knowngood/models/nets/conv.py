"""Residual convolutional net for any size from 8×8 up, square or not, of any channel count."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from knowngood.config import Conv
from knowngood.models.nets.layers import ConditionBias, Upsample, Upward, halvings, image_shape, join

WIDTHS = (  # by the number of stages; maps of large images are many, so they get few channels
    (32,),
    (32, 64),
    (32, 64, 64),
    (16, 32, 64, 96),
    (8, 16, 32, 64, 96),
    (8, 16, 32, 64, 96, 128),
)
LARGEST_RESIDUAL = 16


class ConvNet(nn.Module):
    """Stage: stride-2 3×3 convolution, then a residual block; the decoder mirrors it with nearest upsampling.

    Without `channels`, stages halve the image until its shorter side is at most 7. Maps with a shorter side above 16
    have no residual block: it would cost more than all the rest.
    """

    def __init__(
        self, options: Conv, shape: tuple[int, ...], condition_dim: int, latent_dim: int, outputs: int
    ) -> None:
        super().__init__()
        self.options = options
        channels, height, width = image_shape("conv", shape, smallest=8)
        widths = options.channels or _widths(min(height, width))
        sizes = halvings((height, width), len(widths))
        self.inner = (widths[-1], *sizes[-1])
        flat = widths[-1] * sizes[-1][0] * sizes[-1][1]

        self.stem = nn.Conv2d(channels, widths[0], 3, stride=2, padding=1)
        self.condition = ConditionBias(condition_dim, widths[0])
        blocks = [min(size) <= LARGEST_RESIDUAL for size in sizes[1:]]
        down: list[nn.Module] = [nn.SiLU(), *_residual(widths[0], blocks[0])]
        for (before, after), block in zip(pairwise(widths), blocks[1:], strict=True):
            down += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU(), *_residual(after, block)]
        self.down = nn.Sequential(*down)
        self.to_latent = nn.Sequential(
            nn.Linear(flat + condition_dim, options.dense), nn.SiLU(), nn.Linear(options.dense, 2 * latent_dim)
        )

        self.from_latent = nn.Sequential(
            nn.Linear(latent_dim + condition_dim, options.dense), nn.SiLU(), nn.Linear(options.dense, flat), nn.SiLU()
        )
        up: list[nn.Module] = []
        for level in range(len(widths) - 1, 0, -1):
            up += [*_residual(widths[level], blocks[level]), Upsample(sizes[level])]
            up += [nn.Conv2d(widths[level], widths[level - 1], 3, padding=1), nn.SiLU()]
        up += [*_residual(widths[0], blocks[0]), Upsample(sizes[0])]
        up += [nn.Conv2d(widths[0], outputs * channels, 3, padding=1)]
        self.up = Upward(*up)

    def encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        h = self.condition(self.stem(x), c)  # (B, widths[0], ⌈H/2⌉, ⌈W/2⌉)
        return self.to_latent(join(self.down(h).flatten(1), c))

    def decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.up(self.from_latent(join(z, c)).unflatten(1, self.inner))


class Residual(nn.Module):
    """h + conv(SiLU(conv(h))); the last convolution starts at zero, so each block starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor) -> Tensor:
        return h + self.last(F.silu(self.first(h)))


def _residual(channels: int, wanted: bool) -> list[nn.Module]:
    return [Residual(channels)] if wanted else []


def _widths(shorter_side: int) -> tuple[int, ...]:
    stages = 1
    while stages < len(WIDTHS) and halvings((shorter_side, shorter_side), stages)[-1][0] > 7:
        stages += 1
    return WIDTHS[stages - 1]
