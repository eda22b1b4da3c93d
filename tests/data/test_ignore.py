from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from safetensors.numpy import load, save

from knowngood.data.conditions import ConditionSchema
from knowngood.data.regions.blanked import read_ignored
from knowngood.data.regions.ignore import IgnoreRegions
from knowngood.data.regions.polygons import fill
from knowngood.errors import ArtifactError, DataError, SettingsError

SQUARE = [[0, 0], [0.5, 0], [0.5, 0.5], [0, 0.5]]
corners = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=3, max_size=7)
masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)).filter(lambda m: m.any() and not m.all())


def saved_and_loaded(regions: IgnoreRegions) -> IgnoreRegions:
    return IgnoreRegions.from_tensors(load(save(regions.to_tensors())), json.loads(json.dumps(regions.metadata())))


# Polygons -----------------------------------------------------------------------------------------------------------


def is_inside(polygon: list[tuple[int, int]], x: Fraction, y: Fraction) -> bool:
    """Even-odd: edges that cross the line from the far left to the point, the point itself included."""
    crossings = 0
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if min(y0, y1) <= y < max(y0, y1):
            crossings += x0 + (y - y0) * Fraction(x1 - x0, y1 - y0) <= x
    return crossings % 2 == 1


def distance(polygon: list[tuple[int, int]], x: float, y: float) -> float:
    """From a point to the nearest outline of the polygon."""
    start = np.array(polygon, dtype=float)
    side, point = np.roll(start, -1, axis=0) - start, np.array([x, y])
    length = (side**2).sum(axis=1)
    along = np.clip(((point - start) * side).sum(axis=1) / np.where(length, length, 1), 0, 1)
    return float(np.hypot(*(start + along[:, None] * side - point).T).min())


@pytest.mark.slow
@settings(deadline=None)
@given(corners, st.sampled_from([4, 8, 16, 24]), st.sampled_from([4, 8, 16, 24]))
def test_fill_is_the_even_odd_rule_beyond_a_pixel_from_an_outline(
    polygon: list[tuple[int, int]], height: int, width: int
) -> None:
    """Pillow counts outlines as inside and rounds vertices, here to half pixels, so nearer pixels may differ."""
    filled = fill([tuple((x / 8, y / 8) for x, y in polygon)], height, width)
    half = Fraction(1, 2)
    for r, c in np.ndindex(height, width):
        if distance([(x * width / 8, y * height / 8) for x, y in polygon], c + 0.5, r + 0.5) > 1:
            x, y = (c + half) * Fraction(8, width), (r + half) * Fraction(8, height)
            assert filled[r, c] == is_inside(polygon, x, y)


def bounds(most: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, most), min_size=2, max_size=2, unique=True).map(sorted)


@settings(deadline=None)
@given(bounds(9), bounds(7))
def test_a_rectangle_of_whole_pixels_is_exactly_those_pixels(columns: list[int], rows: list[int]) -> None:
    (left, right), (top, bottom) = columns, rows
    box = ((left / 9, top / 7), (right / 9, top / 7), (right / 9, bottom / 7), (left / 9, bottom / 7))
    expected = np.zeros((7, 9), dtype=bool)
    expected[top:bottom, left:right] = True
    assert np.array_equal(fill([box], 7, 9), expected)


def test_a_rectangle_in_pixels_is_those_pixels() -> None:
    regions = IgnoreRegions.of({"polygons": [[(2, 1), (7, 1), (7, 4), (2, 4)]], "size": (10, 6)})
    expected = np.zeros((6, 10), dtype=bool)
    expected[1:4, 2:7] = True
    assert np.array_equal(regions.mask((6, 10)), expected)
    assert np.array_equal(regions.mask((12, 20)), expected.repeat(2, 0).repeat(2, 1))


@settings(deadline=None)
@given(st.tuples(st.floats(0, 1), st.floats(0, 1)), st.integers(1, 20), st.integers(1, 20))
def test_polygons_that_share_edges_leave_no_gap(inner: tuple[float, float], height: int, width: int) -> None:
    """Four triangles from the corners to one point inside: each pixel in one of them, in two only along their edges."""
    around = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    parts = [(around[i], around[(i + 1) % 4], inner) for i in range(4)]
    assert (sum(fill([one], height, width).astype(int) for one in parts) >= 1).all()
    assert fill(parts, height, width).all()


