"""The second player of FactorVAE: a net that tells draws of q(z) from draws of Π_d q(z_d), and so knows their ratio.

At its best its output is log q(z) − Σ_d log q(z_d), whose mean under q(z) is the total correlation
(arXiv:1802.05983, eq. 3 and App. D).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knowngood.objectives.base import Batch
from knowngood.vae import ConditionalVAE, full_precision, full_precision_region

SLOPE = 0.2
BETAS = (0.5, 0.9)


class Discriminator(nn.Module):
    """Log odds that z (B, D) comes from the joint and not from the product of its marginals, (B,).

    The one output stands for the difference of the paper's two logits. The first and the last layer keep full
    precision where the ones between run in bf16: a close dependence of two dimensions, and a small difference of log
    odds, would be rounded away.

    Args:
        latent_dim: D.
        layers: hidden layers, LeakyReLU(.2) after each.
        width: of each hidden layer.
    """

    def __init__(self, latent_dim: int, layers: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(latent_dim, width)
        self.between = nn.ModuleList(nn.Linear(width, width) for _ in range(layers - 1))
        self.last = nn.Linear(width, 1)
        for layer in (self.first, *self.between):
            nn.init.kaiming_normal_(layer.weight, a=SLOPE)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, z: Tensor) -> Tensor:
        with full_precision_region(z):
            h = F.leaky_relu(self.first(z), SLOPE)
        for layer in self.between:
            h = F.leaky_relu(layer(h), SLOPE)
        with full_precision_region(z):
            return self.last(full_precision(h)).squeeze(1)

    def frozen(self, z: Tensor) -> Tensor:
        """The same values, with gradient for z and none for the discriminator."""
        constants = {name: parameter.detach() for name, parameter in self.named_parameters()}
        return torch.func.functional_call(self, constants, (z,))

    def loss(self, joint: Tensor, product: Tensor) -> Tensor:
        """Cross-entropy of telling `joint` from `product`, a scalar; log 2 for one that cannot tell.

        No gradient reaches either of the two.
        """
        right = F.softplus(-self(joint.detach())) + F.softplus(self(product.detach()))
        return 0.5 * right.mean()


def permute_dimensions(z: Tensor, generator: torch.Generator) -> Tensor:
    """z (B, D) with each dimension shuffled over the batch by itself: a draw of Π_d q(z_d) from draws of q(z)."""
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
