"""The models of `python -m benchmarks drift`, and how surprising each of their dimensions is, in nats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.feature_selection import mutual_info_regression

from benchmarks.drift_data import World
from knowngood.config import parse_settings
from knowngood.data import ImageSet

Floats = np.ndarray
VAES: dict[str, dict[str, Any]] = {
    "vae": {"name": "vae"},
    "cvae": {"name": "cvae"},
    "beta_vae": {"name": "beta_vae"},
    "dcvae": {"name": "dcvae"},
    "dan_vae": {"name": "dan_vae", "nuisance_dim": 2},
}
PPCA = "ppca-varimax"
FEATURES = "features"
MODELS = (*VAES, PPCA, FEATURES)
DIMENSIONS = 10
SHARED: dict[str, Any] = {
    "representation": {"name": "pixels", "scaling": (0, 255)},
    "model": {"name": "vae", "net": {"name": "mlp", "hidden": (128, 64)}, "latent_dim": DIMENSIONS},
    "score": "elbo",
    "training": {"batch_size": 128, "lr": 1e-3, "beta2": 0.999, "patience": None, "ema": None},
    "device": "cpu",
}
WAYS = {"no correction": None, "illumination corrected": 0.3}


@dataclass(frozen=True)
class Surprise:
    """Of N images: `dims` (N, D), what each dimension adds to −log p(image), and `rest` (N,), all else. Nats."""

    dims: Floats
    rest: Floats
    codes: Floats  # (N, D), by which dimensions are matched to factors


def not_applicable(model: str, world: World) -> str | None:
    """Why a model has no place on a world; None if it has."""
    if model == "cvae" and not world.conditional:
        return "no condition: it is vae"
    if model == FEATURES and not world.photograph:
        return "no photographs of a size for features"
    return None


def surprises(
    model: str, world: World, images: dict[str, ImageSet], settings: dict[str, Any]
) -> tuple[dict[str, Surprise], int]:
    """Fit to "train"; the surprise of the images of each other part, and how many dimensions, the last, are z_n."""
    if model == PPCA:
        fitted = RotatedPPCA(DIMENSIONS).fit(_rows(images["train"]), _conditions(images["train"]))
        return {
            part: fitted.surprise(_rows(some), _conditions(some)) for part, some in images.items() if part != "train"
        }, 0
    return _of_vae(world, images, settings)


def vae_settings(model: str, world: World, seed: int, epochs: int) -> dict[str, Any]:
    """Settings of a VAE as plain data."""
    objective = VAES[model] | ({"factors": world.harmless} if model == "dan_vae" else {})
    roles = {"condition": ("model", "stratify")} if world.conditional and model in ("cvae", "dcvae") else {}
    return {
        **SHARED,
        "model": {**SHARED["model"], "objective": objective},
        "training": {**SHARED["training"], "epochs": epochs},
        "conditioning": {"roles": {"condition": roles.get("condition", ())} if world.conditional else {}},
        "random_state": seed,
    }


def _of_vae(world: World, images: dict[str, ImageSet], settings: dict[str, Any]) -> tuple[dict[str, Surprise], int]:
    from knowngood.detector.estimator import Detector
    from knowngood.detector.latents import best_rows

    detector = Detector.from_settings(parse_settings(settings))
    detector.fit(images["train"], calibration_set=images["calibrate"])
    model: Any = detector.model_

    @torch.no_grad()
    def of(some: ImageSet) -> Surprise:
        found = []
        for rows in best_rows(detector.pipeline_, some, None):
            q = model.encode(rows.x, rows.c)
            kl = q.kl(model.prior(rows.c, like=q.mean))
            rest = -model(rows.x, q.mean, rows.c).flatten(1).sum(1)
            found.append((kl.double().numpy(), rest.double().numpy(), q.mean.double().numpy()))
        return Surprise(*map(np.concatenate, zip(*found, strict=True)))

    return {part: of(some) for part, some in images.items() if part != "train"}, model.nuisance_dim


class RotatedPPCA:
    """N(m_c, W Wᵀ + σ²I), one W for all conditions c, W turned to the varimax criterion (Kaiser 1958).

    With W = V diag(√(λ − σ²)) the leading directions, y = diag(λ^−½) Vᵀ(x − m_c) are independent and N(0, 1), as is y
    turned by any rotation: a dimension's surprise is ½y², and the sum of all is −log p(x) up to a constant.
    """

    def __init__(self, components: int) -> None:
        self.components = components

    def fit(self, x: Floats, c: np.ndarray) -> RotatedPPCA:
        self.means = {name: x[c == name].mean(axis=0) for name in np.unique(c)}
        centred = self._centred(x, c)
        values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
        self.rest = max(float(values[: -self.components].mean()), 1e-6)
        values, vectors = np.maximum(values[-self.components :], self.rest), vectors[:, -self.components :]
        turn = varimax(vectors * np.sqrt(values - self.rest))
        self.vectors, self.scores = vectors, (vectors / np.sqrt(values)) @ turn
        return self

    def surprise(self, x: Floats, c: np.ndarray) -> Surprise:
        centred = self._centred(x, c)
        y = centred @ self.scores
        across = (centred**2).sum(axis=1) - ((centred @ self.vectors) ** 2).sum(axis=1)
        return Surprise(y**2 / 2, np.maximum(across, 0) / self.rest / 2, y)

    def _centred(self, x: Floats, c: np.ndarray) -> Floats:
        return x - np.stack([self.means[name] for name in c])


def varimax(loadings: Floats, steps: int = 200) -> Floats:
    """(K, K) rotation R for which the variance of the squares of loadings (F, K) @ R is largest, by Kaiser's method."""
    turn = np.eye(loadings.shape[1])
    for _ in range(steps):
        turned = loadings @ turn
        u, _, v = np.linalg.svd(loadings.T @ (turned**3 - turned * (turned**2).mean(axis=0)))
        before, turn = turn, u @ v
        if np.abs(turn - before).max() < 1e-8:
            break
    return turn


def matched(codes: Floats, factors: dict[str, Floats]) -> dict[str, int]:
    """The dimension of codes (N, D) for each factor (N,): one to one, of the largest sum of mutual information."""
    told = np.stack([mutual_info_regression(codes, column, random_state=0) for column in factors.values()])
    which, dims = linear_sum_assignment(-told)
    return {name: int(dims[list(which).index(k)]) for k, name in enumerate(factors) if k in which}


def _rows(images: ImageSet) -> Floats:
    return np.stack([images.read(i) for i in range(len(images))]).reshape(len(images), -1) / 255


def _conditions(images: ImageSet) -> np.ndarray:
    return images.conditions.get("condition", np.zeros(len(images)))
