"""Mahalanobis distance of the posterior mean to the codes of the normals in its condition."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from knowngood.errors import DataError
from knowngood.objectives.base import Batch
from knowngood.scores.base import Score, ScoreResult, wide
from knowngood.vae import ConditionalVAE

FEWEST = 10  # codes for a stratum to have a mean of its own
RIDGE = 1e-6  # of the mean variance: latent dimensions that no item uses must not amplify rounding


class MahalanobisScore(Score):
    """(μ − m_c)ᵀ Σ_c⁻¹ (μ − m_c), squared, for the posterior mean μ of an item in stratum c. It has no map.

    The pooled covariance within strata is shrunk towards a scaled identity, and the covariance of each stratum towards
    the pooled one, both by the weight of Ledoit & Wolf 2004 (J. Multivariate Analysis 88). Strata with fewer than 10
    codes, and stratum −1, use mean and covariance of all codes together.
    """

    @torch.no_grad()
    def fit(self, model: ConditionalVAE, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """{"mean": (S+1, D), "cholesky": (S+1, D, D) lower} in float64; the last row is that of all codes together."""
        codes, strata = [], []
        for batch in batches:
            codes.append(wide(model.encode(batch.x, batch.c).mean))
            strata.append(batch.stratum.to(codes[-1].device))
        if not codes:
            raise DataError("score 'mahalanobis' is fitted to codes of normals; no normals were given")
        mean, covariance = stratum_moments(torch.cat(codes), torch.cat(strata))
        return {"mean": mean, "cholesky": torch.linalg.cholesky(covariance)}

    def score(
        self,
        model: ConditionalVAE,
        state: dict[str, Tensor],
        x: Tensor,
        c: Tensor | None,
        stratum: Tensor,
        *,
        want_map: bool = False,
    ) -> ScoreResult:
        code = wide(model.encode(x, c).mean)
        mean, cholesky = state["mean"].to(code), state["cholesky"].to(code)
        everyone = len(mean) - 1
        stratum = stratum.to(code.device)
        stratum = torch.where((stratum < 0) | (stratum > everyone), everyone, stratum)
        values = torch.empty(len(code), dtype=torch.float64, device=code.device)
        for s in stratum.unique().tolist():
            rows = stratum == s
            white = torch.linalg.solve_triangular(cholesky[s], (code[rows] - mean[s]).t(), upper=False)
            values[rows] = white.square().sum(0)
        return ScoreResult(values, None, {})


def stratum_moments(codes: Tensor, strata: Tensor) -> tuple[Tensor, Tensor]:
    """Means (S+1, D) and positive definite covariances (S+1, D, D) of codes (N, D) by stratum (N,), all codes last."""
    n_strata = int(strata.max()) + 1
    groups = [codes[strata == s] for s in range(n_strata)]
    large = [g for g in groups if len(g) >= FEWEST]
    everyone, total = codes.mean(0), shrunk_covariance(codes - codes.mean(0))
    within = shrunk_covariance(torch.cat([g - g.mean(0) for g in large])) if large else total

    mean = everyone.repeat(n_strata + 1, 1)
    covariance = total.repeat(n_strata + 1, 1, 1)
    for s, group in enumerate(groups):
        if len(group) >= FEWEST:
            mean[s] = group.mean(0)
            covariance[s] = shrunk_covariance(group - mean[s], target=within)
    scale = covariance.diagonal(dim1=1, dim2=2).mean(1)
    floor = (RIDGE * scale).clamp_min(1e-12)[:, None, None]
    return mean, covariance + floor * torch.eye(codes.shape[1], dtype=codes.dtype, device=codes.device)


def shrunk_covariance(centred: Tensor, target: Tensor | None = None) -> Tensor:
    """(1 − λ)·S + λ·T with the λ that minimises the expected squared Frobenius error, T taken as fixed.

    Args:
        centred: (n, D) with mean 0; S is their covariance, divided by n.
        target: T (D, D); default the identity times the mean variance of S.
    """
    n, dims = centred.shape
    sample = centred.t() @ centred / n
    if target is None:
        target = sample.diagonal().mean() * torch.eye(dims, dtype=sample.dtype, device=sample.device)
    distance = (sample - target).square().sum()
    noise = (centred.square().sum(1).square().mean() - sample.square().sum()) / n  # E‖S − Σ‖², estimated
    weight = (noise / distance).clamp(0, 1) if distance > 0 else torch.ones_like(distance)
    return (1 - weight) * sample + weight * target
