"""−log p(x|c), bounded more tightly than by the ELBO."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from knowngood.models.distributions import LOG_2PI
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Condition, ScoreResult, State, item_sum
from knowngood.scores.elbo import DrawnScore, decoded


class IWAEScore(DrawnScore):
    """−log K⁻¹ Σ_k p(x|z_k,c) r(z_k|c) / q(z_k|x,c) in nats, z_k = μ + σ·ε_k: the importance-weighted bound.

    Burda et al., arXiv:1509.00519. In expectation over ε it falls as K rises, from the ELBO of one draw at K = 1
    to −log p(x|c); where q is the exact posterior it is that for every K. The K draws are the same for every item, made
    once and saved with the model. It has no map: a logarithm of sums over draws does not part into pixels.
    """

    is_likelihood = True

    def score(
        self, model: ConditionalVAE, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        posterior = model.encode(x, c)
        prior = model.prior(c, like=posterior.mean)
        noise = self.noise(state, posterior)
        joint = []  # log p(x|z,c) + log r(z|c), (l, B) each
        for z, repeated, params in decoded(model, posterior, noise, x, c):
            log_p = item_sum(model.likelihood.log_prob(repeated, params))
            log_r = item_sum(prior.log_prob(z).flatten(0, 1))
            joint.append((log_p + log_r).unflatten(0, (len(z), -1)))
        # log q(z|x,c) from ε itself: z − μ would round it off where σ is small.
        log_q = -0.5 * (item_sum(noise.square() + LOG_2PI)[:, None] + item_sum(posterior.log_var))
        log_weights = torch.cat(joint) - log_q  # (K, B)
        return ScoreResult(math.log(len(noise)) - log_weights.logsumexp(0), None, {})
