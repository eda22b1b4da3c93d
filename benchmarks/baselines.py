"""Baselines for a VAE: simple scores without networks, fitted in seconds. Means and variances are in float64.

Each baseline has `fit(x, classes)` on normal images and `score(x)`; x is (N, F) float32, one row of scaled pixels per
image. Higher scores are more anomalous. Signs and sizes are fixed here, before any test image is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

LOG_2PI = np.log(2 * np.pi)


class Baseline(Protocol):
    def fit(self, x: np.ndarray, classes: np.ndarray | None = None) -> Baseline:
        """Fit to normal images (N, F); `classes` (N,) where they are known in training."""
        ...

    def score(self, x: np.ndarray) -> np.ndarray:
        """(M,) float64, higher is more anomalous."""
        ...


class Contrast:
    """The standard deviation of an image's pixels, nothing else.

    `direction` −1: low contrast is anomalous; +1: high contrast is; 0: distance from the median of the normal images.
    """

    def __init__(self, direction: int) -> None:
        self.direction = direction
        self.centre = 0.0

    def fit(self, x: np.ndarray, classes: np.ndarray | None = None) -> Contrast:
        self.centre = float(np.median(contrast(x)))
        return self

    def score(self, x: np.ndarray) -> np.ndarray:
        found = contrast(x)
        return self.direction * found if self.direction else np.abs(found - self.centre)


def contrast(x: np.ndarray) -> np.ndarray:
    """(N,) standard deviation over the pixels of each image (N, F)."""
    return x.std(axis=1, dtype=np.float64)


class Neighbours:
    """Mean Euclidean distance to the k nearest normal images, pixel by pixel."""

    def __init__(self, k: int = 5) -> None:
        self.k = k

    def fit(self, x: np.ndarray, classes: np.ndarray | None = None) -> Neighbours:
        from sklearn.neighbors import NearestNeighbors

        self.index = NearestNeighbors(n_neighbors=min(self.k, len(x)), algorithm="brute").fit(x)
        return self

    def score(self, x: np.ndarray) -> np.ndarray:
        distance, _ = self.index.kneighbors(x)
        return distance.mean(axis=1, dtype=np.float64)


class PPCA:
    """−log p(x) of probabilistic PCA in closed form (Tipping and Bishop 1999, eq. 7), in nats.

    Where classes are given, one PPCA a class, and the class is summed out: −log Σ_c π_c p(x|c), π_c its share.
    """

    def __init__(self, components: int = 32) -> None:
        self.components = components

    def fit(self, x: np.ndarray, classes: np.ndarray | None = None) -> PPCA:
        names = np.zeros(len(x), int) if classes is None else np.unique(classes, return_inverse=True)[1]
        groups = [x[names == name] for name in np.unique(names)]
        self.parts = [(np.log(len(group) / len(x)), _Gaussian(group, self.components)) for group in groups]
        return self

    def score(self, x: np.ndarray) -> np.ndarray:
        from scipy.special import logsumexp

        return -np.asarray(logsumexp([weight + part.log_density(x) for weight, part in self.parts], axis=0))


class _Gaussian:
    """N(μ, W Wᵀ + σ²I): the q leading eigenvectors of the covariance, σ² the mean of its other eigenvalues."""

    SMALLEST = 1e-6  # variance of a pixel on [0, 1] below which it says nothing

    def __init__(self, x: np.ndarray, components: int) -> None:
        self.mean = x.mean(axis=0, dtype=np.float64)
        centred = x - self.mean
        values, vectors = np.linalg.eigh(centred.T @ centred / len(x))  # ascending
        q = max(0, min(components, len(x) - 1, x.shape[1] - 1))
        self.rest = max(float(values[: len(values) - q].mean()), self.SMALLEST)
        self.values = np.maximum(values[len(values) - q :], self.rest)  # (q,)
        self.vectors = vectors[:, len(values) - q :]  # (F, q)

    def log_density(self, x: np.ndarray) -> np.ndarray:
        centred = x - self.mean
        along = (centred @ self.vectors) ** 2  # (M, q)
        across = np.maximum((centred**2).sum(axis=1) - along.sum(axis=1), 0)
        distance = (along / self.values).sum(axis=1) + across / self.rest
        f = x.shape[1]
        log_det = np.log(self.values).sum() + (f - len(self.values)) * np.log(self.rest)
        return -0.5 * (distance + log_det + f * LOG_2PI)


class Forest:
    """Isolation forest (Liu et al. 2008) on raw pixels, scikit-learn's defaults: 100 trees of 256 images each."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, x: np.ndarray, classes: np.ndarray | None = None) -> Forest:
        from sklearn.ensemble import IsolationForest

        self.trees = IsolationForest(random_state=self.seed).fit(x)
        return self

    def score(self, x: np.ndarray) -> np.ndarray:
        return -self.trees.score_samples(x)


class OneClassSVM:
    """One-class SVM (Schölkopf et al. 2001), ν = .1, RBF kernel with γ = 1 / (dimensions · variance).

    On pixels projected to the principal components that hold 95 % of their variance. At most `most` images are
    learned from, drawn by the seed: the time of a fit grows with their square.
    """

    def __init__(self, seed: int = 0, most: int = 10_000) -> None:
        self.seed, self.most = seed, most

    def fit(self, x: np.ndarray, classes: np.ndarray | None = None) -> OneClassSVM:
        from sklearn.decomposition import PCA
        from sklearn.svm import OneClassSVM as Machine

        if len(x) > self.most:
            x = x[np.sort(np.random.default_rng(self.seed).permutation(len(x))[: self.most])]
        self.components = PCA(0.95, svd_solver="full").fit(x.astype(np.float64))
        self.machine = Machine(nu=0.1).fit(self.components.transform(x))
        return self

    def score(self, x: np.ndarray) -> np.ndarray:
        return -self.machine.decision_function(self.components.transform(x))


BASELINES: dict[str, Callable[..., Baseline]] = {  # each takes a seed, 0 by default
    "low contrast": lambda seed=0: Contrast(-1),
    "high contrast": lambda seed=0: Contrast(+1),
    "unusual contrast": lambda seed=0: Contrast(0),
    "pixel 5-NN": lambda seed=0: Neighbours(),
    "PPCA 32": lambda seed=0: PPCA(),
    "isolation forest": Forest,
    "one-class SVM": OneClassSVM,
}
QUICKEST = ("low contrast", "high contrast", "unusual contrast", "pixel 5-NN", "PPCA 32")