def test_fill_of_a_disc_has_its_area() -> None:
    angle = np.linspace(0, 2 * math.pi, 400, endpoint=False)
    disc = tuple((0.5 + 0.4 * math.cos(a), 0.5 + 0.4 * math.sin(a)) for a in angle)
    outline = math.pi * 0.4 * (500 + 300)  # pixels, at least the circumference of the ellipse
    excess = fill([disc], 500, 300).sum() - math.pi * 0.16 * 500 * 300
    assert -0.05 * outline < excess < 0.5 * outline  # what lies on the outline counts, up to half a pixel around


def test_overlapping_polygons_join() -> None:
    shifted = [[x + 0.25, y] for x, y in SQUARE]
    both = IgnoreRegions.of([SQUARE, shifted]).mask((8, 8))
    assert np.array_equal(both, IgnoreRegions.of([SQUARE]).mask((8, 8)) | IgnoreRegions.of([shifted]).mask((8, 8)))
    assert both.sum() == 24


@pytest.mark.parametrize(
    ("polygons", "size", "message"),
    [
        ([SQUARE, [[0, 0], [1, 1]]], None, "polygon 1 has 2 points; expected at least 3"),
        ([[[0, 0], [0.5, 0.5], [1, 1]]], None, "polygon 0: all its points lie on one line"),
        ([[[0, 0], [0.5, 0.5], [1, 1.2]]], None, r"point \(1, 1.2\) outside of the image. .* give size"),
        ([[[0, 0], [5, 5], [11, 3]]], (10, 20), r"point \(11, 3\) .* is 10 wide and 20 high"),
        ([[[0, 0], [-1, 5], [3, 3]]], (10, 20), "outside of the image"),
        ([SQUARE], (10, 20), "are shares of the image and not pixels; omit size"),
        ([[[0, 0, 1], [1, 1, 1], [0, 1, 1]]], None, r"expected points \[x, y\]"),
        ([[[0, 0], [1, math.nan], [0, 1]]], None, "finite numbers"),
        ([["a", "b", "c"]], None, r"polygon 0: expected points \[x, y\] in finite numbers"),
        ([SQUARE], (10, 0), "size = "),
        ([], None, "expected a list of polygons"),
        (7, None, "expected a list of polygons"),
    ],
)
def test_polygons_that_cannot_be_used_are_refused(polygons: object, size: tuple | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        IgnoreRegions.of({"polygons": polygons, "size": size})


# Masks --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(deadline=None)
@given(masks, st.integers(1, 3))
def test_masks_keep_their_pixels_and_scale_by_the_nearest(mask: np.ndarray, times: int) -> None:
    regions = saved_and_loaded(IgnoreRegions.of(mask))
    assert np.array_equal(regions.mask(mask.shape), mask)
    large = mask.repeat(times, 0).repeat(times, 1)
    assert np.array_equal(regions.mask(large.shape), large)
    assert np.array_equal(IgnoreRegions.of(large.astype(np.uint8) * 9).mask(large.shape), large)
    assert np.array_equal(IgnoreRegions.of(large).mask(mask.shape), mask)


def test_the_nearest_pixel_is_the_one_under_the_centre() -> None:
    for ignored, expected in {0: [0], 1: [], 2: [1], 3: [2], 4: [], 5: [3]}.items():
        mask = np.zeros((6, 6), dtype=bool)
        mask[0, ignored] = mask[0, 1] = True  # six columns onto four: centres at ¾, 2¼, 3¾, 5¼
        assert np.flatnonzero(IgnoreRegions.of(mask).mask((4, 4))[0]).tolist() == expected


def test_masks_of_other_proportions_are_refused() -> None:
    mask = np.zeros((100, 200), dtype=bool)
    mask[10:20] = True
    regions = IgnoreRegions.of(mask)
    for shape in ((200, 100), (100, 210), (95, 200)):
        with pytest.raises(DataError, match="the mask to ignore is 200 × 100 pixels"):
            regions.mask(shape)
    for shape in ((50, 100), (1000, 2000), (333, 667)):
        assert regions.mask(shape).mean() == pytest.approx(0.1, abs=0.01)
    rounded = np.zeros((67, 100), dtype=bool)  # 66.7 rows in truth
    rounded[:7] = True
    assert IgnoreRegions.of(rounded).mask((4033, 6049))[:400].all()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((3, 3), dtype=bool), "marks nothing"),
        (np.ones((3, 3), dtype=bool), "cover the whole image"),
        (np.zeros((0, 3), dtype=bool), "expected a list of polygons|expected a mask"),
        (np.zeros((3, 3)), "expected points"),
    ],
)
def test_masks_that_cannot_be_used_are_refused(mask: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        IgnoreRegions.of(mask)


# Grids --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(deadline=None)
@given(masks, st.integers(1, 12), st.integers(1, 12))
def test_grid_shares_are_areas(mask: np.ndarray, h: int, w: int) -> None:
    """Each cell's share by exact fractions of pixels."""
    height, width = mask.shape
    kept = []
    for i, j in np.ndindex(h, w):
        area = Fraction(0)
        for r, c in np.argwhere(~mask).tolist():
            tall = min(Fraction(r + 1), Fraction((i + 1) * height, h)) - max(Fraction(r), Fraction(i * height, h))
            wide = min(Fraction(c + 1), Fraction((j + 1) * width, w)) - max(Fraction(c), Fraction(j * width, w))
            area += max(tall, 0) * max(wide, 0)
        kept.append(float(area * h * w / (height * width)))
    regions = IgnoreRegions.of(mask)
    if not any(kept):
        with pytest.raises(DataError, match="leave nothing"):
            regions.grid(h, w)
        return
    grid = regions.grid(h, w)
    assert grid.shape == (h, w)
    assert grid.ravel() == pytest.approx(kept, abs=2e-6)
    assert np.array_equal(grid.ravel() == 0, np.array(kept) == 0)
    assert np.array_equal(grid.ravel() == 1, np.array(kept) == 1)


def test_grid_of_polygons() -> None:
    regions = IgnoreRegions.of([[[0, 0], [0.375, 0], [0.375, 1], [0, 1]]])
    assert regions.grid(2, 4).tolist() == [[0, 0.5, 1, 1]] * 2
    triangle = IgnoreRegions.of([[[0, 0], [1, 0], [0, 1]]])
    assert triangle.grid(1, 1)[0, 0] == pytest.approx(0.5, abs=1 / 32)
    assert triangle.grid(2, 2)[0, 0] == 0


# By condition, files ------------------------------------------------------------------------------------------------


def test_regions_by_product() -> None:
    mask = np.eye(4, dtype=bool)
    regions = saved_and_loaded(IgnoreRegions.of({"bottle": [SQUARE], "tile": mask, 3: [SQUARE]}))
    assert regions.column == "product"
    assert regions.mask((4, 4), "bottle").sum() == 4
    assert np.array_equal(regions.mask((4, 4), "tile"), mask)
    assert np.array_equal(regions.mask((4, 4), "3"), regions.mask((4, 4), "bottle"))
    assert not regions.mask((4, 4), "cable").any()
    assert (regions.grid(2, 3, "cable") == 1).all()
    with pytest.raises(DataError, match="depend on condition 'product', unknown for this image"):
        regions.mask((4, 4))


def test_the_condition_that_has_the_values_is_found() -> None:
    others = {"kind": ["A", "B", "B"], "line": ["A", "C", "B"]}
    schema = ConditionSchema.fit(others, 3)
    assert read_ignored({"A": [SQUARE], "C": [SQUARE]}, schema, schema.width).column == "line"
    with pytest.raises(SettingsError, match="conditions kind and line both have these values; name one of them 'prod"):
        read_ignored({"A": [SQUARE]}, schema, schema.width)
    schema = ConditionSchema.fit({**others, "product": ["bottle", "tile", "tile"]}, 3)
    assert read_ignored({"bottle": [SQUARE]}, schema, schema.width).column == "product"
    with pytest.raises(SettingsError, match=r"'product' has no value 'bottles'; did you mean 'bottle'\?"):
        read_ignored({"bottles": [SQUARE]}, schema, schema.width)
    with pytest.raises(SettingsError, match=r"given by value \(A\), and the model sees no condition"):
        read_ignored({"A": [SQUARE]}, schema, 0)


def test_the_same_regions_for_all() -> None:
    regions = IgnoreRegions.of([SQUARE])
    assert regions.column is None
    assert saved_and_loaded(regions).areas == regions.areas
    assert np.array_equal(regions.mask((4, 4)), regions.mask((4, 4), "any"))


def test_files(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[1:3, 2:5] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    (tmp_path / "b.json").write_text(json.dumps({"polygons": [[[4, 0], [8, 0], [8, 6], [4, 6]]], "size": [8, 6]}))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump([SQUARE]))
    everything = {"a": "masks/a.png", "b": "b.json", "c": "c.yaml", "d": [SQUARE]}
    (tmp_path / "all.yml").write_text(yaml.safe_dump(everything))

    right = np.arange(8) >= 4
    for given_ in (tmp_path / "all.yml", str(tmp_path / "all.yml")):
        regions = IgnoreRegions.of(given_)
        assert np.array_equal(regions.mask((6, 8), "a"), mask > 0)
        assert np.array_equal(regions.mask((6, 8), "b"), np.tile(right, (6, 1)))
        assert np.array_equal(regions.mask((6, 8), "c"), regions.mask((6, 8), "d"))
    assert np.array_equal(IgnoreRegions.of(tmp_path / "masks" / "a.png").mask((6, 8)), mask > 0)
    assert np.array_equal(IgnoreRegions.of(tmp_path / "b.json").mask((6, 8)), np.tile(right, (6, 1)))


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "nested.yaml").write_text(yaml.safe_dump({"a": {"b": [SQUARE]}}))
    (tmp_path / "empty.yaml").write_text("{}")
    (tmp_path / "text.yaml").write_text("nothing")
    Image.fromarray(np.full((3, 3), 40, dtype=np.uint8)).save(tmp_path / "dark.png")
    for name, message in {
        "broken.json": "neither JSON nor YAML",
        "nested.yaml": "expected a mask or polygons, got a mapping of 'b'",
        "empty.yaml": "the mapping is empty",
        "text.yaml": "nothing is neither a mask image nor polygons",
        "dark.png": "dark.png: has no pixel of value 0",
        "none.json": "ignore: .*none.json does not exist; expected a mask image",
        "none.png": "ignore: .*none.png does not exist; expected a mask image",
        "list.txt": "neither a mask image nor polygons",
    }.items():
        with pytest.raises(DataError, match=message):
            IgnoreRegions.of(tmp_path / name)


