"""The second player of FactorVAE: a classifier of draws of q(z) against draws of Π_d q(z_d), and so their ratio.

At its best its output is log q(z) − Σ_d log q(z_d), whose mean under q(z) is the total correlation
(arXiv:1802.05983, the density-ratio trick).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from knowngood.models.base import Batch
from knowngood.models.distributions import full_precision, full_precision_region
from knowngood.models.vae import ConditionalVAE

SLOPE = 0.2
BETAS = (0.5, 0.9)


class Discriminator(nn.Module):
    """Log odds that z (B, D) comes from the joint and not from the product of its marginals, (B,).

    The one output stands for the difference of the paper's two logits. The first and the last layer keep full
    precision where the ones between run in bf16: a close dependence of two dimensions, and a small difference of log
    odds, would be rounded away.

    There are `layers` hidden layers of `width`, LeakyReLU(.2) after each.
    """

    def __init__(self, latent_dim: int, layers: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(latent_dim, width)
        self.between = nn.ModuleList(nn.Linear(width, width) for _ in range(layers - 1))
        self.last = nn.Linear(width, 1)
        for layer in (self.first, *self.between):
            nn.init.kaiming_normal_(layer.weight, a=SLOPE)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    @property
    def layers(self) -> list[nn.Linear]:
        return [self.first, *self.between, self.last]  # type: ignore[list-item]

    def forward(self, z: Tensor, passed: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """`passed` is given each layer's input and output."""
        h = z
        for layer in self.layers:
            exact = layer is self.first or layer is self.last
            with full_precision_region(z) if exact else nullcontext():
                given = full_precision(h) if exact else h
                output = layer(given)
            if passed is not None:
                passed.append((given, output))
            h = F.leaky_relu(output, SLOPE)
        return output.squeeze(1)

    def odds_and_loss(
        self,
        joint: Tensor,
        product: Tensor,
        base: tuple[Tensor | float, Tensor | float] = (0.0, 0.0),
        of: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Log odds of `joint`, (B,), with gradient for `joint` and none for the discriminator; and its own loss.

        That is the cross-entropy of `joint` against `product`, a scalar, without gradient for either of the two; log 2
        for a discriminator that cannot separate them.

        Args:
            base: log odds (B,) of both that are known already, without gradient; it learns what is to be added.
            of: (B,) bool, the items that it learns from; default all.
        """
        for_joint, for_weights = self._both_ways(joint) if torch.is_grad_enabled() else 2 * (self(joint),)
        wrong = F.softplus(-for_weights - base[0]) + F.softplus(self(product.detach()) + base[1])
        return for_joint, 0.5 * (wrong.mean() if of is None else (wrong * of).sum() / of.sum().clamp(min=1))

    def _both_ways(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The log odds of z twice: with gradient for z alone, and for the weights alone.

        One pass forward and one backward, from a copy of z and cut off from what either player learns by, serve both.
        """
        copy, passed = z.detach().requires_grad_(), []
        odds = self(copy, passed)
        inputs, outputs = zip(*passed, strict=True)
        with full_precision_region(z):
            slope, *slopes = torch.autograd.grad(odds.sum(), [copy, *outputs])
        odds = odds.detach()
        parameters = [p for layer in self.layers for p in (layer.weight, layer.bias)]
        for_weights = _ForWeights.apply(odds, [h.detach() for h in inputs], slopes, *parameters)
        return odds + ((z - copy.detach()) * slope).sum(1), for_weights


class _ForWeights(torch.autograd.Function):
    """`odds` (B,) as a function of weights and biases, given each layer's input and ∂odds/∂output."""

    @staticmethod
    def forward(ctx: Any, odds: Tensor, inputs: list[Tensor], slopes: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs, *slopes)
        ctx.dtype = parameters[0].dtype
        return odds.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        half, found = len(ctx.saved_tensors) // 2, []
        with full_precision_region(gradient):
            for h, slope in zip(ctx.saved_tensors[:half], ctx.saved_tensors[half:], strict=True):
                of_output = slope * gradient[:, None].to(slope.dtype)
                found += [of_output.t() @ h.to(slope.dtype), of_output.sum(0)]
        return None, None, None, *(g.to(ctx.dtype) for g in found)


def permute_dimensions(z: Tensor, generator: torch.Generator) -> Tensor:
    """z (B, D), each dimension shuffled over the batch by itself: Π_d q(z_d) from q(z). arXiv:1802.05983, alg. 1."""
    keys = torch.rand(z.shape, generator=generator, device=z.device)
    return z.gather(0, keys.argsort(0))


@torch.no_grad()
def product_draw(model: ConditionalVAE, batch: Batch, generator: torch.Generator) -> Tensor:
    """Draws of Π_d q(z_d), (B, D), by way of q(z|x) for the items of `batch`.

    Under autocast, take the loss's own draw first: a net's first use there fixes whether its cast weights carry
    gradient.
    """
    q = model.encode(batch.x, batch.c)
    z = q.rsample(torch.empty_like(q.mean).normal_(generator=generator))
    return permute_dimensions(z, generator)
