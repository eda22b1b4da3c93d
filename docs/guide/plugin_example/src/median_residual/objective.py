"""A VAE whose KL term is weighted by min(1, step / (share · steps))."""

from torch import Tensor

from knowngood.models.base import Batch
from knowngood.models.objectives import Context, Objective, elbo_terms
from knowngood.models.vae import ConditionalVAE


class AnnealedObjective(Objective):
    """rec + w·KL in nats, w from 0 to 1; the loss is a scalar, the terms are (B,)."""

    conditional = False

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        elbo = elbo_terms(model, batch, ctx)
        weight = min(1.0, ctx.step / (self.options.share * ctx.total_steps))
        loss = (elbo.reconstruction + weight * elbo.kl).mean()
        return {"model": loss}, {"reconstruction": elbo.reconstruction, "kl": elbo.kl}
