"""Fully connected net: the condition is concatenated to the input and to the latent."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from knowngood.config import MLP
from knowngood.models.nets.layers import join


class MLPNet(nn.Module):
    def __init__(self, options: MLP, shape: tuple[int, ...], condition_dim: int, latent_dim: int, outputs: int) -> None:
        super().__init__()
        self.options, self.noise = options, options.noise
        self.output_shape = (outputs * shape[0], *shape[1:])
        widths = (math.prod(shape) + condition_dim, *options.hidden)
        self.encoder = nn.Sequential(*_layers(widths), nn.Linear(widths[-1], 2 * latent_dim))
        widths = (latent_dim + condition_dim, *reversed(options.hidden))
        self.decoder = nn.Sequential(*_layers(widths), nn.Linear(widths[-1], math.prod(self.output_shape)))

    def encode(self, x: Tensor, c: Tensor | None) -> Tensor:
        x = x.flatten(1)
        if self.noise and self.training:  # keeps it from copying its input (Vincent et al. 2008)
            x = x + self.noise * torch.randn_like(x)
        return self.encoder(join(x, c))

    def decode(self, z: Tensor, c: Tensor | None) -> Tensor:
        return self.decoder(join(z, c)).unflatten(1, self.output_shape)


def _layers(widths: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return layers
