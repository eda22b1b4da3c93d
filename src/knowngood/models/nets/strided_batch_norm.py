"""The chest X-ray VAE of the lineage: strided convolutions 32-64-64-64 with batch norm, LeakyReLU and dropout."""

from __future__ import annotations

from torch import Tensor, nn

from knowngood.config import StridedBatchNorm
from knowngood.models.nets.layers import ConditionBias, Upsample, halvings, image_shape, join

WIDTHS = (32, 64, 64, 64)
SLOPES = (0.1, 0.1, 0.2, 0.2)
DROPOUT = 0.1


class StridedBatchNormNet(nn.Module):
    """Made for 3×64×64, latent 200; other sizes from 16×16 work the same way."""

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


def _finish(channels: int, slope: float) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.LeakyReLU(slope), nn.Dropout(DROPOUT)]
