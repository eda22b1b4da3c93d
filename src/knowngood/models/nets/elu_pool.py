"""The one-normal-class convolutional VAE of the lineage: 16-16-pool-32-32-pool-64-64, dense 512."""

from __future__ import annotations

from torch import Tensor, nn

from knowngood.config import EluPool
from knowngood.models.nets.layers import ConditionBias, Upsample, halvings, image_shape, join

DENSE = 512


class EluPoolNet(nn.Module):
    """Made for 28×28; other sizes from 8×8 work the same way. All convolutions 3×3, all activations ELU."""

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
