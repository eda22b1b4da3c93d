"""Inspection baselines against their definitions, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from benchmarks.baselines import BASELINES
from benchmarks.inspection_baselines import (
    POOL,
    CoresetNeighbours,
    OneGaussian,
    Padim,
    SubspaceResidual,
    contrast_scores,
    greedy_coreset,
    smooth,
)
from knowngood.data import ImageSet
from knowngood.errors import DataError


def features(n: int, seed: int = 0, f: int = 6, h: int = 3, w: int = 4) -> np.ndarray:
    """Correlated, of different scales, with another mean at each position."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(f, f)) * np.geomspace(0.1, 5, f)[:, None]
    means = np.random.default_rng(98).normal(0, 3, (f, h, w))
    return (np.einsum("gf,nfhw->nghw", mixing, rng.normal(size=(n, f, h, w))) + means).astype(np.float32)


# PaDiM ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 40])  # fewer images than features, and more
def test_padim_is_a_gaussian_at_each_position(n: int) -> None:
    good, judged = features(n), features(5, seed=1)
    scores, maps = Padim().fit(good).score(judged)
    for i in range(3):
        for j in range(4):
            x = good[:, :, i, j].astype(np.float64)
            inverse = np.linalg.pinv(np.cov(x.T) + 0.01 * np.eye(6), hermitian=True)
            off = judged[:, :, i, j] - x.mean(axis=0)
            wanted = np.sqrt(np.einsum("nf,fg,ng->n", off, inverse, off))
            np.testing.assert_allclose(maps[:, i, j], wanted, rtol=1e-4)
    assert np.array_equal(scores, maps.max(axis=(1, 2)))


