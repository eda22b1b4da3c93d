from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from knowngood.calibration.regions import Region, find_regions, regions_table
from knowngood.errors import DataError, SettingsError

small_maps = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=7),
    elements=st.sampled_from([0.0, 1.0, 1.0, 2.0, 3.0, math.nan]),
)


def by_definition(values: np.ndarray, threshold: float, min_area: int, maxima: list[float]) -> list[Region]:
    """Flood fill in plain Python."""
    height, width = values.shape
    left = {(r, c) for r in range(height) for c in range(width) if float(values[r, c]) > threshold}
    found = []
    while left:
        open_, inside = [min(left)], set()
        while open_:
            here = open_.pop()
            if here in left:
                left.remove(here)
                inside.add(here)
                open_ += [(here[0] + dr, here[1] + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)]
        if len(inside) >= min_area:
            found.append(sorted(inside))
    rows = []
    for inside in found:
        v = [float(values[at]) for at in inside]
        peak_at = inside[v.index(max(v))]
        r, c = [at[0] for at in inside], [at[1] for at in inside]
        box = (min(r), min(c), max(r) + 1, max(c) + 1)
        p = (1 + sum(m >= max(v) for m in maxima)) / (len(maxima) + 1)
        centroid = (sum(r) / len(r), sum(c) / len(c))
        rows.append((-max(v), peak_at, box, centroid, sum(v) / len(v), p, len(v)))
    return [
        Region(i, area, -peak, at, box, centroid, pytest.approx(mean), p)
        for i, (peak, at, box, centroid, mean, p, area) in enumerate(sorted(rows), start=1)
    ]


@pytest.mark.slow
@settings(deadline=None)
@given(small_maps, st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.5]), st.integers(1, 4))
def test_regions_are_their_definition(values: np.ndarray, threshold: float, min_area: int) -> None:
    maxima = [0.5, 1.0, 2.0, 2.0]
    assert find_regions(values, threshold, min_area=min_area, maxima=maxima) == by_definition(
        values, threshold, min_area, maxima
    )


@pytest.mark.slow
def test_every_pattern_of_three_by_three_pixels() -> None:
    for bits in itertools.product([0.0, 1.0], repeat=9):
        values = np.array(bits).reshape(3, 3)
        assert find_regions(values, 0.5, maxima=[]) == by_definition(values, 0.5, 1, [])


def test_strictly_above_without_rounding_the_threshold() -> None:
    tenth = np.float32(0.1)  # above 0.1
    assert len(find_regions([[tenth]], 0.1)) == 1
    assert find_regions([[tenth]], float(tenth)) == []
    third = np.float32(0.3)
    below = float(np.nextafter(third, np.float32(0)))
    assert len(find_regions([[third]], (below + float(third)) / 2)) == 1
    assert (
        find_regions([[below]], below) == find_regions([[third]], 1e300) == find_regions([[math.inf]], math.inf) == []
    )
    assert find_regions([[math.inf]], 1e300)[0].peak == math.inf


def test_corners_touch_and_nan_parts() -> None:
    assert [r.area for r in find_regions(np.eye(4), 0.5)] == [4]
    split = np.ones((3, 5))
    split[:, 2] = np.nan
    assert [r.box for r in find_regions(split, 0.5)] == [(0, 0, 3, 2), (0, 3, 3, 5)]
    assert find_regions(np.full((2, 2), np.nan), -math.inf) == []


def test_of_equal_peaks_the_first_one_leads() -> None:
    values = np.array([[1, 0, 0], [1, 0, 2], [2, 0, 0]])  # the left region begins earlier, the right one peaks earlier
    assert [r.peak_at for r in find_regions(values, 0.5)] == [(1, 2), (2, 0)]
    assert [r.peak_at for r in find_regions(values[::-1], 0.5)] == [(0, 0), (1, 2)]
    assert find_regions(np.full((3, 3), 2), 0.5)[0].peak_at == (0, 0)


def test_table_of_regions() -> None:
    values = np.zeros((4, 6))
    values[0, 0], values[2:4, 3:6] = 2, 1
    values[3, 4] = 5
    found = [find_regions(values, 0.5, maxima=[3.0]), [], find_regions(values, 1.5)]
    table = regions_table(["b.png", "none.png", "a.png"], found)
    assert table["id"].tolist() == ["b.png", "b.png", "a.png", "a.png"]
    assert table.iloc[0, 1:].tolist() == [1, 6, 5.0, 0.5, 3, 4, 2, 3, 4, 6, 2.5, 4.0, 10 / 6]
    assert table["p_value"].tolist()[:2] == [0.5, 1.0]
    assert table["p_value"].isna().tolist() == [False, False, True, True]
    empty = regions_table([], [])
    assert len(empty) == 0
    assert empty.dtypes[1:].to_dict() == table.dtypes[1:].to_dict()


def test_what_has_no_regions_is_refused() -> None:
    with pytest.raises(DataError, match=r"expected shape \(H, W\)"):
        find_regions(np.zeros(3), 0)
    with pytest.raises(DataError, match="at least one pixel"):
        find_regions(np.zeros((0, 3)), 0)
    with pytest.raises(SettingsError, match="threshold of a region is NaN"):
        find_regions(np.zeros((2, 2)), math.nan)
    with pytest.raises(SettingsError, match="min_area = 0"):
        find_regions(np.zeros((2, 2)), 0, min_area=0)
