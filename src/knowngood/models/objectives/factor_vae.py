"""FactorVAE: the VAE with a discriminator's estimate of the total correlation as penalty."""

from __future__ import annotations

from torch import Tensor, nn

from knowngood.models.base import Batch
from knowngood.models.objectives.base import Context, Objective, elbo_terms
from knowngood.models.objectives.discriminator import BETAS, Discriminator, product_draw
from knowngood.models.vae import ConditionalVAE


class FactorVAEObjective(Objective):
    """rec + KL + γ·E[log odds of "joint"](z), and for the discriminator its cross-entropy. arXiv:1802.05983, eq. 2.

    As in its alg. 2, the discriminator learns from the z of the batch against those of an independent second batch,
    whose dimensions are permuted separately. The model gets gradient through z, never through the discriminator's
    weights, and the discriminator none through z.
    """

    conditional = False
    second_batch = True
    discriminator: Discriminator  # made by `prepare`

    def prepare(self, model: ConditionalVAE) -> None:
        if not hasattr(self, "discriminator"):
            like = next(model.parameters())
            layers, width = self.options.discriminator_layers, self.options.discriminator_width
            self.discriminator = Discriminator(model.latent_dim, layers, width).to(like)

    def players(self, model: ConditionalVAE) -> dict[str, list[nn.Parameter]]:
        return {"model": list(model.parameters()), "discriminator": list(self.discriminator.parameters())}

    def betas(self, player: str) -> tuple[float, float] | None:
        return BETAS if player == "discriminator" else super().betas(player)

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        elbo = elbo_terms(model, batch, ctx)
        tc, against = self.discriminator.odds_and_loss(elbo.z, self.product_draw(model, ctx))
        loss = (elbo.reconstruction + elbo.kl + self.options.gamma * tc).mean()
        terms = {"reconstruction": elbo.reconstruction, "kl": elbo.kl, "tc": tc}
        return {"model": loss, "discriminator": against}, terms

    def product_draw(self, model: ConditionalVAE, ctx: Context) -> Tensor:
        """Draws of Π_d q(z_d) from the second batch, (B, D)."""
        if ctx.second is None:
            raise ValueError(f"{type(self).__name__} learns from a second, independent batch; give Context.second")
        return product_draw(model, ctx.second, ctx.generator)
