from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from knowngood.errors import DataError, SettingsError
from knowngood.metrics import aupro, pixel_auroc, pixel_metrics

Maps = list[np.ndarray]
Masks = list[np.ndarray | None]
METRICS = [aupro, pixel_auroc, pixel_metrics]


def random_case(seed: int, levels: int, shapes: int = 4) -> tuple[Maps, Masks]:
    """Images of different sizes, scores from few levels so that they tie, masks with several regions or none."""
    rng = np.random.default_rng(seed)
    sizes = [(2, 3), *rng.integers(1, 9, (shapes, 2)).tolist()]
    maps: Maps = [rng.integers(0, levels, size) / 7 for size in sizes]
    masks: Masks = [rng.random(size) < rng.choice([0.1, 0.3, 0.6]) for size in sizes]
    masks[0] = np.array([[True, False, True], [False, False, True]])  # both classes, two regions
    return [*maps, rng.integers(0, levels, (3, 4)) / 7], [*masks, None]


def regions_of(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """8-connected components by walking from pixel to neighbouring pixel."""
    left, found = {(int(i), int(j)) for i, j in np.argwhere(mask)}, []
    while left:
        region, edge = [], [left.pop()]
        while edge:
            i, j = edge.pop()
            region.append((i, j))
            near = {(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            edge += near
        found.append(region)
    return found


def curve_by_definition(maps: Maps, masks: Masks) -> tuple[np.ndarray, np.ndarray]:
    """(fpr, pro) at every distinct score of any pixel, each threshold by itself."""
    full = [np.zeros(m.shape, bool) if mask is None else mask for m, mask in zip(maps, masks, strict=True)]
    regions = [(m, region) for m, mask in zip(maps, full, strict=True) for region in regions_of(mask)]
    normal = np.concatenate([m[~mask] for m, mask in zip(maps, full, strict=True)])
    fpr, pro = [0.0], [0.0]
    for threshold in sorted({s for m in maps for s in m.ravel().tolist()}, reverse=True):
        fpr.append(np.mean(normal >= threshold))
        pro.append(np.mean([np.mean([m[at] >= threshold for at in region]) for m, region in regions]))
    return np.array(fpr), np.array(pro)


def aupro_by_definition(maps: Maps, masks: Masks, limit: float) -> float:
    fpr, pro = curve_by_definition(maps, masks)
    area = 0.0
    for x0, x1, y0, y1 in zip(fpr, fpr[1:], pro, pro[1:], strict=False):
        if x1 > limit:
            return (area + (limit - x0) * (y0 + (y0 + (y1 - y0) * (limit - x0) / (x1 - x0))) / 2) / limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def flat(maps: Maps, masks: Masks) -> tuple[np.ndarray, np.ndarray]:
    marks = [np.zeros(m.shape, bool) if mask is None else mask for m, mask in zip(maps, masks, strict=True)]
    return np.concatenate([m.ravel() for m in marks]), np.concatenate([m.ravel() for m in maps])


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 5, 1000]), st.sampled_from([0.01, 0.1, 0.3, 0.77, 1.0]))
def test_aupro_is_its_definition(seed: int, levels: int, limit: float) -> None:
    maps, masks = random_case(seed, levels)
    assert aupro(maps, masks, limit) == pytest.approx(aupro_by_definition(maps, masks, limit), rel=0, abs=1e-12)


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 5, 1000]))
def test_auroc_and_average_precision_are_scikit_learns(seed: int, levels: int) -> None:
    maps, masks = random_case(seed, levels)
    labels, scores = flat(maps, masks)
    assert pixel_auroc(maps, masks) == pytest.approx(roc_auc_score(labels, scores), rel=0, abs=1e-12)
    wanted = average_precision_score(labels, scores)
    assert pixel_metrics(maps, masks)["pixel_average_precision"] == pytest.approx(wanted, rel=0, abs=1e-12)


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1))
def test_only_the_order_of_scores_matters(seed: int) -> None:
    maps, masks = random_case(seed, 8)
    metrics = pixel_metrics(maps, masks)
    assert pixel_metrics([np.exp(m) - 40 for m in maps], masks) == metrics
    assert pixel_metrics([np.where(m == 0, -np.inf, np.where(m == 1, np.inf, m)) for m in maps], masks) == metrics


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1))
def test_one_sort_gives_what_each_metric_gives(seed: int) -> None:
    maps, masks = random_case(seed, 5)
    assert pixel_metrics(maps, masks, 0.2) == {
        "pixel_auroc": pixel_auroc(maps, masks),
        "pixel_average_precision": pixel_metrics(maps, masks)["pixel_average_precision"],
        "aupro": aupro(maps, masks, 0.2),
    }