def test_padim_in_parts_is_padim(monkeypatch: pytest.MonkeyPatch) -> None:
    good, judged = features(10), features(5, seed=1)
    whole = Padim().fit(good).score(judged)
    monkeypatch.setattr("benchmarks.inspection_baselines.VALUES_AT_ONCE", 500)
    assert len(Padim().fit(good)._parts(10)) > 2
    for one, other in zip(whole, Padim().fit(good).score(judged), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_padim_on_some_channels() -> None:
    good, judged = features(20), features(5, seed=1)
    some = Padim(channels=3, seed=4).fit(good)
    assert len(set(some.chosen.tolist())) == 3
    alone = Padim().fit(good[:, some.chosen]).score(judged[:, some.chosen])
    np.testing.assert_allclose(some.score(judged)[1], alone[1], rtol=1e-5)
    drawn = {tuple(Padim(3, seed).fit(good).chosen) for seed in range(10)}
    assert len(drawn) > 1


# Coreset --------------------------------------------------------------------------------------------------------------


def naive_greedy(points: np.ndarray, first: int, size: int) -> list[int]:
    distance = cdist(points, points)
    chosen = [first]
    while len(chosen) < size:
        far = distance[:, chosen].min(axis=1)
        far[chosen] = -1
        chosen.append(int(far.argmax()))
    return chosen


@pytest.mark.slow
@pytest.mark.parametrize("n", [POOL // 2, 3 * POOL])  # all points in one round's pool, and not
def test_the_greedy_choice_is_that_of_one_step_at_a_time(n: int) -> None:
    points = np.random.default_rng(0).normal(size=(n, 5))
    chosen = greedy_coreset(torch.tensor(points), n // 2, np.random.default_rng(1)).tolist()
    assert chosen == naive_greedy(points, chosen[0], n // 2)


def test_the_greedy_choice_takes_one_of_each_cluster_first_and_covers() -> None:
    rng = np.random.default_rng(0)
    sizes = [3, 5, 50, 400, 542]  # random picks miss the small ones
    cluster = np.repeat(np.arange(5), sizes)
    points = rng.normal(size=(1000, 8)) * 0.1 + 20 * np.eye(8)[cluster]
    distance = cdist(points, points)
    for seed in range(5):
        chosen = greedy_coreset(torch.tensor(points), 20, np.random.default_rng(seed)).numpy()
        assert sorted(cluster[chosen[:5]]) == [0, 1, 2, 3, 4]
        radius = distance[:, chosen].min(axis=1).max()
        random = np.random.default_rng(seed).permutation(1000)[:20]
        assert radius < distance[:, random].min(axis=1).max()
        # The points chosen and the one left farthest are all at least the radius apart, so no 20 balls of less than
        # half of it can cover them (Gonzalez 1985).
        mutual = distance[np.ix_(chosen, chosen)] + 1e9 * np.eye(20)
        assert mutual.min() >= radius - 1e-9


def test_the_greedy_choice_on_equal_points() -> None:
    chosen = greedy_coreset(torch.zeros(2 * POOL, 3), 7, np.random.default_rng(0)).tolist()
    assert len(set(chosen)) == 7
    assert sorted(greedy_coreset(torch.ones(4, 2), 9, np.random.default_rng(0)).tolist()) == [0, 1, 2, 3]


def patches_of(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1]).astype(np.float64)


def test_neighbours_with_the_whole_coreset_are_brute_force() -> None:
    good, judged = features(6), features(5, seed=1)
    scores, maps = CoresetNeighbours(share=1, candidates=None).fit(good).score(judged)
    bank = patches_of(good)
    for k in range(5):
        distance = cdist(patches_of(judged[k : k + 1]), bank)
        np.testing.assert_allclose(maps[k].ravel(), distance.min(axis=1), rtol=1e-5)
        worst = int(distance.min(axis=1).argmax())
        nearest = int(distance[worst].argmin())
        round_it = np.argsort(cdist(bank[nearest : nearest + 1], bank)[0])[:9]
        exponents = np.exp(distance[worst])
        weight = 1 - exponents[nearest] / exponents[round_it].sum()
        assert scores[k] == pytest.approx(weight * distance[worst].min(), rel=1e-4)


def test_what_was_learnt_is_no_distance_away() -> None:
    good = features(6)
    scores, maps = CoresetNeighbours(share=1, candidates=None).fit(good).score(good)
    assert np.abs(maps).max() < 1e-6
    assert np.abs(scores).max() < 1e-6


def test_share_candidates_and_seed() -> None:
    good = features(10, f=150)
    assert len(CoresetNeighbours().fit(good).bank) == 12
    few = CoresetNeighbours(share=0.5, candidates=40).fit(good)
    assert len(few.bank) == 20
    patches = {tuple(patch) for patch in patches_of(good).tolist()}
    assert {tuple(patch) for patch in few.bank.double().tolist()} <= patches
    again, other = (CoresetNeighbours(share=0.5, candidates=40, seed=seed).fit(good) for seed in (0, 1))
    assert torch.equal(few.bank, again.bank)
    assert not torch.equal(few.bank, other.bank)


def test_one_neighbour_has_no_weight() -> None:
    scores, maps = CoresetNeighbours(share=1e-9).fit(features(3)).score(features(2, seed=1))
    np.testing.assert_array_equal(scores, maps.max(axis=(1, 2)))


@pytest.mark.parametrize("make", [Padim, CoresetNeighbours, OneGaussian, SubspaceResidual])
def test_features_that_do_not_fit(make) -> None:
    fitted = make().fit(features(4))
    with pytest.raises(DataError, match=r"\(6, 3, 3\).*fitted on \(6, 3, 4\)"):
        fitted.score(features(2, w=3))
    with pytest.raises(DataError, match=r"expected \(N, F, h, w\)"):
        make().fit(features(4)[0])
    assert features(4)[:0].shape[0] == 0
    with pytest.raises(DataError, match=r"expected \(N, F, h, w\)"):
        make().fit(features(4)[:0])


def test_padim_needs_two_images() -> None:
    with pytest.raises(DataError, match="at least 2"):
        Padim().fit(features(1))


@pytest.mark.parametrize("make", [Padim, CoresetNeighbours, OneGaussian, SubspaceResidual])
def test_a_patch_out_of_place_stands_out(make) -> None:
    good, judged = features(30), features(6, seed=1)
    judged[3, :, 1, 2] += 25
    scores, maps = make().fit(good).score(judged)
    assert scores.argmax() == 3
    assert np.unravel_index(maps[3].argmax(), (3, 4)) == (1, 2)
    assert (maps.dtype, scores.dtype) == (np.float32, np.float32)


# All patches as one sample --------------------------------------------------------------------------------------------


def test_one_gaussian_has_the_moments_of_all_patches() -> None:
    good, judged = features(7), features(5, seed=1)
    scores, maps = OneGaussian().fit(good).score(judged)
    x, y = patches_of(good), patches_of(judged)
    inverse = np.linalg.inv(np.cov(x.T) + 0.01 * np.eye(6))
    off = y - x.mean(axis=0)
    wanted = np.sqrt(np.einsum("nf,fg,ng->n", off, inverse, off)).reshape(5, 3, 4)
    np.testing.assert_allclose(maps, wanted, rtol=1e-4)
    np.testing.assert_array_equal(scores, maps.max(axis=(1, 2)))


def test_one_gaussian_at_one_location_is_padim() -> None:
    good, judged = features(20, h=1, w=1), features(5, seed=1, h=1, w=1)
    np.testing.assert_allclose(OneGaussian().fit(good).score(judged)[0], Padim().fit(good).score(judged)[0], rtol=1e-4)


@pytest.mark.parametrize("kept", [0.5, 0.9, 0.95])
def test_the_residual_is_what_the_leading_components_leave(kept: float) -> None:
    good, judged = features(7), features(5, seed=1)
    scores, maps = SubspaceResidual(kept).fit(good).score(judged)
    x = patches_of(good)
    pca = PCA(kept, svd_solver="full").fit(x)
    assert 0 < pca.n_components_ < 6
    y = patches_of(judged)
    wanted = ((y - pca.inverse_transform(pca.transform(y))) ** 2).sum(axis=1).reshape(5, 3, 4)
    np.testing.assert_allclose(maps, wanted, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(scores, maps.max(axis=(1, 2)))  # of 12 patches 1 % is one


def test_the_score_of_a_residual_is_the_mean_of_the_highest_hundredth() -> None:
    good, judged = features(7, h=20, w=20), features(2, seed=1, h=20, w=20)
    scores, maps = SubspaceResidual(0.9).fit(good).score(judged)
    np.testing.assert_allclose(scores, np.sort(maps.reshape(2, -1))[:, -4:].mean(axis=1), rtol=1e-6)


def test_nothing_in_the_subspace_is_far_from_it() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(2, 6))
    grid = (rng.normal(size=(30, 3, 4, 2)) @ plane).transpose(0, 3, 1, 2).astype(np.float32)
    baseline = SubspaceResidual(1 - 1e-9).fit(grid)
    assert baseline.components.shape == (6, 2)
    assert baseline.score(10 * grid)[1].max() < 1e-6 * (10 * grid**2).sum(axis=1).max()


# Maps and contrast ----------------------------------------------------------------------------------------------------


def test_smooth_is_bilinear_then_a_gaussian() -> None:
    maps = np.random.default_rng(0).random((2, 4, 6), np.float32)
    large = smooth(maps, (8, 12), sigma=0)
    # Between the centres of two cells a value is at quarters.
    assert large[0, 1, 1] == pytest.approx(
        (9 * maps[0, 0, 0] + 3 * maps[0, 0, 1] + 3 * maps[0, 1, 0] + maps[0, 1, 1]) / 16, rel=1e-5
    )
    np.testing.assert_allclose(smooth(maps, (8, 12), 1.5)[1], gaussian_filter(large[1], 1.5), rtol=1e-5)
    np.testing.assert_allclose(smooth(np.full((1, 3, 3), 2.0, np.float32), (30, 30)), 2, rtol=1e-5)


def test_contrast_is_that_of_the_other_baselines() -> None:
    rng = np.random.default_rng(0)
    good, judged = (
        (rng.normal(128, width, (n, 12, 12, 1)).clip(0, 255)).astype(np.uint8) for n, width in ((9, 20), (5, 40))
    )
    found = contrast_scores(*(ImageSet.from_arrays(x) for x in (good, judged)))
    assert set(found) == {"low contrast", "high contrast", "unusual contrast"}
    for name, scores in found.items():
        rows = [(x / 255).reshape(len(x), -1).astype(np.float32) for x in (good, judged)]
        np.testing.assert_allclose(scores, BASELINES[name]().fit(rows[0]).score(rows[1]), rtol=1e-5, atol=1e-7)
