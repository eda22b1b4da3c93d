"""−log p(x|c) of a fitted model, up to what is the same under every condition c: what conditions are compared by."""

from __future__ import annotations

import torch
from torch import Tensor

from knowngood.config import Elbo, PatchDistance, PriorDistance
from knowngood.models.base import Condition, Model
from knowngood.models.memory_bank import FEWEST, MemoryBank
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Score, ScoreResult, State, item_sum
from knowngood.scores.elbo import ElboScore
from knowngood.scores.fusion import FusionScore
from knowngood.scores.neighbours import SHORTEST, NeighboursScore


class PriorDensity(Score):
    """−log r(μ|c) in nats, μ the posterior mean of x, for an encoder that does not see c."""

    is_likelihood = True

    def score(
        self, model: ConditionalVAE, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        mean = model.encode(x, c).mean
        return ScoreResult(-item_sum(model.prior(c, like=mean).log_prob(mean)), None, {})


class LocationDensity(Score):
    """−log of the Gaussian of a cell at a location, the mean over those that count, in nats a location."""

    is_likelihood = True

    def score(
        self, model: PatchGaussian, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        return ScoreResult(model.energies(*model.given(x, c)), None, {})


class NearestDensity(Score):
    """D · log of the mean distance to the k nearest normal patches of the stratum, the mean over locations.

    D is the number of features: up to a constant, a nearest-neighbour estimate of −log p(x|c) at a location
    (Loftsgaarden and Quesenberry, A Nonparametric Estimate of a Multivariate Density Function, 1965). The difference
    between two conditions is that of the nonconformity of nearest neighbours, log d_stated / d_other. Vovk, Gammerman
    and Shafer, Algorithmic Learning in a Random World, 2005.
    """

    is_likelihood = True

    def score(
        self, model: MemoryBank, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        rows = model.rows(x)
        near = model.nearest(rows, stratum.repeat_interleave(len(rows) // len(x)), 1).mean(1)
        return ScoreResult(rows.shape[1] * log_distances(near).unflatten(0, (len(x), -1)).mean(1), None, {})


class CodeDensity(Score):
    """As `NearestDensity`, of whole items by the codes that a score `neighbours` keeps; D is the length of a code.

    `name` is that of the score among the parts of a result, so that its distances need not be computed again.
    """

    is_likelihood = True

    def __init__(self, inner: NeighboursScore, name: str) -> None:
        super().__init__(inner.options)
        self.inner, self.name = inner, name

    def score(
        self, model: Model, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        return ScoreResult(self.of(model, state, self.inner.score(model, state, x, c, stratum).values), None, {})

    def of(self, model: Model, state: State, distances: Tensor) -> Tensor:
        """(B,) of mean distances (B,)."""
        codes = model.bank if isinstance(model, MemoryBank) and "codes" not in state else state["codes"]
        return codes.shape[1] * log_distances(distances)


def log_distances(values: Tensor) -> Tensor:
    """The log of distances, 0 among them."""
    return values.clamp_min(SHORTEST).log()


def condition_density(model: Model, score: Score, state: State, strata: int = 0) -> tuple[Score, State] | None:
    """The score that conditions are compared by, with its state; None where the model has none.

    Of a VAE with class-conditional priors far apart, whose encoder does not see c, the density of the code: by nearest
    codes where the score keeps those of every condition, else under the prior. Of any other VAE −ELBO. Of a model of
    another package its score, where that is a likelihood.

    Args:
        strata: how many conditions there are, if each is a Mondrian group of its own; else 0.
    """
    if isinstance(model, ConditionalVAE):
        if model.prior_name != "separated":
            return _fitted(ElboScore(Elbo()), model)
        near = code_density(score, state)
        if near is not None and near[0].inner.of(model) == "latent" and _has_all(*near, strata):
            return near
        return _fitted(PriorDensity(PriorDistance()), model)
    if isinstance(model, PatchGaussian):
        return _fitted(LocationDensity(PatchDistance()), model)
    if isinstance(model, MemoryBank):
        patches = NearestDensity(score.options)
        return (None if model.patches else code_density(score, state)) or _fitted(patches, model)
    return (score, state) if score.is_likelihood else None


def code_density(score: Score, state: State) -> tuple[CodeDensity, State] | None:
    """The nearest neighbours that a score is, or that are part of a fusion."""
    inners = score.parted(state) if isinstance(score, FusionScore) else [(score.options.name, score, state)]
    for name, one, own in inners:
        if isinstance(one, NeighboursScore):
            return CodeDensity(one, name), own
    return None


def _has_all(density: CodeDensity, state: State, strata: int) -> bool:
    """Whether each of so many strata has codes enough to be searched by itself."""
    counts = torch.bincount(state["code_stratum"].clamp_min(0), minlength=strata)
    return strata > 1 and int(counts.min()) >= max(FEWEST, density.inner.options.k)


def _fitted(score: Score, model: Model) -> tuple[Score, State]:
    return score, score.fit(model, [])