def test_something_must_be_left() -> None:
    whole = [[0, 0], [1, 0], [1, 1], [0, 1]]
    with pytest.raises(DataError, match="of 'a' cover the whole image"):
        IgnoreRegions.of({"a": [whole]})
    nearly = IgnoreRegions.of({"a": [[[0.01, 0.01], [1, 0], [1, 1], [0, 1]]]})
    with pytest.raises(DataError, match="of 'a' leave nothing of the image"):
        nearly.mask((2, 2), "a")
    with pytest.raises(DataError, match="leave nothing"):
        nearly.grid(1, 1, "a")
    assert nearly.mask((256, 256), "a").mean() < 1


def test_damaged_states_are_refused() -> None:
    regions = IgnoreRegions.of({"a": np.eye(5, dtype=bool), "b": [SQUARE]})
    tensors, metadata = regions.to_tensors(), regions.metadata()
    assert {k: v.nbytes for k, v in tensors.items()} == {"0": 4}
    with pytest.raises(ArtifactError, match="no '0' in the saved state"):
        IgnoreRegions.from_tensors({}, metadata)
    with pytest.raises(ArtifactError, match="for a mask of 5 × 5 pixels"):
        IgnoreRegions.from_tensors({"0": tensors["0"][:2]}, metadata)
    with pytest.raises(ArtifactError, match="no 'regions'"):
        IgnoreRegions.from_tensors(tensors, {"column": None})
    with pytest.raises(ArtifactError, match="damaged"):
        IgnoreRegions.from_tensors(tensors, {"column": None, "regions": [{"value": "", "polygons": [[[0, 0]]]}]})
