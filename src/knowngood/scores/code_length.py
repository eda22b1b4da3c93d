"""How many bits a lossless code of an image takes: the same number on every machine."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVELS = 256
ACTIVITY = (1, 9, 33)  # from where on neighbours differ a little, some, and much
WEIGHT = 1 / 16  # that each symbol starts with


def code_length(levels: Tensor) -> Tensor:
    """(B,) float64 bits for images (B, C, H, W) of int64 levels 0…255, each by itself.

    The code predicts each value from those to the left, above and above left by the median rule of JPEG-LS (Weinberger
    et al. 2000) and sends the difference modulo 256 by an adaptive arithmetic coder: the symbol k is expected with the
    probability (n_k + 1/16) / (n + 16), n_k of the n symbols so far having been k. Counts are kept apart for pixels
    whose three neighbours are alike, differ a little, some or much, and start anew with each image. What such a coder
    sends, but for the two bits that end it, has a closed form, as the order of symbols does not matter:
    Σ_contexts log₂ Γ(n + 16) / Γ(16) − Σ_k log₂ Γ(n_k + 1/16) / Γ(1/16).
    """
    symbol, context = symbols(levels)
    contexts = len(ACTIVITY) + 1
    item = torch.arange(len(levels), device=levels.device)[:, None]
    index = (item * contexts + context.flatten(1)) * LEVELS + symbol.flatten(1)
    counts = torch.bincount(index.flatten(), minlength=len(levels) * contexts * LEVELS)
    # From a table of log Γ by count: most counts are 0, and all are whole numbers.
    table = torch.lgamma(torch.arange(levels[:1].numel() + 1, dtype=torch.float64) + WEIGHT) - math.lgamma(WEIGHT)
    counts = counts.cpu().view(len(levels), contexts, LEVELS)
    every = torch.lgamma(counts.sum(2).double() + WEIGHT * LEVELS) - math.lgamma(WEIGHT * LEVELS)  # (B, contexts)
    return (every - table[counts].sum(2)).sum(1) / math.log(2)


def symbols(levels: Tensor) -> tuple[Tensor, Tensor]:
    """What is coded at each pixel, 0…255, and in which context, 0…3; same shape as `levels` (B, C, H, W)."""
    above = torch.cat((torch.zeros_like(levels[..., :1, :]), levels[..., :-1, :]), -2)
    left = torch.cat((above[..., :1], levels[..., :-1]), -1)  # beyond the left border lies what is above
    corner = torch.cat((above[..., :1], above[..., :-1]), -1)
    low, high = torch.minimum(left, above), torch.maximum(left, above)
    predicted = (left + above - corner).clamp(low, high)  # the median of left, above, left + above − corner
    activity = (left - corner).abs() + (above - corner).abs()
    bounds = torch.tensor(ACTIVITY, device=levels.device)
    return (levels - predicted) % LEVELS, torch.bucketize(activity, bounds, right=True)
