from __future__ import annotations

import hashlib
import itertools
import pickle

import numpy as np
import pytest

from benchmarks.generated_factors import factor_rows
from knowngood.config import PixelOptions
from knowngood.data import ImageSet, open_dataset
from knowngood.data.audit import audit
from knowngood.data.datasets.factors import FactorPixels, factor_codes, open_factors, render
from knowngood.data.datasets.sprites import sprite
from knowngood.errors import DataError, SettingsError
from knowngood.representations import Pixels, prepare_all

GRID, COUNT = (3, 6, 40, 32, 32), 3 * 6 * 40 * 32 * 32
SHAPES, SQUARE, ELLIPSE, HEART = ("square", "ellipse", "heart"), 11.3, (15.7, 7.8), 11.2
SCALES, ROTATIONS = np.linspace(0.5, 1, 6), np.linspace(0, 2 * np.pi, 40)
SOME = np.array([0, 1, 5000, 245_760, 500_001, COUNT - 1])


def drawn(shape=0, scale=5, rotation=0, x=16, y=16, size=64):
    return render(factor_rows([shape, scale, rotation, x, y]), size)[..., 0]


# What the renderer draws


@pytest.mark.parametrize(
    ("shape", "area"),
    [("square", 4 * SQUARE**2), ("ellipse", np.pi * ELLIPSE[0] * ELLIPSE[1]), ("heart", 3.661972 * HEART**2)],
)
def test_a_shape_has_the_area_of_its_inequality(shape, area):
    for scale in SCALES:
        found = np.mean([sprite(shape, scale, angle).sum() for angle in np.linspace(0, 1.5, 12)])
        assert found == pytest.approx(area * scale**2, rel=0.03)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_quarter_turn_turns_the_picture_clockwise(shape):
    for angle in (0.1, 0.7):
        turned = sprite(shape, 0.9, angle + np.pi / 2)
        assert np.array_equal(turned, np.rot90(sprite(shape, 0.9, angle), k=-1))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_larger_shape_covers_a_smaller_one_and_leaves_a_border(shape):
    for angle in ROTATIONS:
        nested = [sprite(shape, scale, angle) for scale in SCALES]
        for small, large in itertools.pairwise(nested):
            assert not (small & ~large).any()
            assert large.sum() > small.sum()
        offset = np.hypot(*np.indices((33, 33)) - 16)
        assert offset[nested[-1]].max() <= 16


def test_symmetries_of_the_shapes():
    square, ellipse, heart = (sprite(shape, 1, 0.0) for shape in SHAPES)
    assert np.array_equal(square, np.rot90(square))
    assert np.array_equal(ellipse, ellipse[::-1])
    assert ellipse.any(axis=0).sum() == 31
    assert ellipse.any(axis=1).sum() == 15
    assert np.array_equal(heart, heart[:, ::-1])
    assert heart[:16].sum() > heart[17:].sum()  # the point is below
    assert not np.array_equal(heart, heart[::-1])


def test_the_last_rotation_is_a_full_turn_and_all_others_differ():
    for shape in range(3):
        pictures = [drawn(shape, 5, rotation).tobytes() for rotation in range(40)]
        assert pictures[0] == pictures[39]
        assert len(set(pictures)) == 39


def test_a_step_in_x_or_y_moves_the_picture_one_pixel():
    start = drawn(2, 4, 7, x=10, y=10)
    assert np.array_equal(drawn(2, 4, 7, x=11, y=10), np.roll(start, 1, axis=1))
    assert np.array_equal(drawn(2, 4, 7, x=10, y=13), np.roll(start, 3, axis=0))
    for x, y in ((0, 0), (31, 31), (0, 31)):  # nothing is cut off at the edge
        assert drawn(2, 4, 7, x=x, y=y).sum() == start.sum()
    edges = drawn(0, 5, 5, x=0, y=31)
    assert edges.argmax(axis=1).max() > 0
    rows, columns = np.nonzero(drawn(x=0, y=31))
    assert (columns.min() + columns.max()) / 2 == 16
    assert (rows.min() + rows.max()) / 2 == 47


def test_pictures_are_black_and_white_and_smaller_ones_are_means():
    assert np.unique(render(SOME)).tolist() == [0, 255]
    full = render(SOME)[..., 0].astype(float)
    for size in (32, 16):
        k = 64 // size
        means = full.reshape(-1, size, k, size, k).mean(axis=(2, 4))
        small = render(SOME, size)
        assert small.shape == (6, size, size, 1)
        assert small.dtype == np.uint8
        assert np.abs(small[..., 0] - means).max() <= 0.5