def test_of_one_pixel_regions_the_whole_area_is_the_auroc() -> None:
    rng = np.random.default_rng(3)
    mask = np.zeros((9, 9), bool)
    mask[::2, ::2] = True
    maps: Maps = [rng.normal(size=(9, 9)) + mask]
    assert aupro(maps, [mask], 1.0) == pytest.approx(pixel_auroc(maps, [mask]), abs=1e-12)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_a_perfect_map_has_one_and_its_reverse_nothing(limit: float) -> None:
    rng = np.random.default_rng(0)
    masks: Masks = [rng.random((8, 8)) < 0.2, rng.random((5, 7)) < 0.2]
    maps = [np.where(mask, 2, 0) + rng.random(np.shape(mask)) for mask in masks]
    perfect, reversed_ = pixel_metrics(maps, masks, limit), pixel_metrics([-m for m in maps], masks, limit)
    assert list(perfect.values()) == pytest.approx([1, 1, 1], abs=1e-12)
    assert reversed_["pixel_auroc"] == reversed_["aupro"] == 0


def test_rounding_never_passes_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        masks: Masks = [rng.random((12, 12)) < 0.4]
        maps = [np.where(mask, 2, 0) + rng.random((12, 12)) for mask in masks]
        assert max(pixel_metrics(maps, masks).values()) <= 1


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_a_constant_map_is_the_diagonal(limit: float) -> None:
    masks: Masks = [np.eye(4, dtype=bool), None]
    metrics = pixel_metrics([np.full((4, 4), 7.0), np.full((2, 2), 7.0)], masks, limit)
    assert metrics == pytest.approx(
        {"pixel_auroc": 0.5, "pixel_average_precision": 4 / 20, "aupro": limit / 2}, abs=1e-15
    )


def test_a_region_counts_once_however_large() -> None:
    """Half of the regions are found by the first threshold, the other half only with everything."""
    mask = np.zeros((20, 20), bool)
    mask[:10, :10], mask[15, 15] = True, True
    found = np.zeros((20, 20))
    found[:10, :10] = 1
    for limit in (0.1, 0.3, 1.0):
        assert aupro([found], [mask], limit) == pytest.approx(0.5 + 0.5 * limit / 2, abs=1e-12)
    assert pixel_auroc([found], [mask]) == pytest.approx((100 + 1 / 2) / 101, abs=1e-12)


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    mask = np.zeros((6, 6), bool)
    mask[0, 0] = mask[1, 1] = mask[2, 2] = mask[5, 0] = True  # three on a diagonal, one by itself
    found = np.where(mask, 0.0, 1.0)
    found[5, 0] = 2
    assert aupro([found], [mask], 0.3) == pytest.approx(1 / 2, abs=1e-12)


def test_regions_of_different_images_never_join_and_the_rate_is_over_all_images() -> None:
    maps: Maps = [np.array([[3.0, 1]]), np.array([[1.0, 2]]), np.array([[0.0, 0]])]
    masks: Masks = [np.array([[True, False]]), np.array([[False, True]]), None]
    # 3 and 2 are found before any of the four normal pixels; then 4 above 3 flags one of those first.
    assert aupro(maps, masks, 0.5) == pytest.approx(1, abs=1e-12)
    maps[2] = np.array([[4.0, 0]])
    assert aupro(maps, masks, 0.5) == pytest.approx(0.5, abs=1e-12)


