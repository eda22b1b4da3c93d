"""Any score, made steady under changes of light."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from knowngood.errors import SettingsError
from knowngood.models.objectives.base import Batch
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.base import Score, ScoreResult, wide

FEWEST, ITEMS = 30, 4096  # good images that the adjustment is fitted on
LEVELS = 9
DEGREE = 2
RIDGE = 1e-3
SMALLEST = 1e-6


class SteadyScore(Score):
    """A score S standardised by what good images in the same light score: m₀ + s₀·(S(x) − m(f)) / s(f).

    A residual grows with the light on what is not reproduced, so scores of dim images are small and of bright ones
    large, good or bad. The light f is read off the image, 1 as it usually is: log f is a ridge regression on the log of
    the brightness (the mean over pixels of the largest channel), the log of the contrast (the standard deviation of
    the values) and the posterior means. m(f) and log s²(f) are polynomials of degree 2 in log f, by least squares. All
    of it is fitted to the good images that select (to those of the fit part where these are fewer than 30), each taken
    times factors from 1 − `tolerance` to 1 + `tolerance`; m₀ and s₀ are m and s at f = 1, and beyond the range of f
    that was fitted its ends count. Parts and map are those of S; a further part, `light`, is f.
    """

    def __init__(self, inner: Score, tolerance: float) -> None:
        super().__init__(inner.options)
        self.inner, self.tolerance = inner, tolerance
        self.has_map = inner.has_map

    def check(self, model: ConditionalVAE) -> None:
        if len(model.shape) != 3:
            raise SettingsError(f"light_tolerance = {self.tolerance:g} needs images; a table was given")
        self.inner.check(model)

    def fit(self, model: ConditionalVAE, batches: Iterable[Batch]) -> dict[str, Tensor]:
        return self.inner.fit(model, batches)

    def settle(
        self, model: ConditionalVAE, state: dict[str, Tensor], held_out: Iterable[Batch], fitted: Iterable[Batch]
    ) -> dict[str, Tensor]:
        state = self.inner.settle(model, state, held_out, fitted)
        kept = first(held_out, ITEMS)
        if sum(len(batch.x) for batch in kept) < FEWEST:
            kept = first(fitted, ITEMS)
        values, seen_as, truth = [], [], []
        for factor in torch.linspace(1 - self.tolerance, 1 + self.tolerance, LEVELS).tolist():
            for batch in kept:
                x = batch.x * factor
                values.append(self.inner.score(model, state, x, batch.c, batch.stratum).values.cpu())
                seen_as.append(features(model, x, batch.c).cpu())
                truth.append(torch.full((len(x),), math.log(factor), dtype=torch.float64))
        reading = fit_reading(torch.cat(seen_as), torch.cat(truth))
        return {**state, **reading, **adjustment(torch.cat(values), read(torch.cat(seen_as), reading))}

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
        found = self.inner.score(model, state, x, c, stratum, want_map=want_map)
        log_light = read(features(model, x, c).to(found.values.device), state)
        return ScoreResult(
            adjusted(found.values, log_light, state), found.map, {**found.parts, "light": log_light.exp()}
        )


def first(batches: Iterable[Batch], items: int) -> list[Batch]:
    """Batches from the start until they hold so many items; no further one is made."""
    kept, seen = [], 0
    for batch in batches:
        kept.append(batch)
        seen += len(batch.x)
        if seen >= items:
            break
    return kept


def features(model: ConditionalVAE, x: Tensor, c: Tensor | None) -> Tensor:
    """(B, 2 + D) float64, what the light is read off: log brightness, log contrast, posterior means."""
    mean = wide(model.encode(x, c).mean)
    pixels = wide(x)
    bright = pixels.amax(1).mean((1, 2)).clamp(min=SMALLEST).log()
    contrast = pixels.flatten(1).std(1, correction=0).clamp(min=SMALLEST).log()
    return torch.cat((bright[:, None], contrast[:, None], mean.to(bright.device)), 1)


def fit_reading(seen_as: Tensor, log_factor: Tensor) -> dict[str, Tensor]:
    """State that reads log f off features (N, K), fitted to known log f (N,)."""
    centre, width = seen_as.mean(0), seen_as.std(0).clamp(min=SMALLEST)
    design = torch.cat((torch.ones(len(seen_as), 1, dtype=seen_as.dtype), (seen_as - centre) / width), 1)
    weights = least_squares(design, log_factor, ridge=RIDGE)
    return {"steady_centre": centre, "steady_width": width, "steady_weights": weights}


def read(seen_as: Tensor, state: dict[str, Tensor]) -> Tensor:
    """log f (B,)."""
    centre, width, weights = (state[f"steady_{name}"].to(seen_as) for name in ("centre", "width", "weights"))
    return weights[0] + ((seen_as - centre) / width) @ weights[1:]


def adjustment(values: Tensor, log_light: Tensor) -> dict[str, Tensor]:
    """State from scores (N,) of good images and the light read off them, log f (N,)."""
    scale = log_light.std().clamp(min=SMALLEST)
    powers = torch.stack([(log_light / scale) ** k for k in range(DEGREE + 1)], 1)  # (N, 3)
    mean = least_squares(powers, values)
    squared = (values - powers @ mean).square()
    floor = 1e-12 * float(values.square().mean()) + 1e-300
    spread = least_squares(powers, squared.clamp(min=floor).log())
    span = torch.stack((scale, log_light.min(), log_light.max()))
    return {"steady_mean": mean, "steady_log_variance": spread, "steady_span": span}


def adjusted(values: Tensor, log_light: Tensor, state: dict[str, Tensor]) -> Tensor:
    """m₀ + s₀·(S − m(f)) / s(f), (B,)."""
    mean, spread, span = (state[f"steady_{name}"].to(values) for name in ("mean", "log_variance", "span"))
    scale, low, high = span
    powers = torch.stack([(log_light.clamp(low, high) / scale) ** k for k in range(DEGREE + 1)], 1)
    ratio = (0.5 * (spread[0] - powers @ spread)).exp()  # s₀ / s(f)
    return mean[0] + ratio * (values - powers @ mean)


def least_squares(design: Tensor, target: Tensor, ridge: float = 1e-9) -> Tensor:
    """(K,) coefficients of design (N, K) that come closest to target (N,), by the normal equations."""
    gram = design.t() @ design
    gram = gram + ridge * len(design) * torch.eye(len(gram), dtype=gram.dtype)
    return torch.cholesky_solve((design.t() @ target)[:, None], torch.linalg.cholesky(gram)).squeeze(1)
