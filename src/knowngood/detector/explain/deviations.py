"""What deviates in an image, by kind of model: reconstruction, residual, features at the peak, latent dimensions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from knowngood.config import LiteOptions
from knowngood.detector.explain.explanation import TOP, Component, Fields, Latent, WordCount
from knowngood.detector.explain.reference import model_codes
from knowngood.detector.pipeline import Pipeline
from knowngood.detector.reference_index import ENOUGH, ReferenceIndex
from knowngood.detector.scoring import Rows
from knowngood.models.likelihoods import GaussianLikelihood
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.models.vae import ConditionalVAE
from knowngood.representations import HOG, Features
from knowngood.representations.hog import DIRECTIONS


def deviations(pipeline: Pipeline, rows: Rows, grids: np.ndarray | None) -> list[tuple[np.ndarray, Fields]]:
    """Of each of B images, one a row: the code (K,) by which it is compared with normal images, and what deviates.

    Args:
        grids: their anomaly maps (B, h, w) as the score makes them.
    """
    model, codes = pipeline.model, model_codes(pipeline.model, rows.x, rows.c)
    if isinstance(model, PatchGaussian):
        found = _of_patch_gaussian(pipeline, model, rows, grids)
    elif isinstance(model, ConditionalVAE):
        found = _of_vae(pipeline, model, rows, grids, codes)
    else:
        why = f"model '{model.kind}' reconstructs nothing"
        found = [{"missing": {"reconstruction": why, "residual": why}} for _ in codes]
    return list(zip(codes, found, strict=True))


def _of_vae(
    pipeline: Pipeline, model: ConditionalVAE, rows: Rows, grids: np.ndarray | None, codes: np.ndarray
) -> list[Fields]:
    posterior = model.encode(rows.x, rows.c)
    kl = posterior.kl(model.prior(rows.c, like=posterior.mean))
    params = model.decode(posterior.mean, rows.c)
    made = model.likelihood.mean(params)
    off = rows.x - made
    found: list[Fields] = [
        {"latents": latents(nats, code, pipeline.reference)} for nats, code in zip(kl, codes, strict=True)
    ]
    if not isinstance(pipeline.representation, HOG):
        pictures = [np.moveaxis(x.cpu().numpy(), 1, -1) for x in (made, off)]
        for fields, reconstruction, residual in zip(found, *pictures, strict=True):
            fields |= {"reconstruction": reconstruction, "residual": residual}
        return found
    assert isinstance(model.likelihood, GaussianLikelihood)
    whitened = off / model.likelihood.log_sigma(params).exp()
    residual = whitened.square().mean(1).sqrt().cpu().numpy()
    names = [f"the gradient {direction}" for direction in DIRECTIONS]
    for i, fields in enumerate(found):
        at = int(np.nanargmax(residual[i] if grids is None else grids[i]))
        components = largest(names, whitened[i].flatten(1)[:, at].cpu().numpy())
        missing = {"reconstruction": "the model reconstructs HOG, not pixels"}
        fields |= {"residual": residual[i], "components": components, "missing": missing}
    return found


def _of_patch_gaussian(pipeline: Pipeline, model: PatchGaussian, rows: Rows, grids: np.ndarray | None) -> list[Fields]:
    x, cell = model.given(rows.x, rows.c)
    residual = (2 * model.gaussian_distances(x, cell) / model.shape[0]).sqrt().float()
    residual = residual.masked_fill(model.ignored_grid[cell], torch.nan).cpu().numpy()
    expected = model.expected(x, cell)
    names = feature_names(pipeline.representation)  # type: ignore[arg-type]
    found = []
    for i in range(len(rows.x)):
        at = int(np.nanargmax(residual[i] if grids is None else grids[i]))
        delta = x[i].float().flatten(1)[:, at] - expected[i, at]
        components = largest(names, (delta / model.spread(int(cell[i]), at)).cpu().numpy())
        missing = {"reconstruction": "the model knows features, not pixels"}
        found.append({"residual": residual[i], "components": components, "missing": missing})
        if model.words is not None:
            found[i] |= _count(model, x[i], cell[i : i + 1])
    return found


def _count(model: PatchGaussian, x: Tensor, cell: Tensor) -> Fields:
    """The word of a feature grid whose share deviates most; `word_grid` (h, w): how much each patch is of it."""
    words = model.words
    assert words is not None
    shares = words.shares(x[None], cell, model.ignored)
    deviation = words.deviations(shares, cell)[0]
    word = int(deviation.abs().argmax())
    normal = float(words.mean[cell[0], word] * words.scale[word])
    grid = words.assigned(x)[:, word].unflatten(0, x.shape[1:]).cpu().numpy()
    return {"count": WordCount(word, float(shares[0, word]), normal, float(deviation[word])), "word_grid": grid}


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
    """A name for each of F features: the block or layer of the backbone, and its number there."""
    backbone = features.options.backbone
    blocks = [f"block {b}" for b in backbone.blocks] if isinstance(backbone, LiteOptions) else []
    blocks = blocks or [f"layer {n}" for n in features.network.get("layers", ())]
    if len(blocks) != len(features.widths):
        blocks = [f"map {i}" for i in range(len(features.widths))]
    return [f"{block}, feature {j}" for block, width in zip(blocks, features.widths, strict=True) for j in range(width)]
