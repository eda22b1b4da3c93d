"""Codes of any number of dimensions as points in a plane."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from knowngood.config import nearest
from knowngood.errors import DataError, SettingsError

Projection = Literal["auto", "raw", "pca", "tsne", "umap"]
AxisNames = tuple[str, str]


def project(
    codes: np.ndarray, method: str = "auto", *, dims: tuple[int, int] | None = None, seed: int = 0
) -> tuple[np.ndarray, AxisNames]:
    """(N, 2) points and what their axes are.

    Args:
        codes: (N, D), N ≥ 3.
        method: "raw" takes two dimensions as they are; "pca" the two directions of largest variance; "tsne" and "umap"
            keep neighbours together and mean nothing by their distances; "auto" is raw if D is 1 or 2, else pca.
        dims: the two of "raw"; by default 0 and 1. One-dimensional codes get zeros beside them.
        seed: of t-SNE and UMAP.

    Raises:
        SettingsError: an unknown method, dimensions that do not exist, or UMAP without umap-learn.
        DataError: fewer than three items.
    """
    codes = np.asarray(codes, float)
    if method not in get_args(Projection):
        raise SettingsError(f"unknown projection '{method}'" + nearest(method, list(get_args(Projection))))
    if codes.ndim != 2 or len(codes) < 3:
        raise DataError(f"codes of shape {codes.shape} cannot be projected; expected (N ≥ 3, D)")
    count = codes.shape[1]
    if dims is not None and (len(dims) != 2 or not all(0 <= dim < count for dim in dims)):
        raise SettingsError(f"dims = {tuple(dims)}: expected two of the {count} dimensions, counted from 0")
    if method == "auto":
        method = "raw" if count <= 2 or dims is not None else "pca"
    if count == 1:
        return np.c_[codes, np.zeros(len(codes))], ("z0", "")
    if method == "raw":
        a, b = dims or (0, 1)
        return codes[:, [a, b]], (f"z{a}", f"z{b}")
    if method == "pca":
        return _pca(codes)
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(codes) - 1) / 3)
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(codes)
        return np.asarray(points, float), ("t-SNE 1 (no unit)", "t-SNE 2 (no unit)")
    return _umap(codes, seed)


def _pca(codes: np.ndarray) -> tuple[np.ndarray, AxisNames]:
    centred = codes - codes.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), [0, 1]])  # the same way round on every machine
    share = 100 * values[::-1][:2] / max(values.sum(), 1e-300)
    return centred @ axes, (f"PC 1 ({share[0]:.0f} % of the variance)", f"PC 2 ({share[1]:.0f} %)")


def _umap(codes: np.ndarray, seed: int) -> tuple[np.ndarray, AxisNames]:
    try:
        from umap import UMAP  # type: ignore[import-not-found]
    except ImportError:
        raise SettingsError(
            "projection 'umap' needs umap-learn: pip install 'knowngood[umap]', or take 'pca' or 'tsne'"
        ) from None
    points = UMAP(n_neighbors=min(15, len(codes) - 1), random_state=seed, n_jobs=1).fit_transform(codes)
    return np.asarray(points, float), ("UMAP 1 (no unit)", "UMAP 2 (no unit)")
