"""Baselines against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.baselines import PPCA, Contrast, Neighbours


def test_contrast_directions() -> None:
    good = np.array([[0.4, 0.6], [0.3, 0.7], [0.2, 0.8]], np.float32)  # contrasts .1, .2, .3
    flat, steep = np.full((1, 2), 0.5, np.float32), np.array([[0.0, 1.0]], np.float32)
    low, high, odd = (Contrast(sign).fit(good) for sign in (-1, 1, 0))
    assert low.score(flat) > low.score(good).max() > low.score(steep)
    assert high.score(steep) > high.score(good).max() > high.score(flat)
    assert np.allclose(odd.score(np.concatenate([good, flat, steep])), [0.1, 0, 0.1, 0.2, 0.3], atol=1e-6)


def test_neighbours_is_the_mean_distance_to_the_nearest() -> None:
    line = np.arange(5, dtype=np.float32)[:, None]
    assert Neighbours(2).fit(line).score(np.array([[6.0], [1.5]], np.float32)) == pytest.approx([2.5, 0.5])
    assert Neighbours(9).fit(line).score(line[:1]) == pytest.approx([2.0])


def correlated(n: int, seed: int, f: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, f)) @ rng.normal(size=(f, f)) + rng.normal(size=f)


def test_ppca_with_all_components_is_the_gaussian_of_the_data() -> None:
    x, new = correlated(200, 0), correlated(20, 1)
    exact = stats.multivariate_normal(x.mean(0), np.cov(x.T, bias=True)).logpdf(new)
    assert np.allclose(PPCA(x.shape[1] - 1).fit(x).score(new), -exact)


def test_ppca_spreads_the_rest_evenly() -> None:
    x, new = correlated(200, 0), correlated(20, 1)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    values[:4] = values[:4].mean()
    exact = stats.multivariate_normal(x.mean(0), vectors * values @ vectors.T).logpdf(new)
    assert np.allclose(PPCA(2).fit(x).score(new), -exact)


def test_ppca_sums_classes_out() -> None:
    a, b, new = correlated(90, 0), correlated(30, 1), correlated(10, 2)
    mixed = PPCA(3).fit(np.concatenate([a, b]), np.repeat(["a", "b"], [90, 30])).score(new)
    density = 0.75 * np.exp(-PPCA(3).fit(a).score(new)) + 0.25 * np.exp(-PPCA(3).fit(b).score(new))
    assert np.allclose(mixed, -np.log(density))


def test_ppca_survives_few_and_constant_pixels() -> None:
    x = np.zeros((3, 50), np.float32)
    x[:, 0] = [0, 0.5, 1]
    scores = PPCA().fit(x).score(np.vstack([x, np.ones((1, 50), np.float32)]))
    assert np.isfinite(scores).all()
    assert scores.argmax() == 3
