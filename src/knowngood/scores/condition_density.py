"""−log p(x|c) of a fitted model, up to what is the same under every condition c: what conditions are compared by."""

from __future__ import annotations

from torch import Tensor

from knowngood.config import Elbo, PatchDistance, PriorDistance
from knowngood.models.base import Condition, Model
from knowngood.models.memory_bank import MemoryBank
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Score, ScoreResult, State, item_sum
from knowngood.scores.elbo import ElboScore
from knowngood.scores.neighbours import SHORTEST


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
    """log of the mean distance to the k nearest normal items of the stratum, or the mean of it over locations.

    k is that of the score `neighbours`, 1 for any other. The difference between two conditions is that of the
    nonconformity of nearest neighbours, log d_stated / d_other. Vovk, Gammerman and Shafer, Algorithmic Learning in a
    Random World, 2005.
    """

    def score(
        self, model: MemoryBank, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        rows = model.rows(x)
        k = getattr(self.options, "k", 1)
        near = model.nearest(rows, stratum.repeat_interleave(len(rows) // len(x)), k).mean(1)
        return ScoreResult(log_distances(near).unflatten(0, (len(x), -1)).mean(1), None, {})


def log_distances(values: Tensor) -> Tensor:
    """The log of distances, 0 among them."""
    return values.clamp_min(SHORTEST).log()


def condition_density(model: Model, score: Score) -> Score | None:
    """The score that conditions are compared by; None where the model has none.

    Of a VAE with class-conditional priors far apart, whose encoder does not see c, the density of the code under the
    prior; of any other −ELBO. Of a model of another package its score, where that is a likelihood.
    """
    if isinstance(model, ConditionalVAE):
        separated = model.prior_name == "separated"
        return PriorDensity(PriorDistance()) if separated else ElboScore(Elbo())
    if isinstance(model, PatchGaussian):
        return LocationDensity(PatchDistance())
    if isinstance(model, MemoryBank):
        return NearestDensity(score.options)
    return score if score.is_likelihood else None
