"""The reconstruction error, weighted by the gradient of the KL."""

from __future__ import annotations

import torch
from torch import Tensor

from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Condition, Score, ScoreResult, State, item_sum, pixel_sum


class GradientMapScore(Score):
    """Σ |x − x̂| ⊙ |∂KL(q(z|x,c) ‖ r(z|c))/∂x|, x̂ the mean of p(x|z,c) at the posterior mean; the map adds up to it.

    Zimmerer et al., arXiv:1812.05941: their score of a pixel; its sum as the score of an image is ours.
    """

    has_map = True

    def score(
        self, model: ConditionalVAE, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            posterior = model.encode(leaf, c)
            kl = posterior.kl(model.prior(c, like=posterior.mean)).sum()
            (gradient,) = torch.autograd.grad(kl, leaf)
        made = model.likelihood.mean(model.decode(posterior.mean.detach(), c))
        terms = (x - made).abs() * gradient.abs()
        return ScoreResult(item_sum(terms), pixel_sum(terms) if want_map else None, {})
