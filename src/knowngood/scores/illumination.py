"""A score standardised given the illumination."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from knowngood.errors import SettingsError
from knowngood.models.base import Batch, Model
from knowngood.models.distributions import wide
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.adjustment import Adjustment, Scoring
from knowngood.scores.base import Batches, Condition, ScoreResult, State

FEWEST, ITEMS = 30, 4096  # normal images that the adjustment is fitted on
FACTORS = 9  # of the illumination, within the tolerance
DEGREE = 2
RIDGE = 1e-3
SMALLEST = 1e-6


class IlluminationAdjustment(Adjustment):
    """A score S standardised given the illumination: m₀ + s₀·(S(x) − m(f)) / s(f).

    The illumination f is estimated from the image, 1 for the normal one: log f is a ridge
    regression on the log of the brightness (the mean over pixels of the largest channel), the log of the contrast (the
    standard deviation of the values) and, of a VAE, the posterior means. m(f) and log s²(f) are polynomials of degree 2
    in log f, by least squares. All of it is fitted to held-out normals (to those of the fit part where these are fewer
    than 30), each multiplied by factors from 1 − `tolerance` to 1 + `tolerance`; m₀ and s₀ are m and s at f = 1, and
    beyond the fitted range of f its ends count. Parts and map are those of S; a further part, `illumination`, is f.
    """

    name: ClassVar[str] = "illumination"

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance

    def check(self, model: Model) -> None:
        if len(model.shape) != 3:
            raise SettingsError(f"illumination = {self.tolerance:g} needs images; a table was given")

    @torch.no_grad()
    def fit(self, model: Model, scoring: Scoring, held_out: Batches, fitted: Batches) -> State:
        """Tensors of `fit_estimate` and `fit_moments`."""
        kept = first(held_out, ITEMS)
        if sum(len(batch.x) for batch in kept) < FEWEST:
            kept = first(fitted, ITEMS)
        values, inputs, truth = [], [], []
        for factor in torch.linspace(1 - self.tolerance, 1 + self.tolerance, FACTORS).tolist():
            for batch in kept:
                x = batch.x * factor
                values.append(scoring(x, batch.c, batch.stratum).cpu())
                inputs.append(features(model, x, batch.c).cpu())
                truth.append(torch.full((len(x),), math.log(factor), dtype=torch.float64))
        estimate = fit_estimate(torch.cat(inputs), torch.cat(truth))
        return {**estimate, **fit_moments(torch.cat(values), log_illumination(torch.cat(inputs), estimate))}

    def adjust(
        self, model: Model, state: State, x: Tensor, c: Condition, stratum: Tensor, result: ScoreResult
    ) -> ScoreResult:
        log_f = log_illumination(features(model, x, c).to(result.values.device), state)
        parts = {**result.parts, "illumination": log_f.exp()}
        return ScoreResult(standardised(result.values, log_f, state), result.map, parts)


def first(batches: Batches, items: int) -> list[Batch]:
    """Batches from the start until they hold so many items; no further one is made."""
    kept: list[Batch] = []
    for batch in batches:
        kept.append(batch)
        if sum(len(one.x) for one in kept) >= items:
            break
    return kept


def features(model: Model, x: Tensor, c: Condition) -> Tensor:
    """(B, 2 + D) float64, what the illumination is estimated from: log brightness, log contrast, posterior means."""
    pixels = wide(x)
    bright = pixels.amax(1).mean((1, 2)).clamp(min=SMALLEST).log()
    contrast = pixels.flatten(1).std(1, correction=0).clamp(min=SMALLEST).log()
    measured = torch.stack((bright, contrast), 1)
    if not isinstance(model, ConditionalVAE):
        return measured
    return torch.cat((measured, wide(model.encode(x, c).mean).to(measured.device)), 1)


def fit_estimate(inputs: Tensor, log_factor: Tensor) -> State:
    """State that estimates log f from features (N, K), fitted to known log f (N,)."""
    centre, width = inputs.mean(0), inputs.std(0).clamp(min=SMALLEST)
    design = torch.cat((torch.ones(len(inputs), 1, dtype=inputs.dtype), (inputs - centre) / width), 1)
    return {"centre": centre, "width": width, "weights": least_squares(design, log_factor, ridge=RIDGE)}


def log_illumination(inputs: Tensor, state: State) -> Tensor:
    """log f (B,) of features (B, K)."""
    centre, width, weights = (state[name].to(inputs) for name in ("centre", "width", "weights"))
    return weights[0] + ((inputs - centre) / width) @ weights[1:]


def fit_moments(values: Tensor, log_f: Tensor) -> State:
    """State of m(f) and s(f), from scores (N,) of normal images and their estimated log f (N,)."""
    scale = log_f.std().clamp(min=SMALLEST)
    powers = torch.stack([(log_f / scale) ** k for k in range(DEGREE + 1)], 1)  # (N, 3)
    mean = least_squares(powers, values)
    squared = (values - powers @ mean).square()
    floor = 1e-12 * float(values.square().mean()) + 1e-300
    spread = least_squares(powers, squared.clamp(min=floor).log())
    span = torch.stack((scale, log_f.min(), log_f.max()))
    return {"mean": mean, "log_variance": spread, "span": span}


def standardised(values: Tensor, log_f: Tensor, state: State) -> Tensor:
    """m₀ + s₀·(S − m(f)) / s(f), (B,)."""
    mean, spread, span = (state[name].to(values) for name in ("mean", "log_variance", "span"))
    scale, low, high = span
    within = log_f.clamp(low, high) / scale
    powers = torch.stack([within**k for k in range(DEGREE + 1)], 1)
    ratio = (0.5 * (spread[0] - powers @ spread)).exp()  # s₀ / s(f)
    return mean[0] + ratio * (values - powers @ mean)


def least_squares(design: Tensor, target: Tensor, ridge: float = 1e-9) -> Tensor:
    """(K,) coefficients of design (N, K) that come closest to target (N,), by the normal equations."""
    gram = design.t() @ design
    gram = gram + ridge * len(design) * torch.eye(len(gram), dtype=gram.dtype)
    return torch.cholesky_solve((design.t() @ target)[:, None], torch.linalg.cholesky(gram)).squeeze(1)