def test_scores_are_compared_at_their_own_precision() -> None:
    maps, masks = [np.array([[1.0, 1 + 1e-12]])], [np.array([[False, True]])]
    assert pixel_auroc(maps, masks) == 1.0
    assert pixel_auroc([m.astype(np.float32) for m in maps], masks) == 0.5
    assert pixel_auroc([np.array([[200, 255]], np.uint8)], masks) == 1.0


def test_arguments_are_left_as_they_were() -> None:
    maps, masks = random_case(0, 9)
    before = [m.copy() for m in maps]
    pixel_metrics([*maps[:1], maps[-1]], [masks[0], None])
    assert all(np.array_equal(now, then) for now, then in zip(maps, before, strict=True))


@pytest.fixture(scope="module")
def large() -> tuple[Maps, Masks, np.ndarray, np.ndarray]:
    """Three large images with ties that make jumps of the overlap and of the rate, and their (fpr, pro), counted."""
    rng = np.random.default_rng(0)
    boxes = [np.s_[20:60, 30:120], np.s_[200:, 250:]]
    mask = np.zeros((300, 300), bool)
    maps = list(rng.normal(size=(3, 300, 300)).astype(np.float32))
    for box in boxes:
        mask[box] = True
    maps[0][boxes[0]] += 1
    maps[1][boxes[1]] = 0.5
    maps[2][:100] = 0.25
    normal = np.sort(np.concatenate([maps[0][~mask], maps[1][~mask], maps[2].ravel()]))
    regions = [np.sort(m[box].ravel()) for m in maps[:2] for box in boxes]
    thresholds = np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]
    x = 1 - np.searchsorted(normal, thresholds) / len(normal)
    y = np.mean([1 - np.searchsorted(region, thresholds) / len(region) for region in regions], 0)
    return maps, [mask, mask, None], x, y


@pytest.mark.slow
def test_many_pixels_are_as_exact(large: tuple[Maps, Masks, np.ndarray, np.ndarray]) -> None:
    maps, masks, x, y = large
    labels, scores = flat(maps, masks)
    below = x < 0.3
    x, y = np.append(x[below], 0.3), np.append(y[below], np.interp(0.3, x, y))
    wanted = {
        "pixel_auroc": roc_auc_score(labels, scores),
        "pixel_average_precision": average_precision_score(labels, scores),
        "aupro": (np.trapezoid(y, x) + x[0] * y[0] / 2) / 0.3,
    }
    assert pixel_metrics(maps, masks) == pytest.approx(wanted, rel=0, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_maps_that_cannot_be_ranked_are_refused(metric: Callable[..., object]) -> None:
    zeros, some = np.zeros((2, 3)), np.array([[True, False, False], [False, False, True]])
    with pytest.raises(DataError, match="2 maps and 1 masks"):
        metric([zeros, zeros], [some])
    with pytest.raises(DataError, match=r"mask 1 has shape \(3, 2\) and its map \(2, 3\)"):
        metric([zeros, zeros], [some, some.T])
    with pytest.raises(DataError, match="mask 1 has dtype uint8; expected bool"):
        metric([zeros, zeros], [some, some.astype(np.uint8)])
    with pytest.raises(DataError, match=r"map 1 has shape \(1, 2, 3\)"):
        metric([zeros, zeros[None]], [some, None])
    with pytest.raises(DataError, match="map 1: 2 of 6 pixels have the score NaN"):
        metric([zeros, np.where(some, np.nan, 0)], [some, None])
    with pytest.raises(DataError, match="12 normal and 0 anomalous"):
        metric([zeros, zeros], [None, ~np.ones((2, 3), bool)])
    with pytest.raises(DataError, match="0 normal and 6 anomalous"):
        metric([zeros], [np.ones((2, 3), bool)])
    with pytest.raises(DataError, match="0 normal and 0 anomalous"):
        metric([], [])


@pytest.mark.parametrize("limit", [0, -0.1, 30, float("nan")])
@pytest.mark.parametrize("metric", [aupro, pixel_metrics])
def test_a_limit_that_is_no_rate_is_refused(metric: Callable[..., object], limit: float) -> None:
    with pytest.raises(SettingsError, match="limit = "):
        metric([np.eye(2)], [np.eye(2, dtype=bool)], limit)
