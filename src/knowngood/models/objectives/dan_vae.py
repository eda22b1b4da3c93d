"""DAn-VAE: known nuisance factors have dimensions of their own, so that they do not raise the anomaly score."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knowngood.config import DANVAE
from knowngood.errors import SettingsError
from knowngood.models.base import Batch
from knowngood.models.distributions import DiagonalGaussian, full_precision_region
from knowngood.models.objectives.base import Context, Objective, elbo_terms, shifted, stopped_reconstruction
from knowngood.models.vae import ConditionalVAE

SPEED = 10.0  # what is one affine map learns slowly beside a whole net: this multiplies its learning rate
# The default of a: reconstruction is a sum over values, so the weight of what z_n must hold grows with their number.
WEIGHT_PER_VALUE, LEAST_WEIGHT = 0.25, 10.0
# Of the source: a without the share of labelled items, and 50 of 200 epochs.
SOURCE_WEIGHT, SOURCE_RISE = 3500.0, 0.25
SMALLEST = 1e-12  # under a root, whose slope at 0 is infinite


class DANVAEObjective(Objective):
    """rec + β_a·KL(q(z_a|x) ‖ r(z_a)) + β_n·KL(q(z_n|x) ‖ p(z_n|y)) + a·|y − ŷ(z_n)|², the mean over a batch.

    z_n are the last `nuisance_dim` dimensions of z, z_a the others, and r the model's prior, N(0, I) unless it
    is learned. p(z_n|y) = N(W y + b, diag exp s) and the head ŷ = V z_n + d are learned and start at N(0, I) and 0.
    A row of y with a NaN is unknown: such an item has r(z_n) in place of p(z_n|y) and no head term, so that without any
    labels and with β_a = β_n = 1 this is the VAE. Labels of nuisances on part of a latent: DIVA, arXiv:1905.10427.

    The head reads the draw of z_n, not its mean: the error is E_q[−log q(y|z_n)] up to scale, and an encoder that knows
    y but leaves noise in z_n pays for it.
    """

    score = "split_elbo"
    learns_from_anomalies = True

    nuisance_mean: nn.Linear  # y (B, K) → W y + b (B, n); made by `prepare`, like the next two
    nuisance_log_var: nn.Parameter  # s (n,)
    head: nn.Linear  # z_n (B, n) → ŷ (B, K)

    def __init__(self, options: DANVAE) -> None:
        super().__init__(options)
        self.nuisance_dim = options.nuisance_dim
        self.factors = options.factors
        self.factor_width = sum(2 if name == "rotation" else 1 for name in options.factors)
        self.labelled_share = options.labelled_share

    def prepare(self, model: ConditionalVAE) -> None:
        if model.nuisance_dim != self.nuisance_dim:
            raise SettingsError(
                f"dan_vae: the model keeps {model.nuisance_dim} of its {model.latent_dim} dimensions for nuisance "
                f"factors, the objective {self.nuisance_dim}; build the model with nuisance_dim={self.nuisance_dim}"
            )
        given = self.options.head_weight
        self.head_weight = self.default_weight(model) / self.labelled_share if given is None else given
        if not hasattr(self, "head"):
            like = next(model.parameters())
            self.head = nn.Linear(self.nuisance_dim, self.factor_width).to(like)
            for layer in (*self.make_nuisance_prior(like), self.head):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def default_weight(self, model: ConditionalVAE) -> float:
        """a, if all normal items show their factors."""
        return max(LEAST_WEIGHT, WEIGHT_PER_VALUE * math.prod(model.shape))

    def make_nuisance_prior(self, like: Tensor) -> list[nn.Linear]:
        """The parameters of p(z_n|y); returns the layers that are to start at 0."""
        self.nuisance_mean = nn.Linear(self.factor_width, self.nuisance_dim).to(like)
        self.nuisance_log_var = nn.Parameter(like.new_zeros(self.nuisance_dim))
        return [self.nuisance_mean]

    def nuisance_prior(self, y: Tensor) -> DiagonalGaussian:
        """p(z_n|y), (B, n), of factors (B, K)."""
        return DiagonalGaussian(SPEED * self.nuisance_mean(y), SPEED * self.nuisance_log_var.expand(len(y), -1))

    def guess(self, z: Tensor) -> Tensor:
        """ŷ (B, K) of z_n (B, n)."""
        return SPEED * self.head(z)

    def players(self, model: ConditionalVAE) -> dict[str, list[nn.Parameter]]:
        return {"model": [*model.parameters(), *self.parameters()]}

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        elbo = elbo_terms(model, batch, ctx)
        of_anomaly, _ = split_latent(elbo.posterior, self.nuisance_dim)
        prior, _ = split_latent(model.prior(batch.c, like=elbo.z), self.nuisance_dim)
        anomaly_kl = of_anomaly.kl(prior).sum(1)
        nuisance_kl, error = self.nuisance_terms(model, batch, elbo.posterior, elbo.z)
        terms = {"reconstruction": elbo.reconstruction, "kl": anomaly_kl + nuisance_kl}
        terms |= {"anomaly_kl": anomaly_kl, "nuisance_kl": nuisance_kl, "factor_error": error}
        loss = self.total(elbo.reconstruction, anomaly_kl, nuisance_kl, error, known_rows(batch), ctx)
        return {"model": loss}, terms

    def anomaly_loss(self, model: ConditionalVAE, anomalies: Batch, ctx: Context, shift: float) -> Tensor:
        """rec + β_a·KL(q(z_a|x) ‖ N(shift·1, I)) and the terms of z_n as for normal items, the mean over anomalies.

        Decoder and likelihood are constants. A prior of their own for labelled anomalies: arXiv:1911.04971.
        """
        q = model.encode(anomalies.x, anomalies.c)
        z = q.rsample(torch.empty_like(q.mean).normal_(generator=ctx.generator))
        reconstruction = stopped_reconstruction(model, anomalies, z)
        of_anomaly, _ = split_latent(q, self.nuisance_dim)
        anomaly_kl = of_anomaly.kl(shifted(of_anomaly, shift)).sum(1)
        nuisance = self.nuisance_terms(model, anomalies, q, z)
        return self.total(reconstruction, anomaly_kl, *nuisance, known_rows(anomalies), ctx)

    def kept_state(self) -> dict[str, Tensor]:
        return self.state_dict()

    def total(
        self,
        reconstruction: Tensor,
        anomaly_kl: Tensor,
        nuisance_kl: Tensor,
        error: Tensor,
        known: Tensor,
        ctx: Context,
    ) -> Tensor:
        """The weighted sum of these terms (B,), the mean over items; `known` (B,) are those that show their factors."""
        given = self.options
        of_codes = given.beta_a * anomaly_kl + given.beta_n * nuisance_kl
        return (reconstruction + of_codes + self.head_weight * error).mean()

    def nuisance_terms(
        self, model: ConditionalVAE, batch: Batch, q: DiagonalGaussian, z: Tensor
    ) -> tuple[Tensor, Tensor]:
        """KL of q(z_n|x) to p(z_n|y) and |y − ŷ|², (B,) each; where y is unknown, KL to r(z_n) and 0."""
        _, of_nuisance = split_latent(q, self.nuisance_dim)
        _, prior = split_latent(model.prior(batch.c, like=q.mean), self.nuisance_dim)
        kl = of_nuisance.kl(prior).sum(1)
        if batch.factors is None:
            return kl, torch.zeros_like(kl)
        known = known_rows(batch)
        y = torch.where(known[:, None], batch.factors, 0).to(z.dtype)  # (B, K)
        with full_precision_region(z):
            given_y = self.nuisance_prior(y)
            error = (self.guess(z[:, -self.nuisance_dim :]) - y).square().sum(1)
        return torch.where(known, of_nuisance.kl(given_y).sum(1), kl), torch.where(known, error, 0)


class DANVAESourceObjective(DANVAEObjective):
    """rec + w_t·(β_a·KL(q(z_a|x) ‖ r(z_a)) + β_n·KL(q(z_n|x) ‖ p(z_n|y))) + a·share·RMSE(y, ŷ(z_n)), the batch mean.

    As https://github.com/jcrombouts/DAn-VAE has it. q(z_a|x) and q(z_n|x) are two nets. p(z_n|y) = N(m(h), diag
    exp s(h)), h = ReLU(W y + b), m and s affine. ŷ = sigmoid(V ReLU(z_n) + d) and y lies in [0, 1]; the root is of the
    mean over the factors of all labelled items of the batch. Their share stands before it, since in the source a batch
    has labelled items only, or none, which pay nothing. w_t rises linearly to 1 over the first quarter of the steps.
    """

    apart = True
    unit_factors = True

    hidden: nn.Linear  # y (B, K) → before the ReLU (B, n); made by `prepare`
    nuisance_spread: nn.Linear  # h (B, n) → s (B, n)

    def default_weight(self, model: ConditionalVAE) -> float:
        return SOURCE_WEIGHT

    def make_nuisance_prior(self, like: Tensor) -> list[nn.Linear]:
        self.hidden = nn.Linear(self.factor_width, self.nuisance_dim).to(like)
        size = self.nuisance_dim
        self.nuisance_mean, self.nuisance_spread = (nn.Linear(size, size).to(like) for _ in range(2))
        return [self.nuisance_mean, self.nuisance_spread]

    def nuisance_prior(self, y: Tensor) -> DiagonalGaussian:
        h = F.relu(self.hidden(y))
        return DiagonalGaussian(self.nuisance_mean(h), self.nuisance_spread(h))

    def guess(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.head(F.relu(z)))

    def total(
        self,
        reconstruction: Tensor,
        anomaly_kl: Tensor,
        nuisance_kl: Tensor,
        error: Tensor,
        known: Tensor,
        ctx: Context,
    ) -> Tensor:
        given, risen = self.options, min(1.0, (ctx.step + 1) / max(1.0, SOURCE_RISE * ctx.total_steps))
        of_codes = risen * (given.beta_a * anomaly_kl + given.beta_n * nuisance_kl)
        mean_square = error.sum() / (known.sum() * self.factor_width).clamp(min=1)
        of_head = self.head_weight * known.to(error.dtype).mean() * (mean_square + SMALLEST).sqrt()
        return (reconstruction + of_codes).mean() + of_head


def dan_vae(options: DANVAE) -> DANVAEObjective:
    """The objective of these options, by their variant."""
    return (DANVAESourceObjective if options.variant == "source" else DANVAEObjective)(options)


def known_rows(batch: Batch) -> Tensor:
    """(B,) whether an item shows all its factors."""
    if batch.factors is None:
        return torch.zeros(len(batch.x), dtype=torch.bool, device=batch.x.device)
    return batch.factors.isnan().any(1).logical_not()


def split_latent(gaussian: DiagonalGaussian, nuisance_dim: int) -> tuple[DiagonalGaussian, DiagonalGaussian]:
    """The distributions of z_a (B, D − n) and z_n (B, n), the last n ≥ 1 dimensions."""
    at = gaussian.mean.shape[1] - nuisance_dim
    means, log_vars = (t.tensor_split([at], dim=1) for t in gaussian)
    return DiagonalGaussian(means[0], log_vars[0]), DiagonalGaussian(means[1], log_vars[1])
