"""Mahalanobis distance of an item's code to the codes of the normals in its condition."""

from __future__ import annotations

import copy

import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from knowngood.errors import DataError
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Batches, Condition, Score, ScoreResult, State, wide
from knowngood.scores.codes import check_codes, codes

FEWEST = 10  # codes for a stratum to have a mean of its own
RIDGE = 1e-6  # of the mean variance: latent dimensions that no item uses must not amplify rounding


class MahalanobisScore(Score):
    """d²_c = (v − m_c)ᵀ Σ_c⁻¹ (v − m_c) of the code v of an item in stratum c. It has no map.

    v is the posterior mean (`latent`) or the HOG of an image (`hog`).

    The pooled covariance within strata is shrunk towards a scaled identity, and the covariance of each stratum towards
    the pooled one, both by the weight of Ledoit & Wolf 2004 (J. Multivariate Analysis 88). Strata with fewer than 10
    codes, and stratum −1, use mean and covariance of all codes together.

    With `relative` it is d²_c − d², d² the distance to mean and covariance of all codes (arXiv:2106.09022). Items of
    strata without moments of their own take the smallest over those that have; with fewer than two such it is d²_c.
    """

    def check(self, model: ConditionalVAE) -> None:
        check_codes(model, self.options.of, self.options.name)

    def codes(self, model: ConditionalVAE, x: Tensor, c: Condition) -> Tensor:
        """v of items x (B, *shape): (B, D) float64. The encoder runs in float64: codes may vary by little."""
        if self.options.of != "latent":
            return wide(codes(model, x, c, self.options.of))
        x, c = wide(x), None if c is None else wide(c)
        return codes(copy.deepcopy(model).to(x.device, torch.float64), x, c, "latent")

    @torch.no_grad()
    def fit(self, model: ConditionalVAE, batches: Batches) -> State:
        """{"mean": (S+1, D), "cholesky": (S+1, D, D) lower} in float64, the last row that of all codes together.

        "own" (S+1,) says of which strata they are the stratum's own.
        """
        rows, strata = [], []
        for batch in batches:
            rows.append(self.codes(model, batch.x, batch.c))
            strata.append(batch.stratum.to(rows[-1].device))
        if not rows:
            raise DataError("score 'mahalanobis' is fitted to codes of normals; no normals were given")
        stratum = torch.cat(strata)
        mean, covariance = stratum_moments(torch.cat(rows), stratum)
        counts = torch.bincount(stratum[stratum >= 0], minlength=len(mean))
        cholesky = torch.linalg.cholesky(covariance).contiguous()  # as when loaded: the same sums, to the last bit
        return {"mean": mean, "cholesky": cholesky, "own": counts >= FEWEST}

    def score(
        self, model: ConditionalVAE, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        code = self.codes(model, x, c)
        mean, cholesky, own = (state[name].to(code.device) for name in ("mean", "cholesky", "own"))
        everyone = len(mean) - 1
        stratum = stratum.to(code.device)
        stratum = torch.where((stratum < 0) | (stratum > everyone), everyone, stratum)
        values = torch.empty(len(code), dtype=torch.float64, device=code.device)
        relative = self.options.relative and int(own.sum()) > 1
        for s in stratum.unique().tolist():
            rows = stratum == s
            to = [s] if own[s] or not relative else own.nonzero()[:, 0].tolist()
            values[rows] = torch.stack([_squared(code[rows], mean[t], cholesky[t]) for t in to]).amin(0)
        if relative:
            values = values - _squared(code, mean[-1], cholesky[-1])
        return ScoreResult(values, None, {})


def _squared(codes: Tensor, mean: Tensor, cholesky: Tensor) -> Tensor:
    """(B,): squared distances of codes (B, D) to a mean (D,), by the lower factor (D, D) of a covariance."""
    return torch.linalg.solve_triangular(cholesky, (codes - mean).t(), upper=False).square().sum(0)


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

    `centred` (n, D) has mean 0, and S is its covariance, divided by n. T (D, D) is `target`, by default the identity
    times the mean variance of S.
    """
    if target is None:
        return torch.from_numpy(ledoit_wolf(centred.cpu().numpy(), assume_centered=True)[0]).to(centred)
    n = len(centred)
    sample = centred.t() @ centred / n
    distance = (sample - target).square().sum()
    noise = (centred.square().sum(1).square().mean() - sample.square().sum()) / n  # E‖S − Σ‖², estimated
    weight = (noise / distance).clamp(0, 1) if distance > 0 else torch.ones_like(distance)
    return (1 - weight) * sample + weight * target
