"""What deviates in an image, by kind of model: reconstruction, residual, features at the peak, latent dimensions."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from knowngood.config import LiteOptions
from knowngood.detector.explain.explanation import Component, Latent
from knowngood.detector.explain.reference import model_codes
from knowngood.detector.pipeline import Pipeline
from knowngood.detector.reference_index import ReferenceIndex
from knowngood.detector.scoring import Rows
from knowngood.models.distributions import DiagonalGaussian
from knowngood.models.likelihoods import GaussianLikelihood
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.models.vae import ConditionalVAE
from knowngood.representations import HOG, Features
from knowngood.representations.hog import DIRECTIONS

TOP = 5  # components, latent dimensions, and nearest images
ENOUGH = 8  # normal images from which on a mean and quantiles are reported


@dataclass(frozen=True, eq=False)
class Deviation:
    """Of one image; the fields are those of `Explanation`, beside its code."""

    code: np.ndarray  # (K,) by which it is compared with normal images
    reconstruction: np.ndarray | None = None
    residual: np.ndarray | None = None
    components: tuple[Component, ...] = ()
    latents: tuple[Latent, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)


def deviations(pipeline: Pipeline, rows: Rows, grids: np.ndarray | None) -> list[Deviation]:
    """For each of B rows, one an image. `grids`: their anomaly maps (B, h, w) as the score makes them."""
    codes = model_codes(pipeline.model, rows.x, rows.c)
    if isinstance(pipeline.model, PatchGaussian):
        return _of_patch_gaussian(pipeline, pipeline.model, rows, grids, codes)
    if not isinstance(pipeline.model, ConditionalVAE):
        why = f"model '{pipeline.settings.model.name}' reconstructs nothing"  # type: ignore[union-attr]
        return [Deviation(code, missing={"reconstruction": why, "residual": why}) for code in codes]
    of = _of_hog if isinstance(pipeline.representation, HOG) else _of_pixels
    return of(pipeline.model, rows, grids, codes, pipeline.reference)


def _of_pixels(
    model: ConditionalVAE, rows: Rows, grids: np.ndarray | None, codes: np.ndarray, reference: ReferenceIndex | None
) -> list[Deviation]:
    posterior, kl = _posterior(model, rows)
    made = model.likelihood.mean(model.decode(posterior.mean, rows.c))
    return [
        Deviation(code, _picture(y), _picture(x - y), latents=latents(nats, code, reference))
        for x, y, nats, code in zip(rows.x, made, kl, codes, strict=True)
    ]


def _of_hog(
    model: ConditionalVAE, rows: Rows, grids: np.ndarray | None, codes: np.ndarray, reference: ReferenceIndex | None
) -> list[Deviation]:
    posterior, kl = _posterior(model, rows)
    params = model.decode(posterior.mean, rows.c)
    assert isinstance(model.likelihood, GaussianLikelihood)
    whitened = (rows.x - model.likelihood.mean(params)) / model.likelihood.log_sigma(params).exp()
    residual = whitened.square().mean(1).sqrt().cpu().numpy()
    names = [f"the gradient {direction}" for direction in DIRECTIONS]
    found = []
    for i, code in enumerate(codes):
        at = _peak(residual[i] if grids is None else grids[i])
        components = largest(names, whitened[i].flatten(1)[:, at].cpu().numpy())
        missing = {"reconstruction": "the model reconstructs HOG, not pixels"}
        found.append(Deviation(code, None, residual[i], components, latents(kl[i], code, reference), missing))
    return found


def _of_patch_gaussian(
    pipeline: Pipeline, model: PatchGaussian, rows: Rows, grids: np.ndarray | None, codes: np.ndarray
) -> list[Deviation]:
    cell = model.cell(rows.c, len(rows.x))
    residual = (2 * model.distances(rows.x, cell) / model.shape[0]).sqrt().float()
    residual = residual.masked_fill(model.ignored_grid[cell], torch.nan).cpu().numpy()
    expected = model.expected(rows.x, cell)
    names = feature_names(pipeline.representation)  # type: ignore[arg-type]
    found = []
    for i, code in enumerate(codes):
        at = _peak(residual[i] if grids is None else grids[i])
        delta = rows.x[i].float().flatten(1)[:, at] - expected[i, at]
        components = largest(names, (delta / model.spread(int(cell[i]), at)).cpu().numpy())
        missing = {"reconstruction": "the model knows features, not pixels"}
        found.append(Deviation(code, None, residual[i], components, missing=missing))
    return found


def largest(names: list[str], deviation: np.ndarray) -> tuple[Component, ...]:
    """The components that deviate most, of deviations (F,) and their names."""
    return tuple(Component(names[j], float(deviation[j])) for j in np.argsort(-np.abs(deviation), kind="stable")[:TOP])


def latents(kl: Tensor, mean: np.ndarray, reference: ReferenceIndex | None) -> tuple[Latent, ...]:
    """The latent dimensions with the largest KL divergence (D,), and how their means (D,) deviate."""
    nats = kl.cpu().double().numpy()
    deviation: list[float | None] = [None] * len(nats)
    if reference is not None and len(reference.codes) >= ENOUGH:
        codes = reference.codes.astype(np.float64)
        deviation = ((mean - codes.mean(0)) / np.maximum(codes.std(0), 1e-6)).tolist()
    return tuple(Latent(int(d), float(nats[d]), deviation[d]) for d in np.argsort(-nats, kind="stable")[:TOP])


def feature_names(features: Features) -> list[str]:
    """A name for each of F features: the block of the backbone, counted from 0, and its number there."""
    backbone = features.options.backbone
    blocks = [f"block {b}" for b in backbone.blocks] if isinstance(backbone, LiteOptions) else []
    if len(blocks) != len(features.widths):
        blocks = [f"map {i}" for i in range(len(features.widths))]
    return [f"{block}, feature {j}" for block, width in zip(blocks, features.widths, strict=True) for j in range(width)]


def _posterior(model: ConditionalVAE, rows: Rows) -> tuple[DiagonalGaussian, Tensor]:
    posterior = model.encode(rows.x, rows.c)
    return posterior, posterior.kl(model.prior(rows.c, like=posterior.mean))


def _peak(grid: np.ndarray) -> int:
    """Position of the largest value in the flattened grid (h, w); NaN does not count."""
    return int(np.nanargmax(grid))


def _picture(x: Tensor) -> np.ndarray:
    """(C, h, w) → (h, w, C)."""
    return np.moveaxis(x.cpu().numpy(), 0, -1)
