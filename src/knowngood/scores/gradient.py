"""The direction in which an item would move the decoder, against that of normal items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from knowngood.errors import DataError
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Batches, Condition, Score, ScoreResult, State, wide

PREFIX = "mean_gradient."
VALUES_OF_ITEM = 16  # activations an item's decoding holds for each value of x, about
AT_ONCE_CPU, AT_ONCE_ACCELERATOR = 2**24, 2**28  # values of gradients and activations held


class GradientScore(Score):
    """1 − L⁻¹ Σ_i cos(∂ℓ(x)/∂φ_i, ḡ_i), from 0 to 2, over the weights φ_i of the decoder's L layers. It has no map.

    ℓ(x) = −log p(x|z,c) at the posterior mean z = μ(x,c), held fixed, and ḡ_i is the mean of ∂ℓ/∂φ_i over the normal
    items fitted on. After Kwon et al., arXiv:2007.09507 (GradCon), whose ḡ is the mean over training steps. Biases, and
    weights that decoding does not use, do not count.
    """

    def fit(self, model: ConditionalVAE, batches: Batches) -> State:
        """{"mean_gradient.<weight>": ḡ_i, shaped like the weight}, float32."""
        total: dict[str, Tensor] = {}
        n = 0
        for batch in batches:
            weights = decoder_weights(model, batch.x[:1], None if batch.c is None else batch.c[:1])
            mean = model.encode(batch.x, batch.c).mean.detach()
            found = torch.func.grad(lambda w, *given: loss(model, w, *given).sum())(weights, batch.x, mean, batch.c)
            for name, gradient in found.items():
                total[name] = wide(gradient) + total.get(name, 0.0)
            n += len(batch.x)
        if not n:
            raise DataError("score 'gradient' compares with gradients of normals; no normals were given")
        return {PREFIX + name: (gradient / n).float() for name, gradient in total.items()}

    def score(
        self, model: ConditionalVAE, state: State, x: Tensor, c: Condition, stratum: Tensor, *, want_map: bool = False
    ) -> ScoreResult:
        # By name: a saved state comes in another order, and sums round by it.
        means = {name.removeprefix(PREFIX): t for name, t in sorted(state.items()) if name.startswith(PREFIX)}
        values = []
        for gradients in item_gradients(model, means, x, c):
            cosines = [cosine(gradient, means[name]) for name, gradient in gradients.items()]
            values.append(1 - torch.stack(cosines).mean(0))
        return ScoreResult(torch.cat(values), None, {})


def loss(model: ConditionalVAE, weights: dict[str, Tensor], x: Tensor, z: Tensor, c: Condition) -> Tensor:
    """−log p(x|z,c) (B,) with these weights in place of the model's own."""
    return -torch.func.functional_call(model, weights, (x, z, c)).flatten(1).sum(1)


def decoder_weights(model: ConditionalVAE, x: Tensor, c: Condition) -> dict[str, Tensor]:
    """The weights, matrices and kernels, that decoding x (1, *shape) makes use of, by name."""
    weights = {f"net.{name}": p.detach() for name, p in model.net.named_parameters() if p.ndim > 1}
    leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
    with torch.enable_grad():
        z = model.encode(x, c).mean.detach()
        value = loss(model, leaves, x, z, c).sum()
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {name: w for (name, w), gradient in zip(weights.items(), found, strict=True) if gradient is not None}


def item_gradients(model: ConditionalVAE, names: Iterable[str], x: Tensor, c: Condition) -> Iterator[dict[str, Tensor]]:
    """∂ℓ/∂φ of every item, some items at a time: {name: (b, *weight)}."""
    known = dict(model.named_parameters())
    weights = {name: known[name].detach() for name in names}

    def of_one(z: Tensor, c: Condition, x: Tensor) -> dict[str, Tensor]:
        given = None if c is None else c[None]
        return torch.func.grad(lambda w: loss(model, w, x[None], z[None], given).sum())(weights)

    of_all = torch.func.vmap(of_one, in_dims=(0, None if c is None else 0, 0))
    held = sum(w.numel() for w in weights.values()) + VALUES_OF_ITEM * x[0].numel()
    at_once = AT_ONCE_CPU if x.device.type == "cpu" else AT_ONCE_ACCELERATOR
    mean = model.encode(x, c).mean.detach()
    for rows in torch.arange(len(x), device=x.device).split(max(1, at_once // held)):
        yield of_all(mean[rows], None if c is None else c[rows], x[rows])


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines (B,) float64 of a (B, …) and b (…); 0 where either is 0."""
    a = wide(a.flatten(1))
    b = wide(b.flatten()).to(a.device)
    return (a @ b) / (a.norm(dim=1) * b.norm()).clamp_min(torch.finfo(torch.float64).tiny)