def test_rendering_keeps_the_shape_of_the_numbers():
    assert render(SOME.reshape(3, 2), 16).shape == (3, 2, 16, 16, 1)
    assert np.array_equal(render(SOME.reshape(3, 2), 16).reshape(6, 16, 16, 1), render(SOME, 16))
    assert render(np.array([], dtype=int)).shape == (0, 64, 64, 1)


# Numbers and levels


def test_numbers_and_levels_are_inverse_and_y_is_fastest():
    rows = np.random.default_rng(0).integers(COUNT, size=500)
    codes = factor_codes(rows)
    assert (codes < GRID).all()
    assert np.array_equal(factor_rows(codes), rows)
    assert factor_codes([0, 1, 32, 1024, 40 * 1024, 6 * 40 * 1024]).tolist() == [
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0],
        [0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0],
    ]
    assert factor_codes(COUNT - 1).tolist() == [g - 1 for g in GRID]


def test_numbers_and_levels_off_the_grid_are_refused():
    with pytest.raises(DataError, match=f"expected integers 0 to {COUNT - 1}"):
        factor_codes([0, COUNT])
    with pytest.raises(DataError, match="numbers of images -1"):
        render([-1])
    with pytest.raises(DataError, match="levels of scale from 6 to 6; has 6"):
        factor_rows([0, 6, 0, 0, 0])
    with pytest.raises(DataError, match=r"levels of shape \(4,\)"):
        factor_rows([0, 0, 0, 0])
    with pytest.raises(SettingsError, match="size = 48"):
        FactorPixels(SOME, 48)


# The image set


@pytest.mark.slow
def test_the_whole_set_opens_by_name_and_is_drawn_when_read():
    images = open_dataset("factors")
    assert len(images) == COUNT
    assert images.name == "factors"
    assert images.variant is None
    assert set(images.conditions) == {"class", "scale", "rotation", "x", "y"}
    last = images[[COUNT - 1]]
    assert last.conditions["class"].tolist() == ["heart"]
    assert last.ids.tolist() == [str(COUNT - 1)]
    assert np.array_equal(last.read(0), render(COUNT - 1))
    assert last.conditions["rotation"][0] == pytest.approx(2 * np.pi)
    assert images.splits is not None
    assert len(pickle.dumps(images.pixels)) < COUNT * 8 + 1000  # numbers, no pictures


def test_parts_by_number():
    part, again, other = open_factors(50, seed=1), open_factors(50, seed=1), open_factors(50, seed=2)
    assert np.array_equal(part.pixels.rows, again.pixels.rows)
    assert not np.array_equal(part.pixels.rows, other.pixels.rows)
    assert len(set(part.ids)) == 50
    assert (np.diff(part.pixels.rows) > 0).all()
    with pytest.raises(DataError, match=f"the factor set has {COUNT:,} images"):
        open_factors(COUNT + 1)


def test_a_part_is_the_same_as_an_array_of_its_pictures():
    part = open_factors(20, size=16)
    array = ImageSet.from_arrays(render(part.pixels.rows, 16), conditions=part.conditions)
    assert part.fingerprint() == array.fingerprint()
    assert part[::-1].fingerprint() == array[::-1].fingerprint()
    assert np.array_equal(part.shapes(), array.shapes())
    assert part[[3, 1]][[1]].read(0).tobytes() == part.read(1).tobytes()


@pytest.mark.slow
def test_content_larger_than_a_chunk_is_hashed_in_order():
    pixels = open_factors(1500, size=16).pixels
    digest = hashlib.sha256()
    pixels.update(digest)
    plain = hashlib.sha256(b"|u1(16, 16, 1)" + render(pixels.rows, 16).tobytes())
    assert digest.hexdigest() == plain.hexdigest()
    assert [len(block) for block in pixels.chunks(700)] == [700, 700, 100]


def test_the_pipeline_takes_them_and_worker_processes_too():
    part = open_factors(12, size=32)
    pixels = Pixels.fit(part, PixelOptions())
    prepared = prepare_all(part, pixels)
    assert pixels.shape == (1, 32, 32)
    assert (pixels.low, pixels.high) == (0, 255)
    assert np.array_equal(prepared[:, 0], render(part.pixels.rows, 32)[..., 0])
    copy = pickle.loads(pickle.dumps(part.pixels))
    assert np.array_equal(copy.read(5), part.read(5))
    assert len(audit(part).images) == len(part)
